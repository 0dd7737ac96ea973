"""What it costs a training that its images are shards in a store: steps of one process, in turns with the same steps from one mapped file.

Shards in a folder; in a SeaweedFS on this machine, from the cache; in the same store, every row a range that is read ahead. Ratios are medians over
turns of (seconds with the file / seconds with the shards). The store shares this machine's cores with the training.

    PYTHONPATH=. python benchmarks/shard_reading.py --turns 8
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from ganlib.data.arrow import ArrowImages
from ganlib.data.shard_cache import FOLDER, GIGABYTES
from ganlib.data.shards import ShardWriter
from ganlib.training.loop import Running, TrainingSpec
from pipeline import preflight
from tests.object_store import object_store

ROOT = Path(__file__).resolve().parent.parent


def sharded(images: ArrowImages, path: Path, store: str, shard_mb: float) -> Path:
    with ShardWriter(path, fields=tuple(images.fields.values()), store=store, shard_bytes=int(shard_mb * 2**20)) as writer:
        for start in range(0, len(images), 1024):
            rows = {images.made.name: images.slice(start, start + 1024)}
            writer.append(rows if images.labels is None else rows | {"label": images.labels[start : start + 1024]})
    return path


def running(data: Path, folder: Path) -> Running:
    config = preflight.load()
    spec = TrainingSpec(data=str(data), folder=str(folder), model=config.model, task=config.task, optim=config.optim, train=config.train)
    return Running.start(spec)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "prepared" / "train.arrow")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="of a turn")
    parser.add_argument("--shard-mb", type=float, default=2.0, help="of a shard: small, so that a small data set has many")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, object_store() as server:
        folder = Path(scratch)
        os.environ.update(server.environment)
        os.environ[FOLDER] = str(folder / "cache")
        images = ArrowImages(args.data)
        stored = sharded(images, folder / "s3.shards.json", f"{server.uri}/images", args.shard_mb)
        near = sharded(images, folder / "folder.shards.json", str(folder / "store"), args.shard_mb)
        trainings = {"file": running(args.data, folder), "folder": running(near, folder), "cache": running(stored, folder)}
        os.environ[GIGABYTES] = "0"
        trainings["ranges"] = running(stored, folder)
        while trainings["cache"].batches.images.is_far:
            trainings["cache"].step()
            time.sleep(0.1)
        seconds: dict[str, list[float]] = {name: [] for name in trainings}
        for turn in range(args.turns + 1):
            for name, training in trainings.items():
                start = time.perf_counter()
                for _ in range(args.steps):
                    training.step()
                if turn:  # the first one warms up
                    seconds[name].append(time.perf_counter() - start)
        ratios = {
            name: round(statistics.median(a / b for a, b in zip(seconds["file"], values, strict=True)), 3)
            for name, values in seconds.items()
        }
        print(json.dumps({"over the file": ratios, "seconds a step": round(statistics.median(seconds["file"]) / args.steps, 4)}))


if __name__ == "__main__":
    main()
