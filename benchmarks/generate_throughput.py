"""Images a second of `ganpipe generate` against its parts alone: latents, network, mark and PNG encoding in a bare loop. Prints one JSON object.

    python benchmarks/generate_throughput.py [--model FOLDER] [--size 28] [--channels 1] [--images 5000] [--turns 3] [--format parquet png webdataset]

Without a model: the default recipe's generator (of that size) as it is initialised, which costs what a trained one does. In turns, images made in one
thread, the median of each; CPU seconds, also those of the process that writes PNG files, beside wall seconds, because a shared machine has other
work. The figure is the export's images a second over the loop's. Files go where TMPDIR says: an ext4 without a journal, as some virtual machines
have it, takes up to 2 ms for a new file in the minutes after thousands were removed, whoever writes it.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ganlib import sampling
from ganlib.marks.settings import MarksConfig
from ganlib.models import ImageSpec, build_generator
from ganlib.models.settings import ModelConfig
from ganlib.products import Product
from ganlib.sample_settings import DrawConfig
from ganlib.samples import encode_png
from pipeline import generator
from pipeline.bulk import Bulk
from pipeline.generate import generate
from pipeline.generator import SAMPLE, TrainedGenerator
from pipeline.mark import PixelMark

BATCH_IMAGES = 250
MARK = PixelMark(strength=MarksConfig.model_validate({}).strength, key="benchmark")


def default(family: str = "dcgan", *, channels: int = 1, size: int = 28) -> TrainedGenerator:
    width = {"width": 32} if family == "dcgan" else {}
    model, image = ModelConfig(name=family, latent_dim=64, generator=width), ImageSpec(channels=channels, size=(size, size))
    network = build_generator(model, image, seed=0).eval()
    product = Product.read(SAMPLE, model, image)
    return TrainedGenerator(product=product, network=network, model=model, image=image, facts={"sha256": "0" * 64, "family": family})


def alone(trained: TrainedGenerator, count: int) -> None:
    for start in range(0, count, BATCH_IMAGES):
        inputs = trained.prior.seeded(1, range(start, min(start + BATCH_IMAGES, count)))
        for image in MARK.on(sampling.generate(trained.network, inputs, batch_images=BATCH_IMAGES)):
            encode_png(image)


def exported(trained: TrainedGenerator, count: int, form: str, out: Path) -> None:
    config = DrawConfig.model_validate({"num_images": count, "seed": 1, "batch_images": BATCH_IMAGES, "format": form})
    part = count - count % BATCH_IMAGES or BATCH_IMAGES
    generate(Bulk(trained=trained, config=config, out=str(out), part_images=part, mark=MARK))


def timed(run: Callable[[Path], None], out: Path) -> tuple[float, float]:
    """Wall and CPU seconds of what writes into the new folder `out`, which stays, so that the next turn is not slower."""
    wall, cpu = time.perf_counter(), sum(os.times()[:4])  # user and system, of this process and of those that have ended
    run(out)
    return time.perf_counter() - wall, sum(os.times()[:4]) - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--format", nargs="+", default=["parquet", "png", "webdataset"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    trained = default(channels=options.channels, size=options.size) if options.model is None else generator.load(options.model)
    runs: dict[str, Callable[[Path], None]] = {"alone": lambda _: alone(trained, options.images)}
    runs |= {form: (lambda out, form=form: exported(trained, options.images, form, out)) for form in options.format}
    alone(trained, BATCH_IMAGES)  # what is done once
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    with tempfile.TemporaryDirectory(prefix="generate-throughput-") as folder:
        for turn in range(options.turns):
            for name, run in runs.items():
                seconds[name].append(timed(run, Path(folder) / f"{name}-{turn}"))
    wall, cpu = ({name: statistics.median(turn[i] for turn in turns) for name, turns in seconds.items()} for i in (0, 1))
    print(
        json.dumps(
            {
                "images": options.images,
                "images_per_wall_second": {name: round(options.images / value) for name, value in wall.items()},
                "images_per_cpu_second": {name: round(options.images / value) for name, value in cpu.items()},
                "of_alone_by_wall": {name: round(wall["alone"] / wall[name], 3) for name in options.format},
                "of_alone_by_cpu": {name: round(cpu["alone"] / cpu[name], 3) for name in options.format},
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
