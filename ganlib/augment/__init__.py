"""Augmentations of real images as they are loaded; a new one is a file here.

These enlarge the data set (the generator learns the augmented distribution); augmentations that must reach generated images too are not these.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from ganlib.config import construct
from ganlib.registry import Registry


class Augmentation(Protocol):
    """[N, C, H, W] float in [-1, 1] -> the same; every random number from `rng`."""

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor: ...


AUGMENTATIONS: Registry[Any] = Registry("augmentation", package="ganlib.augment")


def build(config: dict[str, dict[str, Any]]) -> list[Augmentation]:
    """The augmentations of `train.augment`, in their order; ValueError for unknown names or options."""
    return [
        construct(AUGMENTATIONS.get(name, key="train.augment"), options or {}, key=f"train.augment.{name}")
        for name, options in config.items()
    ]
