"""Self-supervised features for data without labels."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ganlib.metrics import EXTRACTORS
from ganlib.metrics.interface import Images
from ganlib.metrics.settings import Depth
from ganlib.metrics.trunk import FEATURE_DIMS, Task, Trunk, describe, features, gather, measure_units, restore, share_correct, train
from ganlib.rng import keyed_rng

NUM_TURNS = 4
ACCURACY_SEED = 0  # of the turns that `accuracy` asks about


def turn(images: Tensor, turns: Tensor) -> Tensor:
    """Apply turn t in 0..3 to each image: [n, C, H, W], [n] int64 -> [n, C, H, W].

    Square images: rotation by t * 90 degrees, arXiv:1803.07728, section 2.2. Others would not fit any more, so they are mirrored:
    bit 0 of t upside down, bit 1 left to right.
    """
    height, width = images.shape[2:]
    result = images.clone()
    for t in range(1, NUM_TURNS):
        chosen = turns == t
        if height == width:
            result[chosen] = images[chosen].rot90(t, dims=(2, 3))
        else:
            result[chosen] = images[chosen].flip([dim for bit, dim in ((1, 2), (2, 3)) if t & bit])
    return result


def turning(images: Images, seed: int, purpose: str) -> Task:
    """The task: images turned at random, and how. One turn an image and visit; the paper shows all four, at four times the cost."""

    def draw(indices: np.ndarray, step: int) -> tuple[Tensor, Tensor]:
        turns = torch.randint(NUM_TURNS, (len(indices),), generator=keyed_rng(seed, purpose, step))
        return turn(gather(images, indices), turns), turns

    return draw


@EXTRACTORS.register("rotation", paper="arXiv:1803.07728, section 2")
@dataclass(frozen=True)
class Rotation:
    """Features of a small network that learned to tell how an image was turned; needs no labels."""

    trunk: Trunk
    name: ClassVar[str] = "rotation"
    depths: ClassVar[tuple[Depth, ...]] = ("middle", "last")
    feature_dims: ClassVar[dict[str, int]] = FEATURE_DIMS
    knows_classes: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = False
    takes_float: ClassVar[bool] = True

    @classmethod
    def fit(cls, images: Images, labels: np.ndarray | None, *, seed: int, epochs: float) -> Self:
        """Train on every image of `images`; `labels` are not looked at."""
        trunk = Trunk(images.shape, NUM_TURNS, seed=seed)
        train(trunk, turning(images, seed, "extractor turns"), num_images=len(images), seed=seed, epochs=epochs)
        return cls(measure_units(trunk, images, seed=seed))

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

    def accuracy(self, images: Images) -> float:
        return share_correct(self.trunk, turning(images, ACCURACY_SEED, "accuracy turns"), num_images=len(images))

    def chance(self, images: Images) -> float:
        return 1 / NUM_TURNS
