"""The ladder of known faults, made from real images, and where a generator stands on it."""

import csv
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ganlib.metrics.calibration import Calibration

GENERATOR, REAL = "this generator", "real images"  # rows of the table that are no fault
MOST_TICKS = 5
ROOM = 7.0  # per cent of the axis that a strength needs to be read
DECADES = 5  # of the axis at most: what is smaller lies at its beginning


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One fault in its strengths, as one number sees it.

    Attributes:
        points: (strength, value, place on the axis, 0 to 100, whether there is room for its strength beside it).
        seen: the strengths that are told from real images.
    """

    title: str
    unit: str
    points: tuple[tuple[float, float, float, bool], ...]
    seen: tuple[float, ...]
    rises: bool


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What one number sees of the faults: a row of the report's table.

    Attributes:
        cells: a word for each fault of the calibration, in its order: from which strength on it is seen, and where it does not rise with strength.
        doubt: why it is not trusted; "" where it is.
    """

    title: str
    cells: tuple[str, ...]
    doubt: str


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
    null: tuple[float, float]
    here: float


def titles(calibration: Calibration) -> list[str]:
    """Of the faults that change these data."""
    return [rungs.title for rungs in calibration.faults.values() if rungs.applies]


def seen(calibration: Calibration, key: str) -> list[str]:
    """Titles of the faults that a number sees in some strength."""
    sees = calibration.metrics[key].sees if key in calibration.metrics else {}
    return [calibration.faults[name].title for name, strength in sees.items() if strength is not None]


def sights(calibration: Calibration, titles: Mapping[str, str], show: Callable[[float], str]) -> list[Sight]:
    """Every number of the calibration, those that are not trusted too.

    Args:
        titles: key -> what it is called; the key itself where it is not there.
    """

    def cell(key: str, name: str) -> str:
        verdict = calibration.metrics[key]
        strength = verdict.sees.get(name)
        if not calibration.faults[name].applies:
            return "does not apply"
        if strength is None:
            return "no"
        return f"from {show(strength)}" + ("" if verdict.rises.get(name, False) else ", not rising")

    return [
        Sight(
            title=titles.get(key, key),
            cells=tuple(cell(key, name) for name in calibration.faults),
            doubt="" if verdict.is_trusted else verdict.why,
        )
        for key, verdict in calibration.metrics.items()
    ]


def is_trusted(calibration: Calibration | None, key: str) -> bool:
    return calibration is not None and key in calibration.metrics and calibration.metrics[key].is_trusted


def is_doubted(calibration: Calibration | None, key: str) -> bool:
    """Whether the calibration looked at it, and does not trust it."""
    return calibration is not None and key in calibration.metrics and not calibration.metrics[key].is_trusted


def scale(calibration: Calibration, key: str, value: float) -> Scale | None:
    """The ladder of one distance, by whose value its faults are sorted; None where the calibration does not have it."""
    rows = [(name, rungs) for name, rungs in calibration.faults.items() if rungs.applies and rungs.values.get(key)]
    null, verdict = calibration.null.get(key), calibration.metrics.get(key)
    if not rows or null is None or verdict is None:
        return None
    every = [number for _, rungs in rows for number in rungs.values[key]] + [value, null.high]
    positive = [number for number in every if number > 0]
    if not positive:
        return None
    top = math.log10(max(positive)) + 0.08
    bottom = max(math.log10(min(positive)) - 0.12, top - DECADES)

    def place(number: float) -> float:
        at = (math.log10(number) - bottom) / (top - bottom) if number > 0 else 0.0
        return round(100 * min(1.0, max(0.0, at)), 2)

    return Scale(
        rungs=tuple(
            Rung(
                title=rungs.title,
                unit=rungs.unit,
                points=_roomy([(strength, at, place(at)) for strength, at in zip(rungs.strengths, rungs.values[key], strict=True)]),
                seen=tuple(calibration.seen(key, name)),
                rises=verdict.rises.get(name, False),
            )
            for name, rungs in sorted(rows, key=lambda row: max(row[1].values[key]))
        ),
        ticks=tuple((tick, place(tick)) for tick in _ticks(bottom, top)),
        null=(place(null.low), place(null.high)),
        here=place(value),
    )


def table(calibration: Calibration | None, values: Mapping[str, float], key: str) -> str:
    """The steps of one distance's ladder as CSV, and the generator's own: what `dvc plots` draws and compares; the header alone where it has none."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["fault", "strength", "unit", key])
    if key in values:
        rows.writerow([GENERATOR, "", "", values[key]])
        if calibration is not None and key in calibration.null:
            rows.writerow([REAL, "", "", calibration.null[key].mean])
            for rungs in calibration.faults.values():
                measured = zip(rungs.strengths, rungs.values.get(key, ()), strict=False) if rungs.applies else ()
                rows.writerows([rungs.title, strength, rungs.unit, value] for strength, value in measured)
    return text.getvalue()


def _ticks(bottom: float, top: float) -> list[float]:
    """Powers of ten between 10**bottom and 10**top; with 2 and 5 times them where these are few."""
    factors = (1, 2, 5) if top - bottom < MOST_TICKS / 2 else (1,)
    every = [factor * 10.0**power for power in range(math.floor(bottom), math.ceil(top) + 1) for factor in factors]
    return [tick for tick in every if bottom <= math.log10(tick) <= top]


def _roomy(points: list[tuple[float, float, float]]) -> tuple[tuple[float, float, float, bool], ...]:
    shown: list[float] = []
    found = []
    for strength, value, place in points:
        has_room = all(abs(place - other) >= ROOM for other in shown)
        shown += [place] if has_room else []
        found.append((strength, value, place, has_room))
    return tuple(found)
