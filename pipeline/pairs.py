"""What a trained generator makes of held-out images, beside these images: what metrics of pairs are shown."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ganlib.data.arrow import ArrowImages
from ganlib.metrics.interface import ArrayImages, Extractor, extract
from ganlib.metrics.paired import PairComparison
from ganlib.products import Rows, beside
from pipeline import generator

BATCH_IMAGES = 100  # part of the numerics
MAX_BYTES = 500_000_000  # of images in memory at once


def compared(
    folder: Path, extractor: Extractor, held_out: ArrowImages, indices: np.ndarray, *, seed: int, features: Tensor
) -> PairComparison | None:
    """What the first product with a truth makes of the held-out images that are compared with, as many as memory holds; None where there is none.

    Args:
        indices: [n] int64, those that are compared with.
        seed: of the samples.
        features: [n, d] of these images, of the extractor's depth "last".
    """
    found = next(((column, part) for product, column, part in generator.load(folder).of_images if product.has_truth), None)
    if found is None:
        return None
    column, part = found
    indices = indices[: max(BATCH_IMAGES, MAX_BYTES // math.prod(held_out.shape))]
    rows = Rows(column=column, images=held_out)
    batches = np.split(indices, range(BATCH_IMAGES, len(indices), BATCH_IMAGES))
    kinds = [beside(rows, part, seed, batch.tolist(), batch_images=BATCH_IMAGES) for batch in batches]
    made, truth = (np.concatenate([kind[name] for kind in kinds]) for name in ("made", "truth"))
    found_features = extract(extractor, ArrayImages(made))["last"]
    return PairComparison(
        made=torch.from_numpy(made), truth=torch.from_numpy(truth), made_features=found_features, truth_features=features[: len(made)]
    )
