"""Kernel distance, arXiv:1801.01401: unlike FID its expectation does not depend on how many images there are."""

import torch
from torch import Tensor

from ganlib.metrics import METRICS
from ganlib.metrics.interface import Comparison
from ganlib.metrics.intervals import bootstrap_weights, normal
from ganlib.metrics.needs import Needs, Value, declares
from ganlib.metrics.settings import EvaluateConfig

CHUNK_ROWS = 256  # 20 MB of a kernel of 10,000 images
CACHED = 1 << 16  # numbers of a block that are worked on at a time, so that they come from memory once


def polynomial_kernel(x: Tensor, y: Tensor, place: Tensor) -> Tensor:
    """(x.y / d + 1)^3, arXiv:1801.01401, section 3; [n, d], [m, d] -> [n, m], at the beginning of `place` [n m or more]: a new block costs time."""
    kernel = torch.mm(x, y.T, out=place[: len(x) * len(y)].view(len(x), len(y)))
    for rows in kernel.split(max(1, CACHED // len(y))):
        rows.div_(x.shape[1]).add_(1)
        rows.mul_(rows.square())
    return kernel


def weighted_mmd(real: Tensor, fake: Tensor, weights: Tensor, *, chunk_rows: int = CHUNK_ROWS) -> Tensor:
    """Squared MMD of real [n, d] against fake [m, d], once for each row of weights [b, m], unbiased: arXiv:1801.01401, eq. 4 -> [b].

    A weight is how often a fake is present; a pair of an image with itself is never counted. Kernel blocks are computed once for all b, and of the
    symmetric kernels those on and above the diagonal alone.
    """
    n = len(real)
    most = max(n, len(fake))
    place = real.new_empty(min(chunk_rows, most) * most)
    real_real = torch.zeros((), dtype=torch.float64)
    for start in range(0, n, chunk_rows):
        real_real += _upper_block(real, start, chunk_rows, place).sum()
    real_real -= polynomial_kernel_with_self(real).sum()
    cross = torch.zeros(len(weights), dtype=torch.float64)
    fake_fake = torch.zeros(len(weights), dtype=torch.float64)
    for start, w in zip(range(0, len(fake), chunk_rows), weights.split(chunk_rows, dim=1), strict=True):
        cross += w @ polynomial_kernel(fake[start : start + chunk_rows], real, place).sum(dim=1)
        fake_fake += (w * (_upper_block(fake, start, chunk_rows, place) @ weights[:, start:].T).T).sum(dim=1)
    fake_fake -= weights.square() @ polynomial_kernel_with_self(fake)
    sums = weights.sum(dim=1)
    return real_real / (n * (n - 1)) + fake_fake / (sums.square() - weights.square().sum(dim=1)) - 2 * cross / (n * sums)


def _upper_block(x: Tensor, start: int, chunk_rows: int, place: Tensor) -> Tensor:
    """The kernel of rows `start` to `start + chunk_rows` of x with all rows from `start` on; what lies right of the diagonal block stands for two."""
    block = polynomial_kernel(x[start : start + chunk_rows], x[start:], place)
    block[:, chunk_rows:] *= 2
    return block


def polynomial_kernel_with_self(x: Tensor) -> Tensor:
    """The diagonal of `polynomial_kernel(x, x)`: [n, d] -> [n]."""
    return (x.square().sum(dim=1) / x.shape[1] + 1) ** 3


KID = Value(
    key="kid",
    title="KID",
    meaning="The same by another yardstick, which the number of images does not move.",
    better="lower",
    ideal=0.0,
    is_distance=True,
)


@METRICS.register("kid", paper="arXiv:1801.01401, eq. 4")
@declares(Needs(fake=10, gives=(KID,)))  # of fewer, a bootstrap may draw one image alone, of which there are no pairs
def kid(data: Comparison, config: EvaluateConfig) -> dict[str, float]:
    """Unbiased squared MMD with a cubic kernel over all held-out real and all fake features: 0 for equal distributions, may fall below.

    Computed over the full sets, not averaged over subsets, so no draw is involved; the interval is a bootstrap over the fakes.
    """
    resampled = bootstrap_weights(len(data.fake), config.bootstrap, seed=config.seed, purpose="kid bootstrap")
    weights = torch.cat([torch.ones(1, len(data.fake), dtype=torch.float64), resampled])
    values = weighted_mmd(data.real.double(), data.fake.double(), weights)
    data.resampled["kid"] = values[1:]
    low, high = normal(float(values[0]), float(values[1:].std()))
    return {"kid": float(values[0]), "kid_low": low, "kid_high": high}
