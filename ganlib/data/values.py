"""The values of images as they arrive: what a set uses of the range that its files could hold, and how that becomes 8 bits.

Colours alone are counted: no alpha, and nothing that alpha 0 hides. The numbers are minima, maxima and sets, so they do not depend on the
order of the images or on who counted which.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from ganlib.data.soundness import BrokenImage

FULL = {"uint8": 0xFF, "uint16": 0xFFFF}  # the kinds whose range is known
SMALL_PIXELS = 1 << 16  # below it numpy counts faster than Pillow
FRACTION_WARNING = 0.5  # a set that uses less of its range


@dataclass
class Kind:
    """Images whose values are of one kind: `uint8`, `uint16`, `int32`, `float32`, ..."""

    images: int = 0
    minimum: float = float("inf")
    maximum: float = float("-inf")
    used: np.ndarray | None = None  # [256] or [65536] bool: values that occur; None where there are too many
    is_full: bool = False  # all of them do: nothing new can come
    outside: int = 0  # images with values outside data.value_range

    def extent(self) -> tuple[float, float]:
        """Smallest and largest value."""
        if self.used is not None and self.used.any():
            found = np.flatnonzero(self.used)
            return float(found[0]), float(found[-1])
        return self.minimum, self.maximum


@dataclass
class Survey:
    """What was seen in a range of rows."""

    kinds: dict[str, Kind] = field(default_factory=dict)
    several_pages: int = 0  # files with more than one page or frame
    pages_left_out: int = 0
    most_pages: int = 0
    followed: list[str] = field(default_factory=list)  # files with bytes of an unknown kind after the picture

    @classmethod
    def after(cls, full: Collection[str]) -> "Survey":
        """An empty one that need not look at kinds of which every value has occurred in rows that are counted elsewhere."""
        survey = cls()
        for name in full:
            survey._kind(name).is_full = True
        return survey

    def full(self) -> list[str]:
        """Kinds of which every value occurs."""
        return [name for name, kind in self.kinds.items() if kind.used is not None and kind.used.all()]

    def count(self, name: str, values: np.ndarray, value_range: tuple[float, float] | None) -> None:
        """Count an image's values, of any shape, finite."""
        kind = self._kind(name)
        kind.images += 1
        if values.size == 0:  # nothing of it is visible
            return
        if kind.used is None:
            low, high = float(values.min()), float(values.max())
            kind.minimum, kind.maximum = min(kind.minimum, low), max(kind.maximum, high)
        else:
            if value_range is not None:
                low, high = float(values.min()), float(values.max())
            if not kind.is_full:
                kind.used[values] = True
                kind.is_full = bool(kind.used.all())
        if value_range is not None:
            kind.outside += low < value_range[0] or high > value_range[1]

    def count_picture(self, picture: Image.Image, visible: Image.Image | None, value_range: tuple[float, float] | None) -> None:
        """Count an L or RGB picture; `visible` is an L mask."""
        kind = self._kind("uint8")
        if value_range is None and kind.is_full:
            kind.images += 1
        elif picture.width * picture.height < SMALL_PIXELS:
            values = np.asarray(picture)
            self.count("uint8", values if visible is None else values[np.asarray(visible) > 0], value_range)
        else:
            histogram = np.array(picture.histogram(None if visible is None else visible.point(lambda alpha: 255 if alpha else 0)))
            self.count("uint8", np.flatnonzero(histogram.reshape(-1, 256).any(axis=0)), value_range)

    def _kind(self, name: str) -> Kind:
        if name not in self.kinds:
            self.kinds[name] = Kind(used=np.zeros(FULL[name] + 1, bool) if name in FULL else None)
        return self.kinds[name]

    def merge(self, other: "Survey") -> None:
        """Add what another process saw in the rows after these."""
        for name, theirs in other.kinds.items():
            if not theirs.images:
                continue
            ours = self._kind(name)
            ours.images += theirs.images
            ours.outside += theirs.outside
            ours.minimum, ours.maximum = min(ours.minimum, theirs.minimum), max(ours.maximum, theirs.maximum)
            if ours.used is not None and theirs.used is not None:
                ours.used |= theirs.used
        self.several_pages += other.several_pages
        self.pages_left_out += other.pages_left_out
        self.most_pages = max(self.most_pages, other.most_pages)
        self.followed += other.followed

    def report(self) -> dict[str, Any]:
        """The `values` of reports/data.json: for each kind its images, minimum, maximum and number of levels (null where not counted)."""
        table = {}
        for name, kind in sorted(self.kinds.items()):
            low, high = kind.extent()
            levels = None if kind.used is None else int(kind.used.sum())
            is_empty = low > high
            table[name] = {
                "images": kind.images,
                "minimum": None if is_empty else _plain(low),
                "maximum": None if is_empty else _plain(high),
                "levels": levels,
            }
        return table

    def unmapped(self) -> list[str]:
        """What to set for the kinds whose range is not known; used where data.value_range is not set."""
        return [
            f"{kind.images:,} images hold {name} values from {_plain(kind.extent()[0]):,} to {_plain(kind.extent()[1]):,}, whose range is "
            f"not known: set data.value_range: {suggestion(name, *kind.extent())}, or as your instrument has it"
            for name, kind in sorted(self.kinds.items())
            if name not in FULL and kind.images
        ]

    def warnings(self, value_range: tuple[float, float] | None) -> list[str]:
        """What of the values is suspicious."""
        found = []
        for name, kind in sorted(self.kinds.items()):
            low, high = kind.extent()
            if low > high or (name not in FULL and value_range is None):
                continue
            start, end = value_range or (0.0, float(FULL[name]))
            if kind.outside:
                found.append(
                    f"{kind.outside:,} of {kind.images:,} {name} images have values outside data.value_range {_shown(start, end)}, which were "
                    f"cut to it; values run from {_plain(low):,} to {_plain(high):,}"
                )
            share = (min(high, end) - max(low, start)) / (end - start)
            if share < FRACTION_WARNING:
                grey = ""
                if kind.used is not None:
                    levels = np.unique(to_8_bits(np.flatnonzero(kind.used).astype(name), value_range))
                    grey = f", and become {len(levels):,} of 256 grey levels"
                remedy = f"set data.value_range: {suggestion(name, low, high)} to use all of it"
                found.append(
                    f"{name} values run from {_plain(low):,} to {_plain(high):,}, {max(share, 0):.1%} of {_shown(start, end)}{grey}; {remedy}"
                )
        if value_range is not None and len(self.kinds) > 1:
            found.append(f"data.value_range {_shown(*value_range)} was applied to values of several kinds: {', '.join(sorted(self.kinds))}")
        return found


