"""Rows that are no pictures: their numbers themselves as features."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ganlib.metrics import EXTRACTORS
from ganlib.metrics.interface import checked_images
from ganlib.metrics.pixel_features import Pixels


@EXTRACTORS.register("numbers")
@dataclass(frozen=True)
class Numbers(Pixels):
    """The stored numbers as they are, none left out: for points and other rows that mean something without an extractor."""

    name: ClassVar[str] = "numbers"

    @classmethod
    def restore(cls, description: dict[str, Any], weights: dict[str, Tensor]) -> Self:
        channels, height, width = description["image_shape"]
        return cls((channels, height, width))

    def description(self) -> dict[str, Any]:
        return {"image_shape": list(self.image_shape)}

    @torch.inference_mode()
    def features(self, images: Tensor) -> dict[str, Tensor]:
        return {"last": checked_images(images, self.image_shape, takes_float=True).float().flatten(1).clone()}
