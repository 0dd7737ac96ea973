"""Which way each number of evaluation.json is better, and what it means."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Value:
    """One number that a metric gives."""

    key: str
    title: str
    meaning: str
    better: Literal["lower", "higher", "target"]
    ideal: float | None = None
    is_share: bool = False
    is_distance: bool = False
    is_conditional: bool = False


def _all() -> tuple[Value, ...]:
    return (
        Value(key="fid", title="FID", meaning="Distance of all generated from all real images: quality and variety in one.", better="lower", ideal=0, is_distance=True),
        Value(key="kid", title="KID", meaning="The same by another yardstick, which the number of images does not move.", better="lower", ideal=0, is_distance=True),
        Value(key="precision", title="Precision", meaning="Generated images that look like real ones.", better="higher", ideal=1, is_share=True),
        Value(key="recall", title="Recall", meaning="Real images the generator could have made: variety.", better="higher", ideal=1, is_share=True),
        Value(key="density", title="Density", meaning="How deep inside the real images the generated ones lie; may exceed 1.", better="target", ideal=1),
        Value(key="coverage", title="Coverage", meaning="Real images with a generated one in their neighbourhood.", better="higher", ideal=1, is_share=True),
        Value(key="memorized_share", title="Near copies", meaning="Generated images closer to a training image than 99 % of unseen real images are.", better="target", ideal=0.01, is_share=True),
        Value(key="class_coverage", title="Classes covered", meaning="Classes with at least a tenth of their real share.", better="higher", ideal=1, is_share=True),
        Value(key="label_agreement", title="Label agreement", meaning="Images recognised as the class that was asked for.", better="higher", ideal=1, is_share=True, is_conditional=True),
    )


def values() -> dict[str, Value]:
    """By key."""
    return {value.key: value for value in _all()}
