"""Instance noise: real and generated images made to overlap."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ganlib.augment import AUGMENTATIONS


@AUGMENTATIONS.register("instance_noise", paper="arXiv:1610.04490")
@dataclass(frozen=True, kw_only=True)
class InstanceNoise:
    """Normal noise on every image that D sees, falling linearly to none.

    Args:
        std: of the noise at the start, where images are in [-1, 1].
        anneal_images: real images until there is no noise.
        images_seen: so far; moves by itself.
    """

    std: float = 0.1
    anneal_images: int = 100_000
    images_seen: float = 0.0
    steered: ClassVar[tuple[str, ...]] = ("images_seen",)
    watches: ClassVar[tuple[str, ...]] = ()

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        std = self.std * max(0.0, 1 - self.images_seen / self.anneal_images)
        if not std:
            return images
        return images + std * torch.randn(images.shape, generator=rng).to(images)

    def adapt(self, means: Mapping[str, float], images: int) -> "InstanceNoise":
        return replace(self, images_seen=self.images_seen + images)
