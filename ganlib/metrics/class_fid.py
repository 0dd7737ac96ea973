"""FID of each class by itself: one that is made badly disappears in the FID of all."""

import numpy as np
import torch
from torch import Tensor

from ganlib.metrics import METRICS
from ganlib.metrics.fid import frechet_distance, moments, square_root
from ganlib.metrics.interface import Comparison
from ganlib.metrics.intervals import bootstrap_weights, normal
from ganlib.metrics.needs import Needs, Value, declares
from ganlib.metrics.settings import EvaluateConfig

LEAST = 20  # images of a class on each side; below it a covariance says nothing

MEAN = Value(
    key="class_fid",
    title="FID of a class",
    meaning="Mean over the classes of the distance of generated from real images of that class.",
    better="lower",
    ideal=0.0,
    least=0.0,
    is_distance=True,
    is_headline=False,
)
WORST = Value(
    key="class_fid_worst",
    title="FID of the worst class",
    meaning="The largest of these distances.",
    better="lower",
    ideal=0.0,
    least=0.0,
    is_distance=True,
    is_headline=False,
)


@METRICS.register("class_fid", paper="arXiv:1706.08500, eq. 6, within a class")
@declares(Needs(classes=True, real=2 * LEAST, fake=2 * LEAST, gives=(MEAN, WORST), also_gives=("class_fid_classes",)))
def class_fid(data: Comparison, config: EvaluateConfig) -> dict[str, float]:
    """Mean and worst, over the classes with 20 images or more on both sides, of the FID within the class.

    Both sides are of the class that the extractor sees, so its mistakes cancel; the intervals are a bootstrap over the fakes. How many classes
    were compared is part of the result: one that is hardly generated is left out here and shows in class_coverage; where no class has enough
    images nothing is given. Few images of a class raise its distance, so compare with the null, which has fewer still.

    Raises:
        ValueError: the extractor knows no classes.
    """
    if data.real_classes is None or data.fake_classes is None:
        raise ValueError(
            "the metric class_fid needs an extractor that knows the classes: "
            "set reference.extractor=classifier, or leave the metric out (params.yaml: evaluate.metrics)"
        )
    real_classes, fake_classes = data.real_classes, data.fake_classes
    compared = [c for c in data.known_classes.tolist() if min((real_classes == c).sum(), (fake_classes == c).sum()) >= LEAST]
    if not compared:
        return {}
    means, spreads = [], []
    for c in compared:
        real, fake = (x[torch.from_numpy(classes == c)] for x, classes in ((data.real, real_classes), (data.fake, fake_classes)))
        value, resampled = _with_resamples(real, fake, config, purpose=f"class fid {c}")
        means.append(value)
        spreads.append(resampled)
    result: dict[str, float] = {}
    for told, reduce in ((MEAN, np.mean), (WORST, np.max)):
        centre, spread = float(reduce(means)), float(np.std(reduce(spreads, axis=0), ddof=1))
        low, high = normal(centre, spread, low=0.0)
        result |= {told.key: centre, f"{told.key}_low": low, f"{told.key}_high": high}
    return result | {"class_fid_classes": float(len(compared))}


def _with_resamples(real: Tensor, fake: Tensor, config: EvaluateConfig, *, purpose: str) -> tuple[float, list[float]]:
    yardstick = moments(real)
    weights = bootstrap_weights(len(fake), config.bootstrap, seed=config.seed, purpose=purpose)
    root = square_root(yardstick[1])
    return frechet_distance(yardstick, moments(fake), root=root), [
        frechet_distance(yardstick, moments(fake, w), root=root) for w in weights
    ]
