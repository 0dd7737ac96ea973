"""Kinds of data that can be learnt to be made: what of them is stored, what networks see of it, and how a person looks at it. One file each.

How rows become what is stored as they arrive is the business of `ganlib.data.decoders`: a training is named by the code it can run, and must not
begin anew because files are read in another way. A modality without a decoder of its own has rows that arrive as numbers.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from ganlib.registry import Registry


class Modality(Protocol):
    """What a modality's file registers in `MODALITIES`: a class that is made without arguments.

    Attributes:
        dtype: of what is stored, numpy's name.
        stored_range: of the stored numbers; networks see it as [-1, 1].
        least_shown: rows that a preview needs for a look at the distribution; 1 where each row is something to look at.
    """

    dtype: ClassVar[str]
    stored_range: ClassVar[tuple[float, float]]
    least_shown: ClassVar[int]

    def to_tensor(self, values: np.ndarray) -> Tensor:
        """Stored rows [N, C, H, W] -> float32 in [-1, 1], on the CPU."""

    def from_tensor(self, made: Tensor) -> np.ndarray:
        """The inverse, of what a network made, on any device: cut to the range, rounded where the stored numbers are whole."""

    def preview(self, values: np.ndarray, *, columns: int, description: Mapping[str, str]) -> bytes:
        """A PNG of stored rows [N, C, H, W] that says that they are synthetic.

        Args:
            columns: where the rows are laid out side by side, so many in a line.
            description: written as PNG text beside that notice: model, commit, seed.
        """


MODALITIES: Registry[Callable[[], Modality]] = Registry("modality", package="ganlib.modalities")


def of(kind: str) -> Modality:
    """The modality of that name.

    Raises:
        ValueError: no such modality; names the legal ones.
    """
    return MODALITIES.get(kind, key="data.modality")()


class Numbers:
    """The part of a modality whose rows are stored as networks see them: float32 in [-1, 1] (`data.value_range` says what that was)."""

    dtype: ClassVar[str] = "float32"
    stored_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def to_tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values)

    def from_tensor(self, made: Tensor) -> np.ndarray:
        array: np.ndarray = made.float().clamp(-1, 1).cpu().numpy()
        return array
