"""Mirror images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ganlib.augment import AUGMENTATIONS


@AUGMENTATIONS.register("hflip")
@dataclass(frozen=True, kw_only=True)
class HorizontalFlip:
    """Each image mirrored left to right with probability p."""

    p: float = 0.5

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        is_flipped = torch.rand(len(images), generator=rng) < self.p
        return torch.where(is_flipped[:, None, None, None].to(images.device), images.flip(3), images)
