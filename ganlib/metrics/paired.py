"""How near the images that a task made of others are to those they should be, over held-out pairs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ganlib.metrics import METRICS
from ganlib.metrics.needs import Needs, Value, declares
from ganlib.metrics.pairs import feature_distance, psnr, ssim, with_interval
from ganlib.metrics.settings import EvaluateConfig

BATCH_IMAGES = 500  # pairs at a time, in double precision; each pair is its own, so this moves no number


@dataclass(frozen=True, kw_only=True)
class PairComparison:
    """What a metric of pairs looks at: row i of one is what row i of the other should be.

    Attributes:
        made, truth: [n, C, H, W] uint8.
        made_features, truth_features: [n, d] float32.
    """

    made: Tensor
    truth: Tensor
    made_features: Tensor
    truth_features: Tensor


GIVES = (
    Value(
        key="psnr",
        title="PSNR",
        meaning="Peak signal-to-noise ratio in decibels of what was made of held-out images against the images themselves.",
        better="higher",
        must_see=(),
    ),
    Value(
        key="ssim",
        title="SSIM",
        meaning="Structural similarity of what was made of held-out images and the images themselves; 1 where they are equal.",
        better="higher",
        ideal=1.0,
        must_see=(),
    ),
    Value(
        key="feature_distance",
        title="Distance of pairs",
        meaning="Distance in features from the image it should be; 1 is as far as another image.",
        better="lower",
        ideal=0.0,
        must_see=(),
    ),
)


@METRICS.register("pairs", paper="Wang et al. 2004, eq. 13 (SSIM)")
@declares(Needs(pairs=True, has_null=False, gives=GIVES))
def pairs(data: PairComparison, config: EvaluateConfig) -> dict[str, float]:
    """PSNR, SSIM and the distance in features from their truth of images that were made of others; for tasks that have such a product."""
    parts = list(zip(data.made.split(BATCH_IMAGES), data.truth.split(BATCH_IMAGES), strict=True))
    return {
        **with_interval("psnr", torch.cat([psnr(made, truth) for made, truth in parts])),
        **with_interval("ssim", torch.cat([ssim(made, truth) for made, truth in parts])),
        **with_interval("feature_distance", feature_distance(data.made_features, data.truth_features)),
    }
