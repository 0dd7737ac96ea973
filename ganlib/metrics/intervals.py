"""95 % intervals of an estimate, and the weights of a bootstrap."""

import math
from collections.abc import Sequence

import torch
from scipy.stats import binom
from torch import Tensor

from ganlib.rng import keyed_rng

Z95 = 1.959963984540054  # the 97.5th percentile of N(0, 1)


def bootstrap_weights(n: int, resamples: int, *, seed: int, purpose: str) -> Tensor:
    """[resamples, n] float64: how often each of n items is drawn when n are drawn with replacement."""
    weights = torch.zeros(resamples, n, dtype=torch.float64)
    for row in range(resamples):
        drawn = torch.randint(n, (n,), generator=keyed_rng(seed, purpose, row))
        weights[row] = torch.bincount(drawn, minlength=n).double()
    return weights


def normal(value: float, standard_error: float, *, low: float = -math.inf, high: float = math.inf) -> tuple[float, float]:
    """value -+ 1.96 standard errors, cut to [low, high].

    Not the percentiles of a bootstrap: resampling repeats images, which raises FID, so those percentiles sit above the estimate.
    """
    return max(low, value - Z95 * standard_error), min(high, value + Z95 * standard_error)


def jackknife_error(without: Sequence[float]) -> float:
    """Standard error of an estimate, from its values with each of g equal groups of the sample left out (delete-a-group jackknife).

    Unlike a bootstrap it repeats no image.
    """
    g = len(without)
    mean = sum(without) / g
    return math.sqrt((g - 1) / g * sum((value - mean) ** 2 for value in without))


def median_ends(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median, from n independent draws: it holds whatever their distribution is.

    Order statistics: the k-th lowest and the k-th highest, where a binomial of n and 1/2 is below k less than once in 40 times (Conover,
    Practical Nonparametric Statistics, 1999, section 3.2). Of fewer than 6 draws the ends are the outermost, which hold it less often.
    """
    ordered = sorted(values)
    n = len(ordered)
    k = max(1, int(binom.ppf(0.025, n, 0.5)))
    return ordered[k - 1], ordered[n - k]


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of a share of n independent items; sensible at 0 and 1, where the normal one has no width."""
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))  # rounding puts the end at 1 an ulp below
