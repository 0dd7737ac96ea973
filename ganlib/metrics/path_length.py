"""How evenly images change along paths in a generator's latent space."""

import math

import numpy as np
from torch import Tensor

from ganlib.metrics import METRICS
from ganlib.metrics.interface import PathComparison
from ganlib.metrics.intervals import bootstrap_weights, normal
from ganlib.metrics.needs import Needs, Value, declares
from ganlib.metrics.settings import EvaluateConfig

TRIMMED_PERCENT = 1.0  # of the steps at either end, as the code released with the paper leaves them out

MEANING = "Squared speed at which features change along {}, over the whole path between two latents; detours and jumps are long."
VALUES = {
    "z": Value(key="path_length_z", title="Path length in z", meaning=MEANING.format("a path in z"), better="lower"),
    "w": Value(
        key="path_length_w",
        title="Path length in w",
        meaning=MEANING.format("a line in w"),
        better="lower",
        is_of_styles=True,
        is_headline=False,
    ),
    "w_end": Value(
        key="path_length_w_end",
        title="Path length in w, at the ends",
        meaning="The same at the beginning of each line alone, where latents are that are drawn.",
        better="lower",
        is_of_styles=True,
        is_headline=False,
    ),
}


@METRICS.register("path_length", paper="arXiv:1812.04948, section 4.1; arXiv:1912.04958, section 3")
@declares(Needs(generator=True, has_null=False, depth="middle", gives=tuple(VALUES.values())))
def path_length(data: PathComparison, config: EvaluateConfig) -> dict[str, float]:
    """Perceptual path length: the mean of |f(G(path(t + eps))) - f(G(path(t)))|^2 / eps^2, the lowest and the highest per cent left out.

    `path_length_z` is eq. 2 (great circles between normal latents), `path_length_w` eq. 3 (lines between styles), both with t uniform over
    the path; `path_length_w_end` takes t = 0, as StyleGAN2 does. f are features of the middle depth of the protocol's first extractor that
    sees steps below a grey level, and their distance is the plain squared one: published figures are of LPIPS, a weighted distance of VGG's
    layers, and none of these compares with them. Numbers of one extractor on one data set do. A generator that makes one image has 0, so
    it says nothing without the distances beside it. The interval is a bootstrap over the pairs of latents.
    """
    values: dict[str, float] = {}
    for name, (start, end) in data.steps.items():
        key = VALUES[name].key
        distance = (end.double() - start.double()).square().sum(dim=1) / data.epsilon**2  # [n]
        drawn = bootstrap_weights(len(distance), config.bootstrap, seed=config.seed, purpose="path length bootstrap").long()
        again = [trimmed_mean(distance.repeat_interleave(times)) for times in drawn]
        value = trimmed_mean(distance)
        low, high = normal(value, float(np.std(again, ddof=1)), low=0.0)
        values |= {key: value, f"{key}_low": low, f"{key}_high": high}
    return values


def trimmed_mean(distances: Tensor) -> float:
    """Mean of [n] float64 from the percentile TRIMMED_PERCENT, rounded down to an item, to that of its mirror image, rounded up (metrics/
    perceptual_path_length.py of the released code)."""
    x = distances.numpy()
    low = np.percentile(x, TRIMMED_PERCENT, method="lower")
    high = np.percentile(x, 100 - TRIMMED_PERCENT, method="higher")
    kept = x[(low <= x) & (x <= high)]
    return math.fsum(kept) / len(kept)
