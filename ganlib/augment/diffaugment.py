"""DiffAugment: the same few transformations for all that D sees."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ganlib.augment import AUGMENTATIONS
from ganlib.augment.moves import draw_shifts, per_image, translate


@AUGMENTATIONS.register("diffaugment", paper="arXiv:2006.10738, section 3.2")
@dataclass(frozen=True, kw_only=True)
class DiffAugment:
    """Colour, translation and cutout of every image, one draw an image; for `task.augment`.

    Args:
        policy: which of them, in their order.
        translation: up to this share of the side, zeros come in.
        cutout: side of the square that is set to zero, as a share of the image's.
    """

    policy: tuple[Literal["color", "translation", "cutout"], ...] = ("color", "translation", "cutout")
    translation: float = 0.125
    cutout: float = 0.5

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        for name in self.policy:
            images = getattr(self, f"_{name}")(images, rng)
        return images

    def _color(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Brightness + U(-0.5, 0.5), saturation * U(0, 2), contrast * U(0.5, 1.5); alpha stays."""
        brightness, saturation, contrast = (per_image(draws, images) for draws in torch.rand(3, len(images), generator=rng))
        colors = images[:, :3] + (brightness - 0.5)
        grey = colors.mean(1, keepdim=True)
        colors = grey + (colors - grey) * (2 * saturation)
        mean = colors.mean((1, 2, 3), keepdim=True)
        return torch.cat([mean + (colors - mean) * (contrast + 0.5), images[:, 3:]], 1)

    def _translation(self, images: Tensor, rng: torch.Generator) -> Tensor:
        return translate(images, *draw_shifts(images, self.translation, rng))

    def _cutout(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """The square's centre is anywhere in the image, so a part of it may lie outside."""
        is_cut = torch.ones(len(images), 1, 1, 1, dtype=torch.bool)
        for axis in (2, 3):
            side = images.shape[axis]
            cut = int(side * self.cutout + 0.5)
            start = torch.randint(0, side + 1 - cut % 2, (len(images), 1), generator=rng) - cut // 2
            place = torch.arange(side)
            is_in = (place >= start) & (place < start + cut)  # [N, side]
            is_cut = is_cut & (is_in[:, None, :, None] if axis == 2 else is_in[:, None, None, :])
        return images * ~is_cut.to(images.device)