def suggestion(name: str, low: float, high: float) -> str:
    """A value range for what was seen: whole bits where they fit."""
    if not name.startswith("float") and low >= 0:
        bits = 2 ** max(int(high).bit_length(), 1) - 1
        if high > bits / 2 and low < bits / 4:
            return f"[0, {bits}]"
    return f"[{_plain(low)}, {_plain(high)}]"


def to_8_bits(values: np.ndarray, value_range: tuple[float, float] | None) -> np.ndarray:
    """Values of any shape to uint8: `value_range` to 0..255, cut outside, rounded; without it 8 bits as they are, 16 bits times 255 / 65535.

    Raises:
        BrokenImage: another kind without `value_range`; NaN or infinite values.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise BrokenImage(f"{values.dtype.name} values that are NaN or infinite")
    if value_range is not None:
        low, high = value_range
        scaled: np.ndarray = np.rint((np.clip(values.astype(np.float64), low, high) - low) * (255 / (high - low))).astype(np.uint8)
        return scaled
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    span = f" from {_plain(values.min())} to {_plain(values.max())}" if values.size else ""
    raise BrokenImage(f"{values.dtype.name} values{span}, whose range is not known; expected 8 or 16 bits, or data.value_range")


def _plain(value: float) -> float | int:
    value = float(value)
    return int(value) if value.is_integer() else float(f"{value:.6g}")


def _shown(low: float, high: float) -> str:
    return f"[{_plain(low)}, {_plain(high)}]"
