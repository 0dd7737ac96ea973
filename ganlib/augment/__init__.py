"""Augmentations; a new one is a file here. They act in one of two places:

- `train.augment`: real images as they are loaded. It enlarges the data set, and the generator learns the augmented distribution.
- `task.augment`: all that the discriminator sees, real and generated, in its own update and in the generator's, which learns the data as they are
  (arXiv:2006.10738). These must be differentiable.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from ganlib.registry import Registry
from ganlib.schedule import Scheduled
from ganlib.steering import Steered


class Augmentation(Protocol):
    """[N, C, H, W] float in [-1, 1] -> the same; every random number from `rng`."""

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor: ...


AUGMENTATIONS: Registry[Any] = Registry("augmentation", package="ganlib.augment")


def parse(config: dict[str, dict[str, Any]], *, key: str) -> dict[str, Scheduled[Augmentation]]:
    """The augmentations at `key` of params.yaml, in their order; ValueError for unknown names or options."""
    return {name: Scheduled.of(AUGMENTATIONS.get(name, key=key), values or {}, key=f"{key}.{name}") for name, values in config.items()}


def build(config: dict[str, dict[str, Any]]) -> list[Augmentation]:
    """Those of train.augment; ValueError as `parse`, and for what belongs in task.augment."""
    parsed = parse(config, key="train.augment")
    for name, part in parsed.items():
        if isinstance(part.start, Steered):
            raise ValueError(f"train.augment.{name} follows the training of a discriminator: it can stand in task.augment only")
        for place in part.schedules:
            raise ValueError(
                f"train.augment.{name}.{place} is a schedule, and what G is to learn must stay: it can stand in task.augment only"
            )
    return [part.start for part in parsed.values()]
