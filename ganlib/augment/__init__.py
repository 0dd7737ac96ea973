"""Augmentations; a new one is a file here. They act in one of two places:

- `train.augment`: real images as they are loaded. It enlarges the data set, and the generator learns the augmented distribution.
- `task.augment`: all that the discriminator sees, real and generated, in its own update and in the generator's, which learns the data as they are
  (arXiv:2006.10738). These must be differentiable.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from ganlib.config import construct
from ganlib.registry import Registry
from ganlib.steering import Steered


class Augmentation(Protocol):
    """[N, C, H, W] float in [-1, 1] -> the same; every random number from `rng`."""

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor: ...


AUGMENTATIONS: Registry[Any] = Registry("augmentation", package="ganlib.augment")


def build(config: dict[str, dict[str, Any]], *, key: str = "train.augment") -> list[Augmentation]:
    """The augmentations at `key` of params.yaml, in their order; ValueError for unknown names or options, or in the wrong place."""
    built = [construct(AUGMENTATIONS.get(name, key=key), options or {}, key=f"{key}.{name}") for name, options in config.items()]
    for name, augmentation in zip(config, built, strict=True):
        if key == "train.augment" and isinstance(augmentation, Steered):
            raise ValueError(f"train.augment.{name} follows the training of a discriminator: it can stand in task.augment only")
    return built
