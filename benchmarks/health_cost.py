"""What a measurement of the health costs, as a share of the training between two of them: CPU seconds, one process, one thread.

    python benchmarks/health_cost.py                         # params.yaml as it stands, on random images of its size
    python benchmarks/health_cost.py --recipe recipes/stylegan2.yaml

Prints one line: milliseconds of a measurement, seconds of the training's steps between two of them, and the share. The limit is 3 %.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from ganlib.data.arrow import ArrowWriter
from ganlib.storage import open_storage
from ganlib.training.health import HealthHook
from ganlib.training.journal import Background, Journal
from ganlib.training.loop import Running, TrainingSpec
from pipeline import edit, preflight

ROOT = Path(__file__).resolve().parent.parent
IMAGES = {"train": 2000, "val": 500}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, help="laid over params.yaml")
    parser.add_argument("--steps", type=int, default=16)
    args = parser.parse_args()
    values = edit.plain(ROOT / "params.yaml")
    if args.recipe is not None:
        edit.lay(values, edit.plain(args.recipe))
    config = preflight.parse(values)
    shape = (config.data.channels, *config.data.image_size)
    with tempfile.TemporaryDirectory() as scratch:
        for split, count in IMAGES.items():
            draw = np.random.default_rng(0)
            with ArrowWriter(Path(scratch) / f"{split}.arrow", shape=shape, class_names=["a", "b"]) as writer:
                writer.append(draw.integers(0, 256, (count, *shape), dtype=np.uint8), draw.integers(0, 2, count))
        data, held_out = (str(Path(scratch) / f"{split}.arrow") for split in IMAGES)
        sections = {"model": config.model, "task": config.task, "optim": config.optim, "train": config.train}
        running = Running.start(TrainingSpec(data=data, held_out=held_out, folder=scratch, **sections))
        background = Background()
        hook = HealthHook(
            config.train,
            play=lambda: running.play,
            train=running.batches.of(running.batches.images),
            held_out=running.held_out(),
            journal=Journal(open_storage(scratch), background),
        )
        running.step()
        start = time.process_time()
        for _ in range(args.steps):
            running.step()
        step = (time.process_time() - start) / args.steps
        times = []
        for _ in range(4):
            start = time.process_time()
            hook.measure(running.state)
            times.append(time.process_time() - start)
        background.close()
        measured = statistics.median(times[1:])
        between = step * config.train.health_interval_images / running.state.images_per_step
        print(f"{1000 * measured:.0f} ms a measurement, {between:.2f} s between two of them: {100 * measured / between:.2f} %")


if __name__ == "__main__":
    main()
