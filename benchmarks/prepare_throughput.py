"""Images a second through the prepare stage: many tiny PNGs, fewer large JPEGs (decoded in full, and shrunk by the decoder), on one
process and on two. Prints one JSON object.

    python benchmarks/prepare_throughput.py [--png 60000] [--jpeg 2000] [--seed 0]
    python benchmarks/prepare_throughput.py --large [--scale 1.0] [--kinds png_28 jpeg_512] [--scratch DIR]

The images are made here (smooth noise with fine grain, about as large as photographs) and removed afterwards. Packing the files (fetch)
is timed apart. The outputs of one and two processes are compared byte for byte.

`--large`: 1,000,000 grey PNGs of 28x28, all different, and 100,000 JPEGs of 512x512 prepared as 128x128 (hard links to 400 of them, 14 GB of
disk with what becomes of them), times `--scale`. Fetch and prepare run in a process of their own each, and are looked at ten times a second: wall and
CPU seconds of it and its children, and the peak of their memory that is no page of a file (RssAnon), when a tenth, a third and all of the bytes were
written. Time is linear where `microseconds_of_cpu_an_image` stays, memory is flat where `peak_mb` does.
"""

import argparse
import io
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from ganlib.data.arrow import read_manifest
from ganlib.data.settings import DataConfig
from pipeline.stages.fetch import fetch
from pipeline.stages.prepare import prepare

NUM_FOLDERS = 10
SHARES = (0.1, 1 / 3, 1.0)
NUM_LINKED = 400  # distinct JPEGs of --large
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


def add_large_pngs(folder: Path, count: int, rng: np.random.Generator) -> None:
    """28x28 grey PNGs, 1,000 in a folder."""
    for number in range(count):
        if number % 1000 == 0:
            (folder / f"{number // 1000:04d}").mkdir()
        grid = Image.fromarray(rng.integers(0, 256, (7, 7), np.uint8)).resize((28, 28), Image.Resampling.BICUBIC)
        grid.save(folder / f"{number // 1000:04d}" / f"{number:07d}.png", compress_level=1)


def add_large_jpegs(folder: Path, count: int, rng: np.random.Generator) -> None:
    """512x512 RGB JPEGs, 1,000 in a folder; all are links to the first NUM_LINKED."""
    for number in range(count):
        if number % 1000 == 0:
            (folder / f"{number // 1000:04d}").mkdir()
        path = folder / f"{number // 1000:04d}" / f"{number:07d}.jpg"
        if number < NUM_LINKED:
            photo(512, rng).save(path, "JPEG", quality=90)
        else:
            os.link(folder / "0000" / f"{number % NUM_LINKED:07d}.jpg", path)


def anonymous_bytes(process: psutil.Process) -> int:
    """Memory of a process that is no page of a file."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def looked_at(process: psutil.Process, folder: Path) -> tuple[float, int, int]:
    """CPU seconds and memory of a process and all below it; bytes below `folder`."""
    seconds, memory = 0.0, 0
    for each in (process, *process.children(recursive=True)):
        with suppress(OSError, psutil.Error):
            seconds += sum(each.cpu_times()[:4])  # children that have ended too
            memory += anonymous_bytes(each)
    written = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            written += path.stat().st_size
    return seconds, memory, written


def watched(work: Callable[..., object], config: DataConfig, root: Path, *, images: int) -> dict[str, dict[str, float]]:
    """Run a stage in a process of its own, and say what it had taken at each of SHARES of what it writes below `root`/data."""
    have = sum(path.stat().st_size for path in (root / "data").rglob("*")) if (root / "data").exists() else 0
    start, seen = time.perf_counter(), list[tuple[float, float, int, int]]()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(config, root))
    process.start()
    watch = psutil.Process(process.pid)
    while process.is_alive():
        with suppress(OSError, psutil.Error):
            cpu, memory, written = looked_at(watch, root / "data")
            seen.append((time.perf_counter() - start, cpu, memory, written - have))
        process.join(0.1)
    if process.exitcode:
        raise SystemExit(f"{work.__name__} of {images:,} images ended with exit code {process.exitcode}")
    told, whole = {}, max(written for *_, written in seen)
    for share in SHARES:
        until = (
            next((at for at, (*_, written) in enumerate(seen) if written >= share * whole), len(seen) - 1) if share < 1 else len(seen) - 1
        )
        seconds, cpu = seen[until][:2]
        told[f"{round(share * images):,}"] = {
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu, 1),
            "microseconds_of_cpu_an_image": round(1e6 * cpu / (share * images), 1),
            "peak_mb": round(max(memory for _, _, memory, _ in seen[: until + 1]) / 2**20),
        }
    return told


LARGE: dict[str, tuple[Callable[[Path, int, np.random.Generator], None], int, dict[str, object]]] = {
    "png_28": (add_large_pngs, 1_000_000, {"image_size": (28, 28), "channels": 1}),
    "jpeg_512": (add_large_jpegs, 100_000, {"image_size": (128, 128), "channels": 3}),
}


def large(kinds: list[str], *, scale: float, seed: int, scratch: Path | None) -> dict[str, Any]:
    results: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "load_average": round(os.getloadavg()[0], 2)}
    for kind in kinds:
        add, most, options = LARGE[kind]
        results[kind], rng = {}, np.random.default_rng(seed)
        with tempfile.TemporaryDirectory(dir=scratch) as temporary:
            folder = Path(temporary) / "incoming"
            folder.mkdir()
            config = DataConfig.model_validate({"source": "image_folder", "path": str(folder), "classes": "none", **options})
            count = int(most * scale)
            add(folder, count, rng)
            for stage in (fetch, prepare):
                results[kind][stage.__name__] = watched(stage, config, Path(temporary), images=count)
                print(json.dumps({kind: {stage.__name__: results[kind][stage.__name__]}}), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--png", type=int, default=60_000, help="28x28 grey PNGs")
    parser.add_argument("--jpeg", type=int, default=2_000, help="1024x1024 RGB JPEGs, prepared as 256x256")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--large", action="store_true", help="many images: time and memory against their number")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of --large")
    parser.add_argument("--kinds", nargs="+", choices=list(LARGE), default=list(LARGE), help="of --large")
    parser.add_argument("--scratch", type=Path, default=None, help="of --large: a folder on a disk with 20 GB")
    arguments = parser.parse_args()
    if arguments.large:
        print(json.dumps(large(arguments.kinds, scale=arguments.scale, seed=arguments.seed, scratch=arguments.scratch), indent=2))
        return
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
