"""Precision, recall (arXiv:1904.06991), density and coverage (arXiv:2002.09797): fidelity and diversity apart."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ganlib.metrics import METRICS
from ganlib.metrics.interface import Comparison
from ganlib.metrics.intervals import bootstrap_weights, normal, wilson
from ganlib.metrics.needs import Needs, Value, declares
from ganlib.metrics.neighbours import CHUNK_ROWS, distance_chunks, kth_neighbour_distance
from ganlib.metrics.settings import EvaluateConfig
from ganlib.rng import keyed_rng


@dataclass(frozen=True, kw_only=True)
class Membership:
    """Who lies in whose neighbourhood; each measure is the mean of one of these."""

    fake_is_real: Tensor  # [m] bool: the fake lies in the ball of some real image           -> precision
    real_is_fake: Tensor  # [n] bool: the real image lies in the ball of some fake            -> recall
    fake_density: Tensor  # [m] float64: balls of real images around the fake, over k         -> density
    real_is_covered: Tensor  # [n] bool: the ball of the real image holds at least one fake   -> coverage

    @property
    def fakes(self) -> Tensor:
        """[2, m] float64: what precision and density are means of."""
        return torch.stack([self.fake_is_real.double(), self.fake_density])

    @property
    def reals(self) -> Tensor:
        """[2, n] float64: what recall and coverage are means of."""
        return torch.stack([self.real_is_fake.double(), self.real_is_covered.double()])


def membership(real: Tensor, fake: Tensor, k: int, *, chunk_rows: int = CHUNK_ROWS) -> Membership:
    """Balls reach to the k-th nearest neighbour of the same kind. real [n, d], fake [m, d], float64.

    Precision and recall: arXiv:1904.06991, eq. 1-2. Density and coverage: arXiv:2002.09797, eq. 3-4. A point on the rim is inside.

    Raises:
        ValueError: fewer than k + 1 images on a side.
    """
    real_radii = kth_neighbour_distance(real, k, chunk_rows=chunk_rows)
    fake_radii = kth_neighbour_distance(fake, k, chunk_rows=chunk_rows)
    real_is_fake, real_is_covered = np.empty(len(real), np.bool_), np.empty(len(real), np.bool_)
    balls, inside = np.zeros(len(fake), np.int64), torch.empty(min(chunk_rows, len(real)), len(fake), dtype=torch.bool)
    for start, squared in distance_chunks(real, fake, chunk_rows=chunk_rows):  # [rows of real, m]
        rows, found = slice(start, start + len(squared)), inside[: len(squared)]
        counted = found.numpy().view(np.uint8)  # torch takes thirty times as long to add booleans up, or to look for one that is true
        torch.le(squared, real_radii[rows, None], out=found)
        balls += counted.sum(axis=0, dtype=np.int32)
        real_is_covered[rows] = counted.max(axis=1)
        torch.le(squared, fake_radii, out=found)
        real_is_fake[rows] = counted.max(axis=1)
    return Membership(
        fake_is_real=torch.from_numpy(balls > 0),
        real_is_fake=torch.from_numpy(real_is_fake),
        fake_density=torch.from_numpy(balls / k),
        real_is_covered=torch.from_numpy(real_is_covered),
    )


GIVES = (
    Value(
        key="precision",
        title="Precision",
        meaning="Generated images that look like real ones.",
        better="higher",
        is_share=True,
        tells="fidelity",
    ),
    Value(
        key="recall",
        title="Recall",
        meaning="Real images the generator could have made: variety.",
        better="higher",
        is_share=True,
        tells="variety",
        must_see=("noise", "phase_scrambling", "one_mode"),
    ),
    Value(
        key="density",
        title="Density",
        meaning="How deep inside the real images the generated ones lie; may exceed 1.",
        better="target",
        ideal=1.0,
    ),
    Value(
        key="coverage",
        title="Coverage",
        meaning="Real images with a generated one in their neighbourhood.",
        better="higher",
        is_share=True,
        tells="variety",
        must_see=("noise", "phase_scrambling", "one_mode"),
    ),
)


@METRICS.register("prdc", paper="arXiv:1904.06991, eq. 1-2; arXiv:2002.09797, eq. 3-4")
@declares(Needs(above_neighbours=True, depth="middle", gives=GIVES, also_gives=("prdc_images",)))
def prdc(data: Comparison, config: EvaluateConfig) -> dict[str, float]:
    """Precision, recall, density and coverage of equally many real and fake images, at most `evaluate.prdc_images` each.

    Precision and density average over the fakes (are they real enough?), recall and coverage over the real images (are they all reached?);
    each interval is over the images averaged. Recall and density depend on the number of images, which is therefore part of the result.

    They read the extractor's middle: in the last layer what is bland lies among real images (photographs shrunk by 4: a precision of 0.93 there, 0.14
    here), as what it was trained to tell is gone from it.
    """
    n = min(len(data.real), len(data.fake), config.prdc_images)
    real, fake = (
        features[torch.randperm(len(features), generator=keyed_rng(config.seed, f"prdc {kind}"))[:n]].double()
        for kind, features in (("real", data.real), ("fake", data.fake))
    )
    found = membership(real, fake, config.neighbours)
    for names, of in ((("precision", "density"), found.fakes), (("recall", "coverage"), found.reals)):
        weights = bootstrap_weights(n, config.bootstrap, seed=config.seed, purpose=f"{names[0]} bootstrap")
        data.resampled.update(zip(names, of @ weights.T / n, strict=True))
    density = float(found.fake_density.mean())
    density_low, density_high = normal(density, float(found.fake_density.std()) / math.sqrt(n), low=0.0)
    result = {}
    for name, inside in (("precision", found.fake_is_real), ("recall", found.real_is_fake)):
        result[name] = float(inside.double().mean())
        result[f"{name}_low"], result[f"{name}_high"] = wilson(result[name], n)
    coverage = float(found.real_is_covered.double().mean())
    coverage_low, coverage_high = wilson(coverage, n)
    return result | {
        "density": density,
        "density_low": density_low,
        "density_high": density_high,
        "coverage": coverage,
        "coverage_low": coverage_low,
        "coverage_high": coverage_high,
        "prdc_images": float(n),
    }
