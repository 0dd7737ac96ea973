"""From a row as it arrived to what is stored of it; a modality with a decoder of its own has a file here, of its name.

The others are read by `numbers`: their rows arrive as arrays.
"""

from contextlib import AbstractContextManager
from typing import ClassVar, Protocol, Self

import numpy as np

from ganlib.data.settings import DataConfig
from ganlib.data.values import Survey
from ganlib.registry import Registry

NUMBERS = "numbers"
Decoded = tuple[np.ndarray, tuple[int, int]]  # [C, H, W] as it is stored, and the (height, width) it arrived with


class Decoder(Protocol):
    """How every row of a column is read: light and picklable, so that any process can do it.

    Attributes:
        dtype: of what is stored, numpy's name; that of the modality.
        keys: of the data section, beside `image_size`, that say what was done to the rows.
    """

    dtype: ClassVar[str]
    keys: ClassVar[tuple[str, ...]]

    @classmethod
    def of(cls, config: DataConfig) -> Self:
        """Raises ValueError for settings under which nothing can be read; says what to set."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what is stored."""

    def guarded(self) -> AbstractContextManager[None]:
        """What must hold around `decode`."""

    def decode(self, raw: bytes | np.ndarray, survey: Survey, *, name: str) -> list[Decoded]:
        """One row, or several where a file holds several.

        Args:
            raw: an encoded file (of numbers, .npy), or numbers [H, W] or [H, W, C].
            survey: is told what the values are.

        Raises:
            BrokenImage: it cannot be used; the reason goes into the report.
        """


DECODERS: Registry[type[Decoder]] = Registry("decoder", package="ganlib.data.decoders")


def of(config: DataConfig) -> Decoder:
    """The decoder of `data.modality`.

    Raises:
        ValueError: settings that it cannot use.
    """
    kind = config.modality if config.modality in DECODERS.names() else NUMBERS
    return DECODERS.get(kind, key="data.modality").of(config)
