"""Train, val or test by content: equal pixels always fall into the same split, whatever their names or their order."""

import hashlib

import numpy as np

from ganlib.data.arrow import SPLITS


def content_digest(image: np.ndarray) -> bytes:
    """SHA-256 over the shape (three little-endian uint32) and the pixels of a uint8 [C, H, W] image."""
    digest = hashlib.sha256(np.array(image.shape, "<u4").tobytes())
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def assign(heads: np.ndarray, *, val_fraction: float, test_fraction: float) -> np.ndarray:
    """Split of each image: [n] int8 index into `SPLITS`.

    Args:
        heads: [n] uint64, the first eight bytes of the content digests, big-endian; u = head / 2**64 is uniform in [0, 1).
    """
    u = heads.astype(np.float64) / 2.0**64
    train, val, test = (SPLITS.index(name) for name in ("train", "val", "test"))
    return np.where(u < test_fraction, test, np.where(u < test_fraction + val_fraction, val, train)).astype(np.int8)
