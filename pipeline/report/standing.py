"""The ladder of known faults, made from real images, and where a generator stands on it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = "data/calibration"


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One fault in its strengths, as one number sees it.

    Attributes:
        points: (strength, value, place on the axis, 0 to 100).
        seen_from: the smallest strength that is told from real images; None: none is.
    """

    title: str
    unit: str
    points: tuple[tuple[float, float, float], ...]
    seen_from: float | None
    rises: bool


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One number's ladder on a logarithmic axis.

    Attributes:
        ticks: (value, place).
        null: places of the ends of real against real.
        here: place of the generator.
    """

    rungs: tuple[Rung, ...]
    ticks: tuple[tuple[float, float], ...]
    null: tuple[float, float] | None
    here: float


@dataclass(frozen=True)
class Ladder:
    """data/calibration/calibration.json."""

    content: Mapping[str, Any]

    @property
    def faults(self) -> Mapping[str, Any]:
        return dict(self.content["faults"])

    @property
    def null(self) -> Mapping[str, Mapping[str, float]]:
        return dict(self.content.get("null", {}))

    @property
    def warnings(self) -> list[str]:
        return [str(line) for line in self.content.get("warnings", [])]

    @property
    def applying(self) -> list[str]:
        """Titles of the faults that change these data."""
        return [str(fault["title"]) for fault in self.faults.values() if fault["applies"]]

    @property
    def keys(self) -> list[str]:
        return list(self.content["metrics"])

    def is_trusted(self, key: str) -> bool:
        return bool(self.content["metrics"].get(key, {}).get("is_trusted", False))

    def why(self, key: str) -> str:
        return str(self.content["metrics"].get(key, {}).get("why", "The calibration does not have this number."))

    def seen(self, key: str) -> list[str]:
        """Titles of the faults that a number sees in some strength."""
        sees = self.content["metrics"].get(key, {}).get("sees", {})
        return [str(fault["title"]) for name, fault in self.faults.items() if fault["applies"] and sees.get(name) is not None]

    def seen_from(self, key: str, fault: str) -> float | None:
        found = self.content["metrics"].get(key, {}).get("sees", {}).get(fault)
        return None if found is None else float(found)

    def equivalent(self, key: str, value: float) -> list[str]:
        """`as far from real as a blur of 1.3 pixels`."""
        return []

    def scale(self, key: str, value: float) -> Scale | None:
        """The ladder of one distance; None where the calibration does not have it."""
        rows = [(name, fault) for name, fault in self.faults.items() if fault["applies"] and fault["values"].get(key)]
        if not rows:
            return None
        null = self.null.get(key)
        every = [float(number) for _, fault in rows for number in fault["values"][key]]
        every += [value, *([float(null["high"])] if null else [])]
        positive = [number for number in every if number > 0 and math.isfinite(number)]
        if not positive:
            return None
        top = math.log10(max(positive)) + 0.08
        bottom = max(math.log10(min(positive)) - 0.12, top - 5)

        def place(number: float) -> float:
            at = (math.log10(number) - bottom) / (top - bottom) if number > 0 else 0.0
            return round(100 * min(1.0, max(0.0, at)), 2)

        rungs = tuple(
            Rung(
                title=str(fault["title"]),
                unit=str(fault["unit"]),
                points=tuple((float(s), float(v), place(float(v))) for s, v in zip(fault["strengths"], fault["values"][key], strict=True)),
                seen_from=self.seen_from(key, name),
                rises=bool(self.content["metrics"].get(key, {}).get("rises", {}).get(name, False)),
            )
            for name, fault in sorted(rows, key=lambda row: max(row[1]["values"][key]))
        )
        powers = range(math.ceil(bottom), math.floor(top) + 1)
        ticks = tuple((10.0**power, place(10.0**power)) for power in powers)
        return Scale(
            rungs=rungs, ticks=ticks, null=(place(float(null["low"])), place(float(null["high"]))) if null else None, here=place(value)
        )


def read(root: Path) -> Ladder | None:
    """The calibration of a project; None where there is none."""
    path = root / FOLDER / "calibration.json"
    return Ladder(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None
