"""Images with a hole: what inpainting starts from."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ganlib.models import ImageSpec
from ganlib.transforms import KEY, TRANSFORMS, TransformConfig

Kind = Literal["box", "strokes"]
MAX_TRIES = 50  # of a mask whose area is to be within bounds; then it is a box, whose area can be chosen
MAX_VERTICES = 8  # of one stroke; lengths and widths below are shares of the image's shorter side
MAX_LENGTH, MIN_WIDTH, MAX_WIDTH = 0.4, 0.05, 0.2
MAX_TURN = 2 * math.pi / 5
MOST_ELONGATED = 2.0  # a box's sides, one over the other


class HolesConfig(TransformConfig):
    """Options of `holes`."""

    name: str = "holes"
    kinds: tuple[Kind, ...] = Field(
        default=("box", "strokes"), min_length=1, strict=False, description="each hole is one of these, all as likely"
    )
    min_share: float = Field(default=0.1, gt=0, lt=1, description="of the image's area that a hole has at least")
    max_share: float = Field(default=0.4, gt=0, lt=1, description="of the image's area that a hole has at most")


@TRANSFORMS.register("holes", paper="arXiv:1806.03589, algorithm 1")
@dataclass(frozen=True, kw_only=True)
class Holes:
    """The image with zeros (grey) in a hole, and one more channel that is 1 in the hole: a box or free-form strokes."""

    config: HolesConfig
    options: ClassVar[type[TransformConfig]] = HolesConfig
    draws: ClassVar[bool] = True

    @property
    def words(self) -> str:
        return "images that are 0 in a hole, and a last channel that is 1 in the hole and 0 elsewhere"

    def fed(self, image: ImageSpec) -> ImageSpec:
        low, high = self._bounds(image.size)
        if not _boxes(image.size, low, high):
            raise ValueError(
                f"{KEY}.min_share={self.config.min_share} and max_share={self.config.max_share} leave no box within "
                f"data.image_size={list(image.size)}; set them further apart"
            )
        return ImageSpec(channels=image.channels + 1, size=image.size)

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        height, width = images.shape[2:]
        masks = torch.from_numpy(np.stack([self.mask((height, width), rng) for _ in range(len(images))])[:, None]).to(images.device)
        return torch.cat([torch.where(masks, 0.0, images.float()), masks.float()], 1)

    def shown(self, fed: Tensor) -> Tensor:
        return fed[:, :-1]

    def plain(self, fed: Tensor) -> Tensor:
        """The hole filled with the mean colour of what is known, each channel by itself."""
        known, is_hole = fed[:, :-1], fed[:, -1:] > 0.5
        mean = known.sum((2, 3), keepdim=True) / (~is_hole).sum((2, 3), keepdim=True).clamp(min=1)
        return torch.where(is_hole, mean, known)

    def mask(self, size: tuple[int, int], rng: torch.Generator) -> np.ndarray:
        """One hole: [H, W] bool, True inside; its area is within the bounds."""
        low, high = self._bounds(size)
        draw = _Draws(rng)
        kind = self.config.kinds[draw.below(len(self.config.kinds))]
        if kind == "strokes":
            for _ in range(MAX_TRIES):
                found = _strokes(size, low, high, draw)
                if low <= found.sum() <= high:
                    return found
        return _box(size, low, high, draw)

    def _bounds(self, size: tuple[int, int]) -> tuple[int, int]:
        """Pixels that a hole has at least and at most."""
        area = size[0] * size[1]
        return math.ceil(self.config.min_share * area), math.floor(self.config.max_share * area)


class _Draws:
    """Uniform numbers from a torch generator, one at a time: drawn in blocks, because a call costs more than its numbers.

    What is left of the last block is thrown away, so the generator's state afterwards is a function of what was asked.
    """

    BLOCK = 64

    def __init__(self, rng: torch.Generator) -> None:
        self._rng = rng
        self._left: list[float] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        if not self._left:
            self._left = torch.rand(self.BLOCK, generator=self._rng, dtype=torch.float64).tolist()
        return low + self._left.pop() * (high - low)

    def below(self, count: int) -> int:
        """0 to count - 1."""
        return min(count - 1, int(self.uniform(0, count)))


def _boxes(size: tuple[int, int], low: int, high: int) -> list[tuple[int, int]]:
    """Heights and widths of all boxes within the image whose area is within the bounds, not too long; of any shape where there is no other."""
    all_sizes = [(h, w) for h in range(1, size[0] + 1) for w in range(-(-low // h), min(size[1], high // h) + 1)]
    compact = [(h, w) for h, w in all_sizes if max(h, w) <= MOST_ELONGATED * min(h, w)]
    return compact or all_sizes


def _box(size: tuple[int, int], low: int, high: int, draw: _Draws) -> np.ndarray:
    boxes = _boxes(size, low, high)
    height, width = boxes[draw.below(len(boxes))]
    top, left = draw.below(size[0] - height + 1), draw.below(size[1] - width + 1)
    mask = np.zeros(size, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def _strokes(size: tuple[int, int], low: int, high: int, draw: _Draws) -> np.ndarray:
    """Strokes of a brush until an area within the bounds, drawn evenly, is reached; the last one may go over it."""
    target = draw.uniform(low, high)
    mask = np.zeros(size, dtype=bool)
    while mask.sum() < target:
        mask |= _stroke(size, draw)
    return mask


def _stroke(size: tuple[int, int], draw: _Draws) -> np.ndarray:
    """One polygonal line that turns back and forth, with round ends and corners: pixels within half a brush of a segment."""
    side = min(size)
    y, x = draw.uniform(0, size[0]), draw.uniform(0, size[1])
    brush = max(1.0, side * draw.uniform(MIN_WIDTH, MAX_WIDTH))
    points = [(y, x)]
    for vertex in range(1 + draw.below(MAX_VERTICES)):
        angle = draw.uniform(0, MAX_TURN)
        angle = 2 * math.pi - angle if vertex % 2 == 0 else angle  # back and forth
        length = side * draw.uniform(0, MAX_LENGTH)
        y, x = y + length * math.cos(angle), x + length * math.sin(angle)
        points.append((y, x))
    corners = np.array(points)
    start, step = corners[:-1, :, None, None], (corners[1:] - corners[:-1])[:, :, None, None]
    pixels = np.stack(np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5, indexing="ij"))[None]
    along = ((pixels - start) * step).sum(1, keepdims=True) / np.maximum((step**2).sum(1, keepdims=True), 1e-12)
    distance = ((pixels - start - np.clip(along, 0, 1) * step) ** 2).sum(1)
    mask: np.ndarray = (distance <= (brush / 2) ** 2).any(0)
    flips = draw.uniform(), draw.uniform()
    mask = mask[::-1] if flips[0] < 0.5 else mask
    return mask[:, ::-1] if flips[1] < 0.5 else mask
