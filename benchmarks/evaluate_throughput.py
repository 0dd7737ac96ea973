"""FID, KID and PRDC of the same features: ours, intervals included, against torchmetrics and a direct PRDC one after another. Prints one JSON object.

    python benchmarks/evaluate_throughput.py [--images 10000] [--dim 128] [--turns 1] [--ours]

Features are normal draws; the fake ones are moved a little. torchmetrics is given them through a module that looks them up, with its defaults (KID of
100 subsets of 1,000). The direct PRDC holds the three whole distance matrices, as the code of its authors does. Ours takes all images for KID
and PRDC too, and gives 95 % intervals (20 resamples). CPU seconds of this process with one thread, in turns; the numbers themselves are compared.
`--ours` leaves the others out, whose whole matrices of 50,000 images take 60 GB, adds memorisation, and tells the peak of this process's memory.
"""

import argparse
import json
import resource
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.metrics import pairwise_distances
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from ganlib.metrics import METRICS
from ganlib.metrics.interface import Comparison
from ganlib.metrics.settings import EvaluateConfig
from ganlib.rng import keyed_rng

BATCH_IMAGES = 500


class LookUp(nn.Module):
    """Features for torchmetrics: an image of three bytes is the number of its row."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features
        self.num_features = features.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        r, g, b = images.flatten(1).long().unbind(dim=1)
        return self.features[(r * 256 + g) * 256 + b]


def numbered(rows: range) -> Tensor:
    number = torch.arange(rows.start, rows.stop)
    return torch.stack([number // 65536, number // 256 % 256, number % 256], dim=1).to(torch.uint8)[:, :, None, None]


def torchmetrics_value(metric: Any, real: Tensor, fake: Tensor) -> float:
    for offset, count, is_real in ((0, len(real), True), (len(real), len(fake), False)):
        for start in range(offset, offset + count, BATCH_IMAGES):
            metric.update(numbered(range(start, min(start + BATCH_IMAGES, offset + count))), real=is_real)
    found = metric.compute()
    return float(found[0] if isinstance(found, tuple) else found)


def direct_prdc(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    """arXiv:1904.06991, eq. 1-2, and arXiv:2002.09797, eq. 3-4, as they are written."""
    real_radii, fake_radii = (np.partition(pairwise_distances(x), k, axis=1)[:, k] for x in (real, fake))
    distances = pairwise_distances(real, fake)
    inside = distances <= real_radii[:, None]
    return {
        "precision": float(inside.any(axis=0).mean()),
        "recall": float((distances <= fake_radii[None]).any(axis=1).mean()),
        "density": float(inside.sum(axis=0).mean() / k),
        "coverage": float((distances.min(axis=1) <= real_radii).mean()),
    }


def drawn(images: int, dim: int) -> tuple[Tensor, Tensor]:
    real, fake = (torch.randn(images, dim, generator=keyed_rng(0, name)) for name in ("real", "fake"))
    return real, 0.9 * fake + 0.2


def alone(images: int, dim: int) -> dict[str, Any]:
    """Ours alone, memorisation against as many training images included: CPU seconds and peak memory in MB, with and before it."""
    (real, fake), train = drawn(images, dim), torch.randn(images, dim, generator=keyed_rng(0, "train"))
    data, config = Comparison(real=real, fake=fake, train=train), EvaluateConfig(prdc_images=images)
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
    for name in ("fid", "kid", "prdc", "memorization"):
        start = time.process_time()
        METRICS.get(name)(data, config)
        seconds[name] = round(time.process_time() - start, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"images": images, "dim": dim, "cpu_seconds": seconds, "peak_mb": peak // 1024, "peak_mb_before": before // 1024}


def measure(images: int, dim: int, turns: int) -> dict[str, Any]:
    real, fake = drawn(images, dim)
    both = torch.cat([real, fake])
    data = Comparison(real=real, fake=fake, train=real[:2])
    config = EvaluateConfig(prdc_images=images)
    seconds: dict[str, float] = {}
    values: dict[str, Any] = {}

    def clocked(name: str, run: Callable[[], Any]) -> None:
        start = time.process_time()
        values[name] = run()
        seconds[name] = seconds.get(name, 0.0) + (time.process_time() - start) / turns

    def theirs(kind: type[Any], **options: Any) -> float:
        return torchmetrics_value(kind(feature=LookUp(both), **options), real, fake)

    for _ in range(turns):
        for name in ("fid", "kid", "prdc"):
            clocked(f"ours {name}", lambda name=name: METRICS.get(name)(data, config))
        clocked("torchmetrics fid", lambda: theirs(FrechetInceptionDistance, input_img_size=(3, 1, 1)))
        clocked("torchmetrics kid", lambda: theirs(KernelInceptionDistance))
        clocked("direct prdc", lambda: direct_prdc(real.double().numpy(), fake.double().numpy(), config.neighbours))
    ours = sum(value for name, value in seconds.items() if name.startswith("ours"))
    others = sum(seconds.values()) - ours
    gaps = {key: abs(values["ours prdc"][key] - value) for key, value in values["direct prdc"].items()}
    gaps |= {name: abs(values[f"ours {name}"][name] - values[f"torchmetrics {name}"]) for name in ("fid", "kid")}
    return {
        "images": images,
        "dim": dim,
        "cpu_seconds": {name: round(value, 2) for name, value in seconds.items()},
        "ours": round(ours, 2),
        "theirs": round(others, 2),
        "ratio": round(others / ours, 2),
        "differences": {name: float(f"{gap:.2g}") for name, gap in gaps.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--ours", action="store_true", help="leave the others out; with peak memory")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torchmetrics' own
    found = alone(args.images, args.dim) if args.ours else measure(args.images, args.dim, args.turns)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
