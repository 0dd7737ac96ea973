"""Arrays of numbers, whatever they mean."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from ganlib.data.decoders import DECODERS, NUMBERS, Decoded
from ganlib.data.settings import DataConfig
from ganlib.data.soundness import BrokenImage
from ganlib.data.values import Survey


@DECODERS.register(NUMBERS)
@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Numbers [H, W] or [H, W, C] of the wanted size -> float32 [C, H, W], `value_range` mapped to [-1, 1] and what lies outside cut."""

    shape: tuple[int, int, int]
    value_range: tuple[float, float]
    dtype: ClassVar[str] = "float32"
    keys: ClassVar[tuple[str, ...]] = ("channels", "value_range")

    @classmethod
    def of(cls, config: DataConfig) -> Self:
        if config.value_range is None:
            raise ValueError(
                f"data.modality={config.modality} needs the range of its numbers, and data.value_range is null; set it to [low, high]"
            )
        return cls(shape=(config.channels, *config.image_size), value_range=config.value_range)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        yield

    def decode(self, raw: bytes | np.ndarray, survey: Survey, *, name: str) -> list[Decoded]:
        if isinstance(raw, bytes):
            raw = _loaded(raw)
        if not np.isfinite(raw).all():
            raise BrokenImage(f"{raw.dtype.name} values that are NaN or infinite")
        values = raw[None] if raw.ndim == 2 else raw.transpose(2, 0, 1)
        if values.shape != self.shape:
            c, h, w = values.shape
            raise BrokenImage(
                f"{c} channels of {h} x {w}, expected {self.shape[0]} of {self.shape[1]} x {self.shape[2]} (data.channels, data.image_size)"
            )
        survey.count(raw.dtype.newbyteorder("=").name, values, self.value_range)
        low, high = self.value_range
        scaled = (np.clip(values.astype(np.float64), low, high) - low) * (2 / (high - low)) - 1
        return [(scaled.astype(np.float32), (raw.shape[0], raw.shape[1]))]


def _loaded(data: bytes) -> np.ndarray:
    """An array as numpy saves it (.npy), which is how a pack of files holds one."""
    try:
        array: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BrokenImage(f"an encoded file, expected an array of numbers, or one in numpy's format ({error})") from None
    if array.ndim not in (2, 3) or array.dtype.kind not in "iuf":
        raise BrokenImage(f"{array.dtype.name} {list(array.shape)}, expected numbers [H, W] or [H, W, C]")
    return array
