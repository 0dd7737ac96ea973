"""Adaptive discriminator augmentation: as much of it as keeps D from knowing the real images by heart."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ganlib.augment import AUGMENTATIONS
from ganlib.augment.moves import per_image, take
from ganlib.scalars import SIGN_REAL


@AUGMENTATIONS.register("ada", paper="arXiv:2006.06676, section 3 and appendix B")
@dataclass(frozen=True, kw_only=True)
class Ada:
    """Flips, turns, moves, scales and colours, each with a probability p that follows D's overfitting; for `task.augment`.

    The distributions are the paper's. Its geometric transformations are sampled bilinearly here, without the wavelet filters that it has
    around them; turns by 90 degrees are for square images only; hue and saturation are for RGB, and alpha keeps its values.

    Args:
        p: where it starts; it moves within [0, max_p] (above 0.8 the augmentations leak into what G makes).
        target: of r = mean of sign(D(real)), over `interval_steps` steps; above it p rises, below it p falls.
        speed_images: p moves by 1 in so many real images.
        transforms: which groups.
        sign_sum, steps: of r since p last moved; they move by themselves.
    """

    p: float = 0.0
    target: float = 0.6
    speed_images: int = 500_000
    interval_steps: int = 4
    max_p: float = 0.8
    transforms: tuple[Literal["blit", "geometry", "color"], ...] = ("blit", "geometry", "color")
    sign_sum: float = 0.0
    steps: float = 0.0
    steered: ClassVar[tuple[str, ...]] = ("p", "sign_sum", "steps")
    watches: ClassVar[tuple[str, ...]] = (SIGN_REAL,)

    def adapt(self, means: Mapping[str, float], images: int) -> "Ada":
        sign_sum, steps = self.sign_sum + means[SIGN_REAL], self.steps + 1
        if steps < self.interval_steps:
            return replace(self, sign_sum=sign_sum, steps=steps)
        above = sign_sum / steps - self.target
        p = self.p + math.copysign(images * steps / self.speed_images, above) * (above != 0)
        return replace(self, p=min(self.max_p, max(0.0, p)), sign_sum=0.0, steps=0.0)

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        if not self.p:
            return images
        for name in self.transforms:
            images = getattr(self, f"_{name}")(images, rng)
        return images

    def _applied(self, values: Tensor, neutral: float, rng: torch.Generator, p: float | None = None) -> Tensor:
        """`values` [N], each with probability p, else `neutral`."""
        is_applied = torch.rand(len(values), generator=rng) < (self.p if p is None else p)
        return torch.where(is_applied, values, torch.full_like(values, neutral))

    def _blit(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Mirrored, turned by 90 degrees, moved by whole pixels up to an eighth: pixels keep their values, reflected ones come in."""
        n, _, height, width = images.shape
        is_flipped = self._applied((torch.rand(n, generator=rng) < 0.5).float(), 0.0, rng).bool()
        turns = self._applied(torch.randint(0, 4, (n,), generator=rng), 0, rng)
        places = []
        for side in (height, width):
            shift = self._applied(((torch.rand(n, generator=rng) * 2 - 1) * 0.125 * side).round(), 0.0, rng).long()
            places.append(_reflected(torch.arange(side) - shift[:, None], side).to(images.device))
        images = torch.where(per_image(is_flipped, images), images.flip(3), images)
        if height == width:
            upright, turns = images, per_image(turns, images)
            for k in (1, 2, 3):
                images = torch.where(turns == k, upright.rot90(k, (2, 3)), images)
        return take(images, *places)

    def _geometry(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Scaled, turned, stretched, turned again and moved, as one affine map; reflected pixels come in."""
        n, _, height, width = images.shape
        half = 1 - math.sqrt(1 - self.p)  # of two turns at least one happens with probability p
        scale = self._applied(torch.exp2(0.2 * torch.randn(n, generator=rng)), 1.0, rng)
        before = self._applied((torch.rand(n, generator=rng) * 2 - 1) * math.pi, 0.0, rng, half)
        stretch = self._applied(torch.exp2(0.2 * torch.randn(n, generator=rng)), 1.0, rng)
        after = self._applied((torch.rand(n, generator=rng) * 2 - 1) * math.pi, 0.0, rng, half)
        right, down = (self._applied(0.125 * torch.randn(n, generator=rng), 0.0, rng) for _ in range(2))
        is_moved = (scale != 1) | (before != 0) | (stretch != 1) | (after != 0) | (right != 0) | (down != 0)
        # output pixel -> input pixel, about the centre: the inverse maps in reverse order
        inverse = _turn(-before) @ torch.diag_embed(torch.stack([1 / stretch, stretch], 1)) @ _turn(-after) / scale[:, None, None]
        half_sides = torch.tensor([width / 2, height / 2])
        inverse = inverse * half_sides / half_sides[:, None]  # to coordinates where the image is [-1, 1] x [-1, 1]
        offset = -inverse @ (2 * torch.stack([right, down], 1))[:, :, None]
        grid = F.affine_grid(torch.cat([inverse, offset], 2).to(images), list(images.shape), align_corners=False)
        moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        return torch.where(per_image(is_moved, images), moved, images)

    def _color(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Brightness, contrast, inverted luma, hue and saturation: the colour split into grey and the rest, which turns about the grey axis."""
        n = len(images)
        brightness = self._applied(0.2 * torch.randn(n, generator=rng), 0.0, rng)
        contrast = self._applied(torch.exp2(0.5 * torch.randn(n, generator=rng)), 1.0, rng)
        luma = self._applied(1 - 2 * (torch.rand(n, generator=rng) < 0.5).float(), 1.0, rng)
        hue = self._applied((torch.rand(n, generator=rng) * 2 - 1) * math.pi, 0.0, rng)
        saturation = self._applied(torch.exp2(torch.randn(n, generator=rng)), 1.0, rng)
        is_changed = (brightness != 0) | (contrast != 1) | (luma != 1) | (hue != 0) | (saturation != 1)
        colors = recolor(images[:, :3], brightness=brightness, contrast=contrast, luma=luma, hue=hue, saturation=saturation)
        return torch.where(per_image(is_changed, images), torch.cat([colors, images[:, 3:]], 1), images)


def recolor(images: Tensor, *, brightness: Tensor, contrast: Tensor, luma: Tensor, hue: Tensor, saturation: Tensor) -> Tensor:
    """[N, 1 or 3, H, W]: (x + brightness) * contrast, its grey part times `luma`, the rest turned by `hue` and times `saturation`; each [N]."""
    grey = images.mean(1, keepdim=True)
    result = (grey + per_image(brightness, images)) * per_image(contrast * luma, images)
    if images.shape[1] == 1:
        return result
    rest = images - grey
    across = (rest.roll(1, 1) - rest.roll(-1, 1)) / math.sqrt(3)  # the vector product with (1, 1, 1) / sqrt(3)
    turned = rest * per_image(hue.cos(), images) + across * per_image(hue.sin(), images)
    return result + turned * per_image(contrast * saturation, images)


def _turn(angle: Tensor) -> Tensor:
    """Rotations [N, 2, 2] by [N]."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)


def _reflected(places: Tensor, side: int) -> Tensor:
    """Positions beyond an edge -> those as far inside it, the edge itself not doubled."""
    return (side - 1) - ((side - 1) - places.abs()).abs()
