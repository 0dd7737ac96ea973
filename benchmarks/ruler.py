"""What every extractor and depth says about pictures that are wrong in a known way. Prints a table and whether the ruler keeps its promises.

    python benchmarks/ruler.py --source image_folder --path photos --channels 3 --size 32 [--images 2500] [--extractors auto rotation] [--seed 0]
    python benchmarks/ruler.py --source fashion-mnist [--also blobs=samples.npy]

The data are fetched and prepared in a temporary folder as the pipeline does it. `images` held-out pictures are set against as many others of the
test split, as they are and with a fault: shrunk 2 or 4 times and enlarged again (blur 2, blur 4), a Gaussian blur (its deviation in pixels), phases
scrambled as the calibration does it (one random field added to the phases of every channel, the mean kept), patches of a quarter of the side
shuffled, uniform noise; and against those in a file, [n, C, H, W] uint8. Distances and shares are those of the evaluate stage's metrics
(ganlib.metrics), intervals left out. For each depth it says which of the metrics read it, and whether what the ruler promises is so.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from ganlib.data.arrow import ArrowImages
from ganlib.data.settings import DataConfig
from ganlib.metrics import METRICS, choice, interface, needs
from ganlib.metrics.faults import altered
from ganlib.metrics.interface import ArrayImages, Comparison
from ganlib.metrics.settings import EvaluateConfig
from pipeline.stages.fetch import fetch
from pipeline.stages.prepare import prepare

MEASURED = ("fid", "kid", "prdc")
COLUMNS = ("fid", "kid", "precision", "recall", "density", "coverage")
# Each group is farther than the one before it.
ORDERS = tuple(
    (("other pictures",), (f"{blurred} 2",), (f"{blurred} 4",), ("blobs",), ("scrambled", "shuffled")) for blurred in ("blur", "Gaussian")
)
BAD = ("blur 4", "Gaussian 4", "blobs", "scrambled", "shuffled")  # whose precision is to be below a third of the pictures' own


def blur(images: np.ndarray, deviation_pixels: float, rng: np.random.Generator) -> np.ndarray:
    return _bytes(gaussian_filter(images.astype(np.float32), (0, 0, deviation_pixels, deviation_pixels), mode="nearest"))


def shrunk(images: np.ndarray, factor: int, rng: np.random.Generator) -> np.ndarray:
    small = F.avg_pool2d(torch.from_numpy(images).float(), factor)
    return _bytes(F.interpolate(small, images.shape[2:], mode="bilinear", align_corners=False).numpy())


def scrambled(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = torch.from_numpy(rng.normal(size=(len(images), 2, *images.shape[2:]))).float()
    return _bytes(altered.scrambled(torch.from_numpy(images).float(), noise, 1.0).numpy())


def shuffled(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n, c, height, width = images.shape
    h, w = height // 4, width // 4
    patches = images[:, :, : 4 * h, : 4 * w].reshape(n, c, 4, h, 4, w).transpose(0, 2, 4, 1, 3, 5).reshape(n, 16, c, h, w)
    moved = np.stack([each[rng.permutation(16)] for each in patches])
    result = images.copy()
    result[:, :, : 4 * h, : 4 * w] = moved.reshape(n, 4, 4, c, h, w).transpose(0, 3, 1, 4, 2, 5).reshape(n, c, 4 * h, 4 * w)
    return result


def noise(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, images.shape, dtype=np.uint8)


FAULTS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "other pictures": lambda images, rng: images,
    "blur 2": lambda images, rng: shrunk(images, 2, rng),
    "blur 4": lambda images, rng: shrunk(images, 4, rng),
    "Gaussian 1": lambda images, rng: blur(images, 1.0, rng),
    "Gaussian 2": lambda images, rng: blur(images, 2.0, rng),
    "Gaussian 4": lambda images, rng: blur(images, 4.0, rng),
    "scrambled": scrambled,
    "shuffled": shuffled,
    "noise": noise,
}


def _bytes(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


Rows = dict[str, dict[str, float]]  # pictures -> column -> value


def table(sets: dict[str, dict[str, torch.Tensor]], depth: str, config: EvaluateConfig) -> Rows:
    rows = {}
    for name in sets:
        if name == "real":
            continue
        data = Comparison(real=sets["real"][depth], fake=sets[name][depth], train=sets["real"][depth][:2])
        rows[name] = {key: value for metric in MEASURED for key, value in METRICS.get(metric)(data, config).items()}
    return rows


def printed(rows: Rows) -> str:
    lines = ["| pictures | " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    for name, values in rows.items():
        cells = [f"{values[key]:.4g}" if key in ("fid", "kid") else f"{values[key]:.3f}" for key in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdict(rows: Rows) -> list[str]:
    lines = []
    for wanted in ORDERS:
        order = [group for group in wanted if set(group) <= rows.keys()]
        for key in ("fid", "kid"):
            groups = [[rows[name][key] for name in group] for group in order]
            kept = all(max(low) < min(high) for low, high in pairwise(groups))
            lines.append(f"{key} orders {' < '.join(' and '.join(group) for group in order)}: {'yes' if kept else 'NO'}")
    limit = rows["other pictures"]["precision"] / 3
    bad = [name for name in BAD if name in rows]
    seen = [name for name in bad if rows[name]["precision"] < limit]
    lines.append(f"precision below a third of the pictures' own ({limit:.3f}): {', '.join(seen) or 'none'} of {', '.join(bad)}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="data.source")
    parser.add_argument("--path", default="data/incoming", help="data.path")
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--images", type=int, default=2500, help="on each side")
    parser.add_argument("--extractors", nargs="+", default=["auto"])
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME=FILE.npy", help="pictures of your own, a row each")
    parser.add_argument("--neighbours", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = EvaluateConfig(seed=args.seed, neighbours=args.neighbours, prdc_images=args.images, bootstrap=2)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        path = str(Path(args.path).resolve())
        data = DataConfig(source=args.source, path=path, image_size=(args.size, args.size), channels=args.channels)
        fetch(data, root)
        prepare(data, root)
        train, test = (ArrowImages(root / "data" / "prepared" / f"{split}.arrow") for split in ("train", "test"))
        order = np.random.default_rng(args.seed).permutation(len(test))
        n = min(args.images, len(test) // 2)
        real, other = test.gather(np.sort(order[:n])), test.gather(np.sort(order[n : 2 * n]))
        pictures = {"real": real, **{name: make(other, np.random.default_rng(args.seed)) for name, make in FAULTS.items()}}
        pictures |= {name: np.load(file)[:n] for name, _, file in (each.partition("=") for each in args.also)}
        num_classes = 0 if train.labels is None else len(np.unique(train.labels))
        reads = {name: needs.of(METRICS.get(name)).depth for name in MEASURED}
        for name in choice.resolved(args.extractors, channels=args.channels, num_classes=num_classes):
            cpu = time.process_time()
            extractor = choice.fit(name, train, seed=args.seed, epochs=3.0, root=Path.cwd())
            fitted = time.process_time()
            sets = {key: interface.extract(extractor, ArrayImages(images)) for key, images in pictures.items()}
            spent = time.process_time() - fitted
            count = sum(map(len, pictures.values()))
            print(f"\n## {choice.label(name)} {interface.sha256(extractor)[:12]}: fitted in {fitted - cpu:.1f} CPU seconds, ", end="")
            print(f"{count / spent:.0f} images a CPU second; accuracy {extractor.accuracy(test)}; {n} images a side, k = {args.neighbours}")
            for depth in extractor.depths:
                rows = table(sets, depth, config)
                by = [metric for metric, wanted in reads.items() if interface.depth_of(extractor, wanted) == depth]
                marks = f", read by {', '.join(by)}" if by else ""
                print(f"\n### {depth}: {sets['real'][depth].shape[1]} numbers{marks}\n\n{printed(rows)}")
                print("\n" + "\n".join(verdict(rows)), flush=True)


if __name__ == "__main__":
    main()
