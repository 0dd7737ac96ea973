"""Mode collapse, seen through the extractor's classes."""

import numpy as np

from ganlib.metrics import METRICS
from ganlib.metrics.interface import Comparison
from ganlib.metrics.intervals import wilson
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


@METRICS.register("class_coverage")
@declares(Needs(classes=True, gives=GIVES))
def class_coverage(data: Comparison, config: EvaluateConfig) -> dict[str, float]:
    """Share of the classes that the fakes cover, and KL(fakes || held-out real) of their predicted classes in nats.

    Both sides are predicted by the extractor, so its mistakes cancel. Half an image is added to each class, which keeps the KL finite.
    A class without training images is none.
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
    k = len(known)
    real, fake = (class_shares(classes, data.num_classes)[known] for classes in (data.real_classes, data.fake_classes))
    present = real > 0
    p = (fake * len(data.fake_classes) + 0.5) / (len(data.fake_classes) + 0.5 * k)
    q = (real * len(data.real_classes) + 0.5) / (len(data.real_classes) + 0.5 * k)
    result = {
        "class_coverage": float((fake >= COVERED_SHARE * real)[present].mean()),
        "class_kl": float((p * np.log(p / q)).sum()),
        "smallest_class_share": float(fake[present].min()),
    }
    if data.fake_labels is not None:
        agreement = float((data.fake_labels == data.fake_classes).mean())
        low, high = wilson(agreement, len(data.fake_classes))
        result |= {"label_agreement": agreement, "label_agreement_low": low, "label_agreement_high": high}
    return result
