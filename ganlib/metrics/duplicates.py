"""Does the generator make the same image again? The nearest other sample, judged by the nearest other real image."""

import torch

from ganlib.metrics import METRICS
from ganlib.metrics.interface import Comparison
from ganlib.metrics.intervals import wilson
from ganlib.metrics.needs import Needs, Value, declares
from ganlib.metrics.neighbours import nearest_other
from ganlib.metrics.settings import EvaluateConfig
from ganlib.rng import keyed_rng

NEAR_QUANTILE = 0.01  # "too close" is what one real image in a hundred is, by chance
PAIR = 2  # images that are near each other come in twos at least: half as many are independent
MAX_IMAGES = 5_000  # a side: the nearest is the nearer, the more there are, so both have as many

SHARE = Value(
    key="duplicated_share",
    title="Repeated images",
    meaning="Generated images whose nearest other one is closer than 99 % of real images are to theirs.",
    better="target",
    ideal=NEAR_QUANTILE,
    must_see=("one_mode",),
    is_share=True,
)


@METRICS.register("duplicates")
@declares(Needs(reliable_real=100, gives=(SHARE,)))
def duplicates(data: Comparison, config: EvaluateConfig) -> dict[str, float]:
    """Share of fakes whose nearest other fake is closer than the nearest other real image of 99 % of the held-out ones; 0.01 is chance.

    As many of both sides, at most 5,000. What the extractor cannot tell apart counts as repeated, so bland images raise it too: look at the grid.
    """
    n = min(len(data.real), len(data.fake), MAX_IMAGES)
    real, fake = (
        nearest_other(features[torch.randperm(len(features), generator=keyed_rng(config.seed, f"duplicates {kind}"))[:n]])
        for kind, features in (("real", data.real), ("fake", data.fake))
    )
    threshold = torch.quantile(real, NEAR_QUANTILE)
    near = (fake < threshold) if threshold > 0 else (fake <= threshold)
    share = float(near.double().mean())
    low, high = wilson(share, n // PAIR)
    return {"duplicated_share": share, "duplicated_share_low": low, "duplicated_share_high": high}
