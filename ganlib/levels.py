"""The one rule between the 256 levels of images on disk and the numbers that networks see: level = (x + 1) * 127.5."""

from torch import Tensor


def to_unit(levels: Tensor) -> Tensor:
    """uint8, or levels in between as float32 in [0, 255] -> float32 in [-1, 1]."""
    return levels.float().div(127.5).sub_(1)


def to_levels(made: Tensor) -> Tensor:
    """Floats in [-1, 1] -> float32 levels, not rounded, cut to [0, 255]."""
    return ((made.float() + 1) * 127.5).clamp(0, 255)
