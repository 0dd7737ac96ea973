"""Images a second through the prepare stage: many tiny PNGs, fewer large JPEGs (decoded in full, and shrunk by the decoder), on one
process and on two. Prints one JSON object.

    python benchmarks/prepare_throughput.py [--png 60000] [--jpeg 2000] [--seed 0]

The images are made here (smooth noise with fine grain, about as large as photographs) and removed afterwards. Packing the files (fetch)
is timed apart. The outputs of one and two processes are compared byte for byte.
"""

import argparse
import io
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ganlib.data.arrow import read_manifest
from ganlib.data.settings import DataConfig
from pipeline.stages.fetch import fetch
from pipeline.stages.prepare import prepare

NUM_FOLDERS = 10
NUM_CONTENTS = 40  # distinct large pictures; copies of one differ in their grain


def photo(size: int, rng: np.random.Generator) -> Image.Image:
    """RGB: smooth noise of several scales, and grain."""
    values = np.zeros((size, size, 3), np.float32)
    for cells, weight in ((4, 70.0), (16, 35.0), (64, 18.0)):
        grid = rng.normal(128, weight, (cells, cells, 3)).clip(0, 255).astype(np.uint8)
        values += (np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC), np.float32) - 128) / 1.5
    values += rng.normal(0, 4, values.shape).astype(np.float32)
    return Image.fromarray((values + 128).clip(0, 255).astype(np.uint8))


def write_pngs(folder: Path, count: int, rng: np.random.Generator) -> None:
    for number in range(count):
        grid = Image.fromarray(rng.integers(0, 256, (7, 7), np.uint8)).resize((28, 28), Image.Resampling.BICUBIC)
        grid.save(folder / f"{number % NUM_FOLDERS}" / f"{number:06d}.png")


def write_jpegs(folder: Path, count: int, rng: np.random.Generator) -> None:
    contents = [np.asarray(photo(1024, rng)) for _ in range(min(NUM_CONTENTS, count))]
    for number in range(count):
        picture = np.roll(contents[number % len(contents)], number * 37, axis=(0, 1))
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=90)
        (folder / f"{number % NUM_FOLDERS}" / f"{number:06d}.jpg").write_bytes(buffer.getvalue())


def measure(config: DataConfig, root: Path, count: int) -> dict[str, Any]:
    result: dict[str, Any] = {"images": count}
    digests = []
    for processes in (1, 2):
        start = time.perf_counter()
        prepare(config, root, processes=processes)
        result[f"images_per_second_{processes}"] = count / (time.perf_counter() - start)
        digests.append(read_manifest(root / "data" / "prepared").data_digest)
    result["ratio"] = result["images_per_second_2"] / result["images_per_second_1"]
    result["same_bytes"] = digests[0] == digests[1]
    return {key: round(value, 2) if isinstance(value, float) else value for key, value in result.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--png", type=int, default=60_000, help="28x28 grey PNGs")
    parser.add_argument("--jpeg", type=int, default=2_000, help="1024x1024 RGB JPEGs, prepared as 256x256")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    results: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "load_average": round(os.getloadavg()[0], 2)}
    kinds = (
        ("png_28", write_pngs, arguments.png, {"image_size": (28, 28), "channels": 1}, ("full",)),
        ("jpeg_1024", write_jpegs, arguments.jpeg, {"image_size": (256, 256), "channels": 3}, ("full", "shrink")),
    )
    for name, write, count, options, decodes in kinds:
        if count == 0:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "incoming"
            for label in range(NUM_FOLDERS):
                (folder / str(label)).mkdir(parents=True)
            write(folder, count, rng)
            config = DataConfig.model_validate({"source": "image_folder", "path": str(folder), **options})
            start = time.perf_counter()
            info = fetch(config, Path(temporary))
            results[name] = {"raw_bytes": info.size_bytes, "fetch_images_per_second": round(count / (time.perf_counter() - start), 2)}
            for decode in decodes:
                chosen = config.model_copy(update={"jpeg_decode": decode})
                results[name][decode] = measure(chosen, Path(temporary), count)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
