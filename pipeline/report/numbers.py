"""The numbers of an evaluation as the page shows and judges them: each with its interval, and with that of real images in its place."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ganlib.metrics.calibration import Null
from ganlib.metrics.needs import Value

ENDS = ("_low", "_high")  # of a number's interval
SHARE_OF_BAR = 0.8  # of a bar that the largest of what it shows reaches


@dataclass(frozen=True, kw_only=True)
class Span:
    """A number and, where it was computed, its 95 % interval; without one both ends are the number."""

    value: float
    low: float
    high: float

    @property
    def has_width(self) -> bool:
        return self.low < self.high


@dataclass(frozen=True, kw_only=True)
class Number:
    """One number that a metric gave.

    Attributes:
        key: as evaluation.json has it: `fid`, or `fid@rotation` of a second extractor.
        alike: the number of as many images a side as the ladder of faults has, which alone can be set beside it; None where there is none.
        is_null: `real` is the distribution of real against real images over many draws, not one other split.
    """

    key: str
    about: Value
    span: Span
    real: Span | None = None
    alike: float | None = None
    is_null: bool = False

    @property
    def title(self) -> str:
        _, at, extractor = self.key.partition("@")
        return f"{self.about.title} ({extractor})" if at else self.about.title

    @property
    def text(self) -> str:
        return self.show(self.span.value)

    @property
    def interval(self) -> str:
        """`1.9 to 2.2`; empty without an interval."""
        return f"{self.show(self.span.low)} to {self.show(self.span.high)}" if self.span.has_width else ""

    @property
    def real_text(self) -> str:
        """What real images score, with the ends where there are any."""
        if self.real is None:
            return ""
        return f"{self.show(self.real.low)} to {self.show(self.real.high)}" if self.real.has_width else self.show(self.real.value)

    @property
    def goal(self) -> str:
        return self.about.hint

    def show(self, value: float) -> str:
        return percent(value) if self.about.is_share else number(value)

    def place(self, value: float) -> float:
        """Where `value` lies on the bar of this number, 0 to 100: a share on 0 to 1, another number on 0 to a little above all that is shown."""
        shown = [self.span.high, self.span.value, *([self.real.high] if self.real is not None else []), self.about.ideal or 0.0]
        top = 1.0 if self.about.is_share else max(1e-12, max(shown) / SHARE_OF_BAR)
        return round(100 * min(1.0, max(0.0, value / top)), 1)


def measured(evaluation: Mapping[str, Any], described: Mapping[str, Value], null: Mapping[str, Null]) -> list[Number]:
    """Every described number of an evaluation, in the order in which it was measured.

    Args:
        null: of the calibration. An evaluation's own, of real images in the very same metrics, goes before it, and it before the other split's score.
    """
    nulls = {key: _ends(found.mean, found.low, found.high, described.get(_plain(key))) for key, found in null.items()}
    own = evaluation.get("null", {})
    nulls |= {key: _ends(found["mean"], found["low"], found["high"], described.get(_plain(key))) for key, found in own.items()}
    alike = evaluation.get("ruler", {}).get("alike", {})
    found = []
    for key in (key for key in evaluation if not key.endswith(ENDS)):
        about, span = described.get(_plain(key)), _span(evaluation, key)
        if about is not None and span is not None:
            real = nulls.get(key) or _span(evaluation.get("baseline", {}), key)
            found.append(Number(key=key, about=about, span=span, real=real, alike=alike.get(key), is_null=key in nulls))
    return found


def _plain(key: str) -> str:
    return key.partition("@")[0]


def _ends(mean: float, low: float, high: float, about: Value | None) -> Span:
    if about is not None:
        low, high = about.cut(low, high)
    return Span(value=mean, low=low, high=high)


def _span(values: Mapping[str, Any], key: str) -> Span | None:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    low, high = values.get(f"{key}_low"), values.get(f"{key}_high")
    if low is None or high is None:
        return Span(value=float(value), low=float(value), high=float(value))
    return Span(value=float(value), low=float(low), high=float(high))


def percent(value: float) -> str:
    return f"{100 * value:.1f}\u00a0%"


def number(value: float) -> str:
    """Four significant figures, never an exponent for everyday sizes."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def text(value: Any) -> str:
    """Any JSON value for a table."""
    if value is None or value == {} or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(text, value))
    return number(value) if isinstance(value, float) else str(value)


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as dotted keys; numbers and short lists as text."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            value = {str(i): item for i, item in enumerate(value, start=1)}
        rows += flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else [(prefix + key, text(value))]
    return rows
