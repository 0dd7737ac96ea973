"""Known faults, made from held-out real images in several strengths: what a ruler must see before it is used.

A fault either changes pixels (`Altered`) or picks among images as they are (`Picked`); both are made a few at a time, whatever their size. An image's
random numbers are its own and the same in every strength, so a stronger fault is the same fault, stronger.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from ganlib.metrics.interface import Images
from ganlib.registry import Registry
from ganlib.rng import keyed_rng

FAULTS: Registry[Any] = Registry("fault", package="ganlib.metrics.faults")
CHUNK_VALUES = 1 << 24  # numbers in the images that are changed at once

Change = Callable[[np.ndarray, list[torch.Generator]], np.ndarray]  # [n, C, H, W] uint8 and a generator for each -> the same shape, uint8


@dataclass(frozen=True, kw_only=True)
class Held:
    """What faults are made from.

    Attributes:
        images: real images that no generator was trained on.
        fake: [n] int64, those of them that stand where generated ones will.
        spare: [m] int64, further ones that stand on neither side.
        train: the images that generators are trained on.
        train_rows: [t] int64, those of them that distances are measured to.
        seed: of every draw.
    """

    images: Images
    fake: np.ndarray
    spare: np.ndarray
    train: Images
    train_rows: np.ndarray
    seed: int

    @property
    def side(self) -> int:
        """The shorter side of an image in pixels."""
        return min(self.images.shape[1:])

    @property
    def are_pictures(self) -> bool:
        """Of 8 bits: a fault in the pixels is one of pictures, of other data only which rows there are can be wrong."""
        return self.images.gather(self.fake[:1]).dtype == np.uint8

    @property
    def pool(self) -> np.ndarray:
        """[n + m] int64: whatever may stand on the side of the generated images; its own half first."""
        return np.concatenate([self.fake, self.spare])


@dataclass(frozen=True, kw_only=True)
class Altered:
    """`Images` whose pixels a fault has changed, made when they are asked for.

    Attributes:
        rows: [n] int64, of which images.
        purpose: of the random numbers of each.
    """

    images: Images
    rows: np.ndarray
    change: Change
    seed: int
    purpose: str

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.images.shape

    @property
    def labels(self) -> np.ndarray | None:
        labels = self.images.labels
        return None if labels is None else labels[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        rows = self.rows[indices]
        step = max(1, CHUNK_VALUES // int(np.prod(self.shape)))
        parts = [self._changed(rows[start : start + step]) for start in range(0, len(rows), step)]
        return np.concatenate(parts) if parts else np.empty((0, *self.shape), np.uint8)

    def _changed(self, rows: np.ndarray) -> np.ndarray:
        changed = self.change(self.images.gather(rows), [keyed_rng(self.seed, self.purpose, row) for row in rows.tolist()])
        assert changed.dtype == np.uint8, changed.dtype
        return changed


@dataclass(frozen=True, kw_only=True)
class Picked:
    """`Images` as they are: `rows` [a] of the held-out ones, then `train_rows` [b] of the training images."""

    images: Images
    rows: np.ndarray
    train: Images
    train_rows: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.images.shape

    @property
    def labels(self) -> np.ndarray | None:
        held_out, train = self.images.labels, self.train.labels
        return None if held_out is None or train is None else np.concatenate([held_out[self.rows], train[self.train_rows]])

    def __len__(self) -> int:
        return len(self.rows) + len(self.train_rows)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        is_train = indices >= len(self.rows)
        held_out = self.images.gather(self.rows[indices[~is_train]])
        result = np.empty((len(indices), *self.shape), held_out.dtype)
        result[~is_train] = held_out
        result[is_train] = self.train.gather(self.train_rows[indices[is_train] - len(self.rows)])
        return result


class Fault(Protocol):
    """A way in which generated images are known to be wrong; what most have in common is the default."""

    title: ClassVar[str]
    unit: ClassVar[str]  # of a strength
    none: ClassVar[float] = 0.0  # the strength that changes nothing
    picks: ClassVar[bool] = False  # it is in which images there are, not in any one of them
    counts: ClassVar[bool] = False  # a strength is a whole number: there is none between two
    steps: ClassVar[tuple[float, ...]] = ()  # the strengths, where they are the same for all images

    def strengths(self, held: Held) -> tuple[float, ...]:
        """From mild to strong; lengths in pixels grow with the images."""
        return self.steps

    def why_not(self, held: Held) -> str | None:
        """Why these images cannot have it; None where they can."""
        return None

    def make(self, held: Held, strength: float) -> Altered | Picked:
        """As many images as `held.fake` has, with the fault."""

    def words(self, strength: float) -> str:
        """The fault in this strength, as in "as far from real as ..."."""


def in_order() -> list[str]:
    """The names of all faults: those in the pixels first."""
    return sorted(FAULTS.names(), key=lambda name: FAULTS.get(name).picks)


def short(number: float) -> str:
    """Two figures at least, and never an exponent: 0.44, 1.3, 128."""
    return f"{number:.2g}" if abs(number) < 10 else f"{number:.0f}"
