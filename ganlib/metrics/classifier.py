"""Features of a small classifier that learned the data's own classes."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ganlib.metrics import EXTRACTORS
from ganlib.metrics.interface import Images
from ganlib.metrics.settings import Depth
from ganlib.metrics.trunk import FEATURE_DIMS, Trunk, describe, features, gather, measure_units, restore, share_correct, train

INSTEAD = "use reference.extractor=rotation, which needs no labels (params.yaml: reference)"


@EXTRACTORS.register("classifier")
@dataclass(frozen=True)
class Classifier:
    """Penultimate features of a small convolutional classifier, trained on the labelled train split."""

    trunk: Trunk
    name: ClassVar[str] = "classifier"
    depths: ClassVar[tuple[Depth, ...]] = ("middle", "last")
    feature_dims: ClassVar[dict[str, int]] = FEATURE_DIMS
    knows_classes: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = True
    takes_float: ClassVar[bool] = True

    @classmethod
    def fit(cls, images: Images, labels: np.ndarray | None, *, seed: int, epochs: float) -> Self:
        """Train on every image of `images`; `labels` [N] int64 in [0, k).

        Raises:
            ValueError: no labels, or a single class.
        """
        if labels is None:
            raise ValueError(f"reference.extractor=classifier, but these images have no labels; {INSTEAD}")
        if len(present := np.unique(labels)) < 2:
            raise ValueError(f"reference.extractor=classifier needs at least 2 classes, the train split has {len(present)}; {INSTEAD}")
        if present[0] < 0 or len(labels) != len(images):
            raise ValueError(f"got {len(labels)} labels from {present[0]} for {len(images)} images, expected one each, from 0 up")
        targets = torch.from_numpy(np.array(labels, dtype=np.int64))
        trunk = Trunk(images.shape, int(present[-1]) + 1, seed=seed)
        train(trunk, lambda i, _: (gather(images, i), targets[i]), num_images=len(images), seed=seed, epochs=epochs)
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

    @torch.inference_mode()
    def class_logits(self, features: Tensor) -> Tensor | None:
        logits: Tensor = self.trunk.head(features).clone()
        return logits

    def accuracy(self, images: Images) -> float:
        labels = images.labels
        assert labels is not None, "a split without labels beside a train split with labels"
        targets = torch.from_numpy(np.array(labels, dtype=np.int64))
        return share_correct(self.trunk, lambda i, _: (gather(images, i), targets[i]), num_images=len(images))

    def chance(self, images: Images) -> float | None:
        if images.labels is None or not len(images.labels):
            return None
        return float(np.unique(images.labels, return_counts=True)[1].max() / len(images.labels))
