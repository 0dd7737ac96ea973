"""Real images against each other: what a number is where there is no fault. A distance means something only beside it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats

from ganlib.metrics import needs
from ganlib.metrics.interface import Comparison, PixelComparison
from ganlib.metrics.settings import EvaluateConfig
from ganlib.rng import keyed_rng

COSTLY_DRAWS = 1
FEWEST_RESAMPLES = 2  # a draw's own interval is not looked at


def halves(n: int, draw: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint halves of 0..n-1 at random, each in order: [n // 2] int64 twice."""
    order = torch.randperm(n, generator=keyed_rng(seed, "null", draw)).numpy()
    return np.sort(order[: n // 2]), np.sort(order[n // 2 : n // 2 * 2])


def null(metric: Callable[..., dict[str, float]], data: Comparison | PixelComparison, config: EvaluateConfig) -> dict[str, dict[str, Any]]:
    """The values that a metric gives to random halves of the held-out images against each other, by key; empty where a half is too few for it.

    `low` and `high` hold the value of a further draw with 95 % (`spread`). They belong to `images` on a side: a value that falls with the number of
    images, as FID does, is lower for all of them than for halves. A costly metric has one draw, and the interval it gives itself.
    """
    need = needs.of(metric)
    images = data.num_real // 2
    draws = min(COSTLY_DRAWS, config.null_draws) if need.is_costly else config.null_draws
    if images < needs.least(need, config) or draws == 0 or not need.has_null:
        return {}
    fewer = config.model_copy(update={"bootstrap": FEWEST_RESAMPLES})
    found = [metric(data.parts(*halves(data.num_real, draw, seed=config.seed)), fewer) for draw in range(draws)]
    return {value.key: summary(value, found) | {"images": images} for value in need.gives if all(value.key in values for values in found)}


def summary(value: needs.Value, found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Mean of some draws, and the 95 % interval of a further one."""
    draws = [values[value.key] for values in found]
    mean = math.fsum(draws) / len(draws)
    if len(draws) == 1:
        low, high = found[0].get(f"{value.key}_low", mean), found[0].get(f"{value.key}_high", mean)
    else:
        half = spread(draws)
        low, high = mean - half, mean + half
    low, high = value.cut(low, high)
    return {"mean": mean, "low": low, "high": high, "draws": len(draws)}


def spread(draws: Sequence[float]) -> float:
    """Half the width of the 95 % prediction interval of one more draw from a normal distribution: t s sqrt(1 + 1 / n)."""
    n = len(draws)
    return float(stats.t.ppf(0.975, n - 1) * np.std(draws, ddof=1) * math.sqrt(1 + 1 / n))
