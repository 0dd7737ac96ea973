"""The extractor that the data allow."""

from typing import ClassVar

import numpy as np

from ganlib.metrics import EXTRACTORS
from ganlib.metrics.classifier import Classifier
from ganlib.metrics.interface import Extractor, Images
from ganlib.metrics.rotation import Rotation
from ganlib.metrics.trunk import FEATURE_DIM


@EXTRACTORS.register("auto")
class Auto:
    """The classifier where the train split has two classes or more, else rotation; is stored under the name of what it was."""

    feature_dim: ClassVar[int] = FEATURE_DIM
    knows_classes: ClassVar[bool] = True  # where there are any
    needs_classes: ClassVar[bool] = False

    @classmethod
    def fit(cls, images: Images, labels: np.ndarray | None, *, seed: int, epochs: float) -> Extractor:
        has_classes = labels is not None and len(np.unique(labels)) > 1
        return (Classifier if has_classes else Rotation).fit(images, labels, seed=seed, epochs=epochs)
