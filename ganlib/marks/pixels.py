"""The mark in the pixels, of a key (`embedding` says what is put there)."""

from functools import lru_cache

import numpy as np
from torch import Tensor

from ganlib.marks import embedding
from ganlib.marks.embedding import SMALLEST, patterns_of, seed_of
from ganlib.rng import keyed_rng


@lru_cache(maxsize=2)
def patterns(key: str) -> Tensor:
    """[PATTERNS, MOST, MOST] of a key."""
    return patterns_of(keyed_rng(seed_of(key), "mark"))


def embed(images: np.ndarray, *, key: str, strength: float) -> np.ndarray:
    """[N, C, H, W] uint8 -> the same, marked (`embedding.embed`).

    Raises:
        ValueError: images that are too small.
    """
    require_size(*images.shape[2:])
    return embedding.embed(images, patterns=patterns(key), strength=strength)


def require_size(height: int, width: int) -> None:
    """Raise ValueError where an image is too small to carry a mark."""
    if min(height, width) < SMALLEST:
        raise ValueError(f"images of {width}x{height} are too small for a mark in the pixels: expected {SMALLEST} pixels a side at least")
