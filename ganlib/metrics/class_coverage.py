"""Mode collapse, seen through the extractor's classes."""

import math

import numpy as np
import torch

from ganlib.metrics import METRICS
from ganlib.metrics.interface import Comparison
from ganlib.metrics.intervals import bootstrap_weights, normal, wilson
from ganlib.metrics.needs import Needs, Value, declares
from ganlib.metrics.settings import EvaluateConfig

COVERED_SHARE = 0.1  # a class counts as covered when it has at least a tenth of its share of the real images


def class_shares(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """[n] int64 -> [num_classes] float64 that sum to 1."""
    return np.bincount(classes, minlength=num_classes) / len(classes)


GIVES = (
    Value(
        key="class_coverage",
        title="Classes covered",
        meaning="Classes with at least a tenth of their real share.",
        better="higher",
        tells="variety",
        must_see=("one_mode",),
        ideal=1.0,
        is_share=True,
    ),
    Value(
        key="class_kl",
        title="Distance of the classes",
        meaning="Divergence of the classes of the generated images from those of the real ones, in nats.",
        better="lower",
        ideal=0.0,
        least=0.0,
        is_distance=True,
        is_headline=False,
        must_see=("one_mode",),
    ),
    Value(
        key="smallest_class_share",
        title="Rarest class",
        meaning="Share of the class that is generated least often.",
        better="higher",
        is_share=True,
        is_headline=False,
        must_see=("one_mode",),
    ),
    Value(
        key="label_agreement",
        title="Label agreement",
        meaning="Images recognised as the class that was asked for.",
        better="higher",
        ideal=1.0,
        is_share=True,
        is_conditional=True,
    ),
)


def _of_shares(fake: np.ndarray, real: np.ndarray, *, n_fake: int, n_real: int) -> dict[str, float]:
    """From the shares [k] of the classes that count, on both sides, of so many images."""
    present, k = real > 0, len(real)
    p, q = (fake * n_fake + 0.5) / (n_fake + 0.5 * k), (real * n_real + 0.5) / (n_real + 0.5 * k)
    return {
        "class_coverage": float((fake >= COVERED_SHARE * real)[present].mean()),
        "class_kl": float((p * np.log(p / q)).sum()),
        "smallest_class_share": float(fake[present].min()),
    }


@METRICS.register("class_coverage")
@declares(Needs(classes=True, gives=GIVES))
def class_coverage(data: Comparison, config: EvaluateConfig) -> dict[str, float]:
    """Share of the classes that the fakes cover, and KL(fakes || held-out real) of their predicted classes in nats.

    Both sides are predicted by the extractor, so its mistakes cancel. Half an image is added to each class, which keeps the KL finite.
    A class without training images is none.
    The intervals are a bootstrap over the fakes.
    For a conditional generator `label_agreement` is the share of fakes that are predicted as the class they were asked to be.

    Raises:
        ValueError: the extractor knows no classes.
    """
    if data.real_classes is None or data.fake_classes is None:
        raise ValueError(
            "the metric class_coverage needs an extractor that knows the classes: "
            "set reference.extractor=classifier, or leave the metric out (params.yaml: evaluate.metrics)"
        )
    known = data.known_classes
    real, fake = (class_shares(classes, data.num_classes)[known] for classes in (data.real_classes, data.fake_classes))
    counted = torch.from_numpy(np.eye(data.num_classes)[data.fake_classes][:, known])  # [m, k] float64
    weights = bootstrap_weights(len(counted), config.bootstrap, seed=config.seed, purpose="classes bootstrap")
    result: dict[str, float] = {}
    found = _of_shares(fake, real, n_fake=len(data.fake_classes), n_real=len(data.real_classes))
    again = [
        _of_shares(shares, real, n_fake=len(data.fake_classes), n_real=len(data.real_classes))
        for shares in (weights @ counted / len(counted)).numpy()
    ]
    for key, value in found.items():
        spread = float(np.std([values[key] for values in again], ddof=1))
        low, high = normal(value, spread, low=0.0, high=math.inf if key == "class_kl" else 1.0)
        result |= {key: value, f"{key}_low": low, f"{key}_high": high}
    if data.fake_labels is not None:
        agreement = float((data.fake_labels == data.fake_classes).mean())
        low, high = wilson(agreement, len(data.fake_classes))
        result |= {"label_agreement": agreement, "label_agreement_low": low, "label_agreement_high": high}
    return result
