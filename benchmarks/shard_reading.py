"""What it costs a training that its images are shards in a store: steps of one process, in turns with the same steps from one mapped file.

Shards in a folder; in a SeaweedFS on this machine, from the cache; in the same store, every row a range that is read ahead. Ratios are medians over
turns of (seconds with the file / seconds with the shards). The store shares this machine's cores with the training: what it takes of them a step is
told, and what a step waits for its images, which is nothing where reading ahead is in time.

    PYTHONPATH=. python benchmarks/shard_reading.py --turns 8
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

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


class Waiting:
    """Gathers images in place of a training's own, and adds up how long that took."""

    def __init__(self, images: ArrowImages) -> None:
        self.seconds = 0.0
        self._gather = images.gather
        images.gather = self.gather  # type: ignore[method-assign]

    def gather(self, indices: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        found = self._gather(indices)
        self.seconds += time.perf_counter() - start
        return found


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


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
        waits = {name: Waiting(training.batches.images) for name, training in trainings.items()}
        of_store = dict.fromkeys(trainings, 0.0)
        for turn in range(args.turns + 1):
            for name, training in trainings.items():
                if turn == 1:
                    waits[name].seconds = 0.0
                start, before = time.perf_counter(), cpu_seconds(server.process.pid)
                for _ in range(args.steps):
                    training.step()
                if turn:  # the first one warms up
                    seconds[name].append(time.perf_counter() - start)
                    of_store[name] += cpu_seconds(server.process.pid) - before
        ratios = {
            name: round(statistics.median(a / b for a, b in zip(seconds["file"], values, strict=True)), 3)
            for name, values in seconds.items()
        }
        steps = args.turns * args.steps
        told = {
            "over the file": ratios,
            "milliseconds a step": round(1e3 * statistics.median(seconds["file"]) / args.steps, 1),
            "of which it waits for its images": {name: round(1e3 * wait.seconds / steps, 2) for name, wait in waits.items()},
            "CPU milliseconds of the store a step": {name: round(1e3 * taken / steps, 1) for name, taken in of_store.items()},
            "load": round(os.getloadavg()[0], 1),
        }
        print(json.dumps(told))


if __name__ == "__main__":
    main()
