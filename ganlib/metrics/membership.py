"""Do the generated images alone betray which images the generator was trained on?"""

import torch

from ganlib.metrics import METRICS
from ganlib.metrics.auc import auc
from ganlib.metrics.interface import Comparison
from ganlib.metrics.needs import Needs, Value, declares
from ganlib.metrics.neighbours import nearest
from ganlib.metrics.settings import EvaluateConfig
from ganlib.rng import keyed_rng

MAX_IMAGES = 5_000  # training and unseen ones each

AREA = Value(
    key="membership_black_box",
    title="Membership by distance",
    meaning="AUC of telling training from unseen images by how near the nearest generated image is; 0.5 betrays nothing, 1 everything.",
    better="target",
    ideal=0.5,
    must_see=("train_duplicates",),
)


@METRICS.register("membership", paper="arXiv:1909.03935")
@declares(Needs(training=True, reliable_real=100, gives=(AREA,)))
def membership(data: Comparison, config: EvaluateConfig) -> dict[str, float]:
    """AUC of the attack that calls an image a member the sooner, the nearer the nearest fake is to it; needs samples alone (black box).

    As many training as unseen images, at most 5,000 each; the interval is DeLong's over these images.
    """
    n = min(len(data.train), len(data.real), MAX_IMAGES)
    member, unseen = (
        -nearest(features[torch.randperm(len(features), generator=keyed_rng(config.seed, f"membership {kind}"))[:n]], data.fake)[0].numpy()
        for kind, features in (("train", data.train), ("real", data.real))
    )
    area, low, high = auc(member, unseen)
    return {"membership_black_box": area, "membership_black_box_low": low, "membership_black_box_high": high}
