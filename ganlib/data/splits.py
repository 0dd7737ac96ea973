"""Train, val or test: as the source gives them, or by content, where equal pixels always fall into the same split, whatever their names or order.

Given means given: no image moves, not even one whose pixels are in two splits (the report counts those). What is missing is carved from train by
content.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ganlib.data.arrow import SPLITS
from ganlib.data.given import LOOKED_FOR, check_given


def content_digest(image: np.ndarray) -> bytes:
    """SHA-256 over the shape (three little-endian uint32) and the pixels, or other stored numbers, of [C, H, W]."""
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


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """How a data set is split.

    Attributes:
        given: images of each split that is taken as the source gives it; empty where all are split by content.
        val_fraction: of the images that are split by content, all or those of the given train split; 0 where val is given.
        test_fraction: the same for test.
    """

    given: Mapping[str, int]
    val_fraction: float
    test_fraction: float

    @property
    def carved(self) -> tuple[str, ...]:
        """Splits that are taken out of the given train split."""
        fractions = {"val": self.val_fraction, "test": self.test_fraction}
        return tuple(split for split, fraction in fractions.items() if self.given and fraction)

    def assign(self, heads: np.ndarray, given: np.ndarray) -> np.ndarray:
        """Split of each image: [n] int8 index into `SPLITS`.

        Args:
            heads: as for `assign`.
            given: [n] int8 index into `SPLITS`, -1 where the source does not say.
        """
        by_content = assign(heads, val_fraction=self.val_fraction, test_fraction=self.test_fraction)
        return np.where(given == SPLITS.index("train"), by_content, given).astype(np.int8) if self.given else by_content


def splitting(
    mode: Literal["auto", "given", "content"], given: Mapping[str | None, int], *, val_fraction: float, test_fraction: float, where: str
) -> Splitting:
    """What `data.splits` means for a source that gives its images these splits (None: images without one).

    Raises:
        ValueError: given splits are wanted and there are none, or they cannot be honoured.
    """
    named = {split: given[split] for split in SPLITS if given.get(split)}
    if mode == "given" and not named:
        raise ValueError(f"data.splits=given, but {where} has no given splits: {LOOKED_FOR}; set data.splits: content")
    if mode == "content" or not named:
        return Splitting(given={}, val_fraction=val_fraction, test_fraction=test_fraction)
    check_given(given, where=where)
    return Splitting(
        given=named, val_fraction=0.0 if "val" in named else val_fraction, test_fraction=0.0 if "test" in named else test_fraction
    )
