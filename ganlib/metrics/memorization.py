"""Does the generator copy its training images? Distances of fakes to them, judged by those of real images it never saw."""

import math

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from ganlib.metrics import METRICS
from ganlib.metrics.auc import auc
from ganlib.metrics.interface import Comparison
from ganlib.metrics.intervals import median_ends, wilson
from ganlib.metrics.needs import Needs, Value, declares
from ganlib.metrics.settings import EvaluateConfig

NEAR_QUANTILE = 0.01  # "too close" is what one real image in a hundred is, by chance


def mann_whitney(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Pr(x > y) + Pr(x = y) / 2, and its z-score under "x and y have one distribution", for samples [n] and [m].

    U = n m Pr(x > y) has mean n m / 2 and variance n m (n + m + 1) / 12, less a correction for ties.
    """
    n, m = len(x), len(y)
    together = np.concatenate([x, y])
    u = rankdata(together)[:n].sum() - n * (n + 1) / 2
    _, counts = np.unique(together, return_counts=True)
    ties = float((counts.astype(np.float64) ** 3 - counts).sum()) / ((n + m) * (n + m - 1))
    sigma = math.sqrt(n * m / 12 * (n + m + 1 - ties))
    return float(u / (n * m)), float((u - n * m / 2) / sigma) if sigma > 0 else 0.0


def nearest_pairs(data: Comparison, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` fakes nearest to a training image, nearest first: indices of fakes, indices into `data.train`, distances."""
    distance, index = data.fake_to_train
    fakes = distance.argsort(stable=True)[:count]
    return fakes, index[fakes], distance[fakes]


GIVES = (
    Value(
        key="memorized_share",
        title="Near copies",
        meaning="Generated images closer to a training image than 99 % of unseen real images are.",
        better="target",
        ideal=NEAR_QUANTILE,
        tells="copies",
        must_see=("train_duplicates",),
        is_share=True,
    ),
    Value(
        key="copying_probability",
        title="Farther than unseen images",
        meaning="Probability that a generated image is farther from the training images than an unseen real one.",
        better="target",
        ideal=0.5,
        must_see=("train_duplicates",),
        is_headline=False,
    ),
    Value(
        key="copying_z",
        title="Data-copying statistic",
        meaning="The same as a z-score: very negative means copying.",
        better="target",
        ideal=0.0,
        must_see=("train_duplicates",),
        is_headline=False,
    ),
)


@METRICS.register("memorization", paper="arXiv:2004.05675, section 4")
@declares(
    Needs(
        training=True,
        reliable_real=round(1 / NEAR_QUANTILE),
        gives=GIVES,
        also_gives=("nearest_train_distance", "nearest_train_distance_real"),
    )
)
def memorization(data: Comparison, config: EvaluateConfig) -> dict[str, float]:
    """Share of fakes closer to a training image than 99 % of unseen real images are (0.01 is chance), and the data-copying statistic.

    `copying_probability` is Pr(a fake is farther from the training images than an unseen real image): 0.5 is neutral, below it fakes sit
    closer than real data would. `copying_z` is its z-score, the C_T of arXiv:2004.05675 with the feature space as its only cell: very
    negative means copying, but a generator that shows only typical images is also closer on average, so look at the pairs as well.
    """
    fake, real = data.fake_to_train[0], data.real_to_train[0]
    threshold = torch.quantile(real, NEAR_QUANTILE)
    share = float((fake < threshold).double().mean()) if threshold > 0 else float((fake <= threshold).double().mean())
    low, high = wilson(share, len(fake))
    probability, z = mann_whitney(fake.numpy(), real.numpy())
    _, *ends = auc(fake.numpy(), real.numpy())
    scale = z / (probability - 0.5) if probability != 0.5 else 0.0  # of the z-score, which is linear in the probability
    medians: dict[str, float] = {}
    for key, distances in (("nearest_train_distance", fake), ("nearest_train_distance_real", real)):
        ends_of = median_ends(distances.tolist())
        medians |= {key: float(distances.median()), f"{key}_low": ends_of[0], f"{key}_high": ends_of[1]}
    return {
        "memorized_share": share,
        "memorized_share_low": low,
        "memorized_share_high": high,
        "copying_probability": probability,
        "copying_probability_low": ends[0],
        "copying_probability_high": ends[1],
        "copying_z": z,
        "copying_z_low": scale * (ends[0] - 0.5),
        "copying_z_high": scale * (ends[1] - 0.5),
        **medians,
    }
