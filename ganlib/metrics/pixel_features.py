"""The picture itself as its features: the plainest yardstick."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganlib.metrics import EXTRACTORS
from ganlib.metrics.interface import Images, checked_images
from ganlib.metrics.settings import Depth

MAX_SIDE = 16  # larger pictures are shrunk to it, which bounds the number of features


@EXTRACTORS.register("pixels")
@dataclass(frozen=True)
class Pixels:
    """The pixels in [0, 1], shrunk to 16x16 at most: what is far apart here need not look it, and the other way round."""

    image_shape: tuple[int, int, int]
    name: ClassVar[str] = "pixels"
    depths: ClassVar[tuple[Depth, ...]] = ("last",)
    feature_dims: ClassVar[dict[str, int]] = {}  # as many as the data have pixels
    knows_classes: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = False
    takes_float: ClassVar[bool] = True

    @classmethod
    def fit(cls, images: Images, labels: np.ndarray | None, *, seed: int, epochs: float) -> Self:
        """Only the shape of `images` is looked at."""
        return cls(images.shape)

    @classmethod
    def restore(cls, description: dict[str, Any], weights: dict[str, Tensor]) -> Self:
        channels, height, width = description["image_shape"]
        return cls((channels, height, width))

    def description(self) -> dict[str, Any]:
        return {"image_shape": list(self.image_shape), "max_side": MAX_SIDE}

    def weights(self) -> dict[str, Tensor]:
        return {}

    def protocol(self) -> dict[str, Any]:
        return {}

    @torch.inference_mode()
    def features(self, images: Tensor) -> dict[str, Tensor]:
        x = checked_images(images, self.image_shape, takes_float=True).float() / 255
        height, width = (min(MAX_SIDE, size) for size in x.shape[2:])
        if (height, width) != tuple(x.shape[2:]):
            x = F.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)
        return {"last": x.flatten(1).clone()}

    def class_logits(self, features: Tensor) -> Tensor | None:
        return None

    def accuracy(self, images: Images) -> float | None:
        return None

    def chance(self, images: Images) -> float | None:
        return None
