"""Features of a network that learned nothing: what a distance sees without anybody's labels."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from ganlib.metrics import EXTRACTORS
from ganlib.metrics.interface import EXTRACT_BATCH_IMAGES, Images
from ganlib.metrics.settings import Depth
from ganlib.metrics.spread import MAX_IMAGES
from ganlib.metrics.trunk import FEATURE_DIMS, Trunk, describe, features, gather, measure_units, restore


@EXTRACTORS.register("random_conv", paper="arXiv:2002.09797, section 4 (random embeddings)")
@dataclass(frozen=True)
class RandomConv:
    """Features of the small network of `classifier` with its random initial weights; only batch norm's statistics are measured."""

    trunk: Trunk
    name: ClassVar[str] = "random_conv"
    depths: ClassVar[tuple[Depth, ...]] = ("middle", "last")
    feature_dims: ClassVar[dict[str, int]] = FEATURE_DIMS
    knows_classes: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = False
    takes_float: ClassVar[bool] = True

    @classmethod
    @torch.no_grad()
    def fit(cls, images: Images, labels: np.ndarray | None, *, seed: int, epochs: float) -> Self:
        """`seed` is of the weights; `labels` and `epochs` are not looked at."""
        trunk = Trunk(images.shape, 1, seed=seed).train()
        for module in trunk.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the plain mean over all batches
        seen = min(len(images), MAX_IMAGES)
        for start in range(0, seen, EXTRACT_BATCH_IMAGES):
            trunk(gather(images, np.linspace(0, len(images) - 1, seen).round().astype(np.int64)[start : start + EXTRACT_BATCH_IMAGES]))
        return cls(measure_units(trunk.eval(), images, seed=seed))

    @classmethod
    def restore(cls, description: dict[str, Any], weights: dict[str, Tensor]) -> Self:
        return cls(restore(description, weights))

    def description(self) -> dict[str, Any]:
        return describe(self.trunk)

    def weights(self) -> dict[str, Tensor]:
        return self.trunk.state_dict()

    def protocol(self) -> dict[str, Any]:
        return {}

    def features(self, images: Tensor) -> dict[str, Tensor]:
        return features(self.trunk, images)

    def class_logits(self, features: Tensor) -> Tensor | None:
        return None

    def accuracy(self, images: Images) -> float | None:
        return None

    def chance(self, images: Images) -> float | None:
        return None
