"""Frechet distance between Gaussians fitted to features; FID, arXiv:1706.08500, when they are Inception's."""

import torch
from torch import Tensor

from ganlib.metrics import METRICS
from ganlib.metrics.interface import Comparison
from ganlib.metrics.intervals import bootstrap_weights, normal
from ganlib.metrics.needs import Needs, Value, declares
from ganlib.metrics.settings import EvaluateConfig


def moments(features: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean [d] and unbiased covariance [d, d], float64, of features [n, d]; `weights` [n] count how often each row is present."""
    x = features.double()
    w = torch.ones(len(x), dtype=torch.float64) if weights is None else weights
    mean = w @ x / w.sum()
    x = x - mean
    return mean, (x * w[:, None]).T @ x / (w.sum() - 1)


def square_root(covariance: Tensor) -> Tensor:
    """The symmetric S^(1/2) [d, d] of a covariance [d, d], float64."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def frechet_distance(real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor], *, root: Tensor | None = None) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), arXiv:1706.08500, eq. 6.

    S1 S2 has the eigenvalues of the symmetric S1^(1/2) S2 S1^(1/2), so two symmetric eigenproblems replace a general matrix root:
    rank-deficient covariances (n < d) are no special case, and nothing turns complex.

    Args:
        root: S1^(1/2), where it is known: of many fakes against the same real images it is half the work.
    """
    (mean1, covariance1), (mean2, covariance2) = real, fake
    root = square_root(covariance1) if root is None else root
    trace_root = torch.linalg.eigvalsh(root @ covariance2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace() - 2 * trace_root
    return max(0.0, float(distance))


FID = Value(
    key="fid",
    title="FID",
    meaning="Distance of all generated from all real images: quality and variety in one.",
    better="lower",
    ideal=0.0,
    least=0.0,
    is_distance=True,
)


@METRICS.register("fid", paper="arXiv:1706.08500, eq. 6")
@declares(Needs(above_features=True, gives=(FID,)))
def fid(data: Comparison, config: EvaluateConfig) -> dict[str, float]:
    """Frechet distance of all held-out real and all fake features: fidelity and diversity in one number, lower is better.

    The interval covers the draw of the fakes only (bootstrap); the real images are the yardstick and stay.
    """
    real, fake = moments(data.real), data.fake.double()
    root = square_root(real[1])
    value = frechet_distance(real, moments(fake), root=root)
    weights = bootstrap_weights(len(data.fake), config.bootstrap, seed=config.seed, purpose="fid bootstrap")
    data.resampled["fid"] = torch.tensor([frechet_distance(real, moments(fake, w), root=root) for w in weights], dtype=torch.float64)
    low, high = normal(value, float(data.resampled["fid"].std()), low=0.0)
    return {"fid": value, "fid_low": low, "fid_high": high}
