"""Images of fewer pixels: what super-resolution starts from."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ganlib.levels import to_levels, to_unit
from ganlib.models import ImageSpec
from ganlib.transforms import KEY, TRANSFORMS, TransformConfig


class LowResolutionConfig(TransformConfig):
    """Options of `low_resolution`."""

    name: str = "low_resolution"
    factor: int = Field(default=4, ge=2, description="pixels of a side that become one")
    filter: Literal["area", "bicubic"] = Field(
        default="area", description="mean of factor x factor pixels, or cubic convolution as wide as the factor asks"
    )


@TRANSFORMS.register("low_resolution")
@dataclass(frozen=True, kw_only=True)
class LowResolution:
    """The image with `factor` times fewer rows and columns, in 8 bits a channel as a file of it would have."""

    config: LowResolutionConfig
    options: ClassVar[type[TransformConfig]] = LowResolutionConfig
    draws: ClassVar[bool] = False

    @property
    def words(self) -> str:
        return f"images of 1/{self.config.factor} of the rows and columns ({self.config.filter})"

    def fed(self, image: ImageSpec) -> ImageSpec:
        factor, (height, width) = self.config.factor, image.size
        if height % factor or width % factor:
            raise ValueError(f"{KEY}.factor={factor} does not divide data.image_size={list(image.size)}; set a divisor of both sides")
        return ImageSpec(channels=image.channels, size=(height // factor, width // factor))

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        factor, (height, width) = self.config.factor, images.shape[2:]
        if self.config.filter == "area":  # in integers: the mean is exact, halves are rounded up
            blocks = to_levels(images).round().long().unflatten(3, (width // factor, factor)).unflatten(2, (height // factor, factor))
            pixels = factor * factor
            return to_unit((2 * blocks.sum((3, 5)) + pixels).div(2 * pixels, rounding_mode="floor"))
        small = F.interpolate(images, (height // factor, width // factor), mode="bicubic", antialias=True, align_corners=False)
        return to_unit(to_levels(small).round())

    def shown(self, fed: Tensor) -> Tensor:
        return fed.repeat_interleave(self.config.factor, 2).repeat_interleave(self.config.factor, 3)

    def plain(self, fed: Tensor) -> Tensor:
        return bicubic(fed, self.config.factor)


def bicubic(images: Tensor, factor: int) -> Tensor:
    """[N, C, h, w] in [-1, 1] -> [N, C, factor h, factor w]: cubic convolution with a = -1/2 (Keys 1981), as image programs enlarge."""
    size = (
        images.shape[2] * factor,
        images.shape[3] * factor,
    )  # without `antialias`, torch's kernel has a = -3/4
    return F.interpolate(images.float(), size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
