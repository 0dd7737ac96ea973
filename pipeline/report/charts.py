"""Curves over images seen as small charts that the page draws itself: they follow its colours, light or dark, and stay readable on a phone."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 340.0, 190.0  # of the picture, in the units of its paths; about the pixels of a phone
LEFT, RIGHT, TOP, BOTTOM = 46.0, 8.0, 8.0, 24.0
MOST_POINTS = 300  # of a line: more are as fine as the screen shows
HEADROOM = 4.0  # a few points may lie so many times beyond the others before the axis leaves them out
TITLES = (  # a chart for each, in this order; prefixes of columns
    ("Losses", ("loss_",)),
    ("Logits in training", ("logit_",)),
    ("Logits, measured", ("real_logits", "held_out_logits", "fake_logits")),
    ("Pairs the discriminator ranks rightly", ("discriminator_accuracy",)),
    ("Overfitting gap, in deviations", ("overfitting_gap",)),
    ("Diversity (1: as real images)", ("diversity",)),
    ("Gradient norms", ("gradient_norm_",)),
    ("Update norms", ("update_norm_",)),
    ("Penalties", ("penalty_",)),
    ("Distance to held-out images", ("held_out_score", "select_", "sliced_wasserstein")),
)
LOGARITHMIC, LOGARITHMIC_FROM = {"Gradient norms", "Update norms"}, 50  # where the largest is so many times the smallest
ALIKE = ("loss_", "logit_", "penalty_", "gradient_norm_", "update_norm_")  # taken off a column's name in the legend


@dataclass(frozen=True, kw_only=True)
class Line:
    """A column as a path."""

    name: str
    path: str
    last: float


@dataclass(frozen=True, kw_only=True)
class Mark:
    """An alarm at its place on the axis."""

    x: float
    name: str
    is_loud: bool


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Some columns over images seen.

    Attributes:
        x_ticks, y_ticks: (place, text).
    """

    title: str
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]

    @property
    def summary(self) -> str:
        """For who cannot see it."""
        return f"{self.title}: " + ", ".join(f"{line.name} ends at {short(line.last)}" for line in self.lines)


def table(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Column -> (images seen, value) of a CSV file with a column `images_seen`; {} where there is none. Empty cells are left out."""
    if not path.exists():
        return {}
    columns: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, cell in row.items():
                if name not in ("step", "images_seen") and cell:
                    value = float(cell)
                    if math.isfinite(value):
                        columns.setdefault(name, []).append((float(row["images_seen"]), value))
    return columns


def charts(columns: Mapping[str, Sequence[tuple[float, float]]], alarms: Sequence[Mapping[str, Any]] = ()) -> list[Chart]:
    """A chart for each kind of column that there is; every alarm is marked in each."""
    found = []
    for title, prefixes in TITLES:
        chosen = {name: points for name, points in columns.items() if name.startswith(prefixes) and len(points) > 1}
        if chosen:
            found.append(_chart(title, chosen, alarms))
    return found


def _chart(title: str, columns: Mapping[str, Sequence[tuple[float, float]]], alarms: Sequence[Mapping[str, Any]]) -> Chart:
    every = [point for points in columns.values() for point in points]
    end = max(x for x, _ in every)
    last = {name: points[-1][1] for name, points in columns.items()}
    smallest, largest = min(y for _, y in every), max(y for _, y in every)
    if title in LOGARITHMIC and smallest > 0 and largest > LOGARITHMIC_FROM * smallest:
        columns = {name: [(x, math.log10(y)) for x, y in points] for name, points in columns.items()}
        first, final = math.floor(math.log10(smallest)), math.ceil(math.log10(largest))
        low, high = float(first), float(final)
        y_values = [float(power) for power in range(first, final + 1, max(1, (final - first) // 3))]
        y_texts = [short(10.0**power) for power in y_values]
    else:
        low, high = _range([y for _, y in every])
        y_values = ticks(low, high, 4)
        y_texts = [short(y) for y in y_values]
    low, high = min(low, y_values[0]), max(high, y_values[-1])

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / end
        down = TOP + (HEIGHT - TOP - BOTTOM) * (1 - (min(max(y, low), high) - low) / (high - low))
        return across, down

    lines = []
    for name, points in columns.items():
        step = -(-len(points) // MOST_POINTS)
        kept = [*points[:-1:step], points[-1]]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (at(*point) for point in kept))
        lines.append(Line(name=legend(name), path=path, last=last[name]))
    marks = tuple(
        Mark(
            x=round(at(min(end, float(alarm["images_seen"])), low)[0], 1),
            name=str(alarm["name"]).replace("_", " "),
            is_loud=alarm.get("action") != "warn",
        )
        for alarm in alarms
    )
    return Chart(
        title=title,
        lines=tuple(lines),
        marks=marks,
        x_ticks=tuple((round(at(x, low)[0], 1), images(x)) for x in ticks(0.0, end, 4) if x <= end),
        y_ticks=tuple((round(at(0.0, y)[1], 1), text) for y, text in zip(y_values, y_texts, strict=True)),
    )


def legend(name: str) -> str:
    """A column's name as a person says it."""
    for prefix in ALIKE:
        name = name.removeprefix(prefix)
    return name.removesuffix("_logits").replace("_", " ")


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis: of all values, or of all but a few that would make the others a flat line."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    inner_low, inner_high = ordered[len(ordered) // 50], ordered[-1 - len(ordered) // 50]
    width = inner_high - inner_low
    if width > 0:
        low, high = max(low, inner_low - HEADROOM * width), min(high, inner_high + HEADROOM * width)
    if low == high:
        low, high = low - max(abs(low), 1.0) * 0.5, high + max(abs(high), 1.0) * 0.5
    return low, high


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart), about `count` of them, from the last below `low` to the first above `high`."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def short(value: float) -> str:
    """`-0.5`, `12k`, `4e+13`."""
    if abs(value) >= 1e6 or 0 < abs(value) < 1e-3:
        return f"{value:.0e}"
    return f"{value / 1e3:g}k" if abs(value) >= 1e4 else f"{value:.3g}"


def images(count: float) -> str:
    """`50k`, `1.5M`."""
    return f"{count / 1e6:g}M" if count >= 1e6 else f"{count / 1e3:g}k" if count >= 1e3 else f"{count:g}"
