"""Adaptive discriminator augmentation: as much of it as keeps D from knowing the real images by heart."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ganlib.augment import AUGMENTATIONS
from ganlib.augment.moves import per_image, take
from ganlib.scalars import SIGN_REAL

BANDS = 4  # of frequency
POWER = torch.tensor([10.0, 1.0, 1.0, 1.0]) / 13  # of natural images in each of them, low to high


@AUGMENTATIONS.register("ada", paper="arXiv:2006.06676, section 3 and appendix B")
@dataclass(frozen=True, kw_only=True)
class Ada:
    """Flips, turns, moves, scales and colours, each with a probability p that follows D's overfitting; for `task.augment`.

    The distributions are the paper's. Its geometric transformations are sampled bilinearly here; the released code samples at twice the size, between
    two filters of the sym6 wavelet, so that turned and shrunken images do not alias. Turns by 90 degrees are for square images only; hue and
    saturation are for RGB, and colours leave alpha as it is. "filter", "noise" and "cutout" are off by default, as in the released code.

    Args:
        p: where it starts; it moves within [0, max_p] (above 0.8 the augmentations leak into what G makes).
        target: of r = mean of sign(D(real)), over `interval_steps` steps; above it p rises, below it p falls.
        speed_images: p moves by 1 in so many real images.
        transforms: which groups, in their order.
        sign_sum, steps: of r since p last moved; they move by themselves.
    """

    p: float = 0.0
    target: float = 0.6
    speed_images: int = 500_000
    interval_steps: int = 4
    max_p: float = 0.8
    transforms: tuple[Literal["blit", "geometry", "color", "filter", "noise", "cutout"], ...] = ("blit", "geometry", "color")
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
        """`values` [N, ...] of images: each image's with probability p, else `neutral`."""
        is_applied = torch.rand(len(values), generator=rng) < (self.p if p is None else p)
        return torch.where(is_applied.reshape(-1, *[1] * (values.ndim - 1)), values, torch.full_like(values, neutral))

    def _blit(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Mirrored, turned by 90 degrees, moved by whole pixels up to an eighth: pixels keep their values, reflected ones come in."""
        n, _, height, width = images.shape
        is_flipped = self._applied((torch.rand(n, generator=rng) < 0.5).float(), 0.0, rng).bool()
        turns = self._applied(torch.randint(0, 4, (n,), generator=rng), 0, rng)
        shifts = self._applied((torch.rand(n, 2, generator=rng) * 2 - 1) * 0.125, 0.0, rng)  # [N, 2]: down and right, both or neither
        places = [
            mirrored(torch.arange(side) - (shift * side).round().long()[:, None], side).to(images.device)
            for side, shift in zip((height, width), shifts.unbind(1), strict=True)
        ]
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
        right, down = self._applied(0.125 * torch.randn(n, 2, generator=rng), 0.0, rng).unbind(1)  # both or neither
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

    def _filter(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Four bands of frequency amplified, each with probability p by a factor 2^N(0, 1), at the power that natural images have in all of them."""
        n = len(images)
        gains = torch.ones(n, BANDS)
        for band in range(BANDS):
            gain = torch.ones(n, BANDS)
            gain[:, band] = self._applied(torch.exp2(torch.randn(n, generator=rng)), 1.0, rng)
            gains = gains * gain / (POWER * gain.square()).sum(1, keepdim=True).sqrt()
        is_filtered = (gains - 1).abs().amax(1) > 1e-6
        down, across = ((gains @ band_matrices(side).flatten(1)).unflatten(1, (1, side, side)).to(images) for side in images.shape[2:])
        filtered: Tensor = down @ images @ across.mT
        return torch.where(per_image(is_filtered, images), filtered, images)

    def _noise(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Normal noise, its standard deviation |N(0, 0.1)|."""
        std = self._applied(0.1 * torch.randn(len(images), generator=rng).abs(), 0.0, rng)
        return images + per_image(std, images) * torch.randn(images.shape, generator=rng).to(images)

    def _cutout(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """A square of half the side set to zero; its centre is anywhere in the image, so a part of it may lie outside."""
        half = self._applied(torch.full((len(images),), 0.25), 0.0, rng)
        is_in = [
            ((torch.arange(side) + 0.5) / side - centre[:, None]).abs() < half[:, None]
            for side, centre in zip(images.shape[2:], torch.rand(2, len(images), generator=rng), strict=True)
        ]
        is_cut: Tensor = (is_in[0][:, None, :, None] & is_in[1][:, None, None, :]).to(images.device)
        return images * ~is_cut


@cache
def band_matrices(side: int) -> Tensor:
    """[bands, side, side]: each band's part of a line of pixels, low to high, reflected beyond its ends; together the identity.

    arXiv:2006.06676, appendix B: with the sym2 wavelet H and L(z) = H(z) H(1/z) / 2, L(z) + L(-z) = 1, the bands are L(z) L(z^2) L(z^4),
    L(z) L(z^2) L(-z^4), L(z) L(-z^2) and L(-z).
    """
    root = math.sqrt(3)
    wavelet = torch.tensor([1 + root, 3 + root, 3 - root, 1 - root], dtype=torch.float64) / (4 * math.sqrt(2))
    low = torch.stack([(wavelet[max(0, k) : 4 + k] * wavelet[max(0, -k) : 4 - k]).sum() for k in range(-3, 4)]) / 2  # L(z): taps -3 to 3
    high = low * torch.tensor([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0])  # L(-z)

    def step(taps: Tensor, spacing: int) -> Tensor:
        """The filter of `spacing` pixels between its taps, as a matrix."""
        matrix = torch.zeros(side, side, dtype=torch.float64)
        for offset, tap in zip(range(-3, 4), taps, strict=True):
            matrix[torch.arange(side), mirrored(torch.arange(side) + offset * spacing, side)] += tap
        return matrix

    lows, highs = ([step(taps, spacing) for spacing in (1, 2, 4)] for taps in (low, high))
    bands = [lows[2] @ lows[1] @ lows[0], highs[2] @ lows[1] @ lows[0], highs[1] @ lows[0], highs[0]]
    return torch.stack(bands).float()


def mirrored(places: Tensor, side: int) -> Tensor:
    """Positions however far beyond an edge -> those within, reflected at one edge after the other, the edges themselves not doubled."""
    around = places.remainder(2 * (side - 1))
    return torch.minimum(around, 2 * (side - 1) - around)


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
