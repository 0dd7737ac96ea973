"""What the columns of a data set are: plain facts, written with the prepared data and read back."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

IMAGE = "image"  # the modality that is meant where none is named
CLASS = "class"  # the kind of a column of class numbers; every other kind is a modality (`ganlib.modalities`)


@dataclass(frozen=True, kw_only=True)
class Field:
    """One column.

    Attributes:
        kind: a modality, or `class`.
        shape: of one row's array; () for a class number.
        dtype: numpy's name of what is stored, native byte order.
        value_range: what the smallest and the largest stored number stood for when it arrived; None where it arrived as it is stored.
        classes: names by number, for `class` alone. How many rows each has differs by split and stands in the manifest.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    value_range: tuple[float, float] | None = None
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if (self.kind == CLASS) != (self.classes is not None):
            raise ValueError(f"field {self.name!r} of kind {self.kind!r} has classes {self.classes}; a class has them, and nothing else")

    @property
    def numbers(self) -> int:
        """In one row."""
        return math.prod(self.shape)

    def facts(self) -> dict[str, Any]:
        """As JSON; `read` is the inverse."""
        optional = {"value_range": self.value_range, "classes": self.classes}
        there = {key: list(value) for key, value in optional.items() if value is not None}
        return {"name": self.name, "kind": self.kind, "shape": list(self.shape), "dtype": self.dtype, **there}

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> "Field":
        """Raises KeyError, TypeError or ValueError where `facts` are no field."""
        lists = {key: tuple(facts[key]) for key in ("value_range", "classes") if key in facts}
        return cls(name=facts["name"], kind=facts["kind"], shape=tuple(facts["shape"]), dtype=facts["dtype"], **lists)


def class_field(name: str, classes: tuple[str, ...]) -> Field:
    """A column of class numbers."""
    return Field(name=name, kind=CLASS, shape=(), dtype="int64", classes=classes)
