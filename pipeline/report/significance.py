"""Whether two models differ in a number, from what their evaluations stored of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from scipy.stats import norm

from ganlib.metrics.intervals import Z95
from pipeline.report.numbers import Number, Span

LEVEL = 0.05
# in a protocol, what was measured and how often a bootstrap was drawn; the rest is how
FREE = frozenset({"generator_sha256", "truncation", "latents", "bootstrap"})

Direction = Literal["better", "worse", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One number of a model against that of the first.

    Attributes:
        change: the other less the first.
        p: two-sided; None where a number has no interval.
        is_significant: p below `LEVEL` after Holm's correction over all comparisons made together.
        direction: of the other, by what the number says is better.
    """

    change: float
    p: float | None
    is_significant: bool
    direction: Direction

    @property
    def words(self) -> str:
        if self.p is None:
            return "no interval, so no telling"
        told = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.2g}"
        return f"{self.direction} ({told})" if self.is_significant else f"not to be told apart ({told})"

    @property
    def tone(self) -> str:
        return {"better": "good", "worse": "bad", "unknown": "unknown"}[self.direction] if self.is_significant else "unknown"


def standard_error(span: Span) -> float:
    """Of a number, from its 95 % interval; by the longer side, because an interval that ends at a bound (0, 100 %) is cut there."""
    return max(span.high - span.value, span.value - span.low) / Z95


def p_value(one: Span, other: Span) -> float | None:
    """Two-sided, of the z-test of (other - one) / sqrt(se^2 + se^2); None where either has no interval.

    Where both were measured against the same real images, those are common to both and take no part in the difference: the intervals are of
    the draw of generated images alone, and two models' draws are independent, or alike, which makes the test conservative.
    """
    if not (one.has_width and other.has_width):
        return None
    z = (other.value - one.value) / math.hypot(standard_error(one), standard_error(other))
    return float(2 * norm.sf(abs(z)))


def holm(values: Sequence[float | None]) -> list[bool]:
    """Which of p-values are significant at `LEVEL` together (Holm, 1979): the smallest against LEVEL / m, the next against LEVEL / (m - 1), ..."""
    known = sorted((p, i) for i, p in enumerate(values) if p is not None)
    found = [False] * len(values)
    for rank, (p, i) in enumerate(known):
        if p > LEVEL / (len(known) - rank):
            break
        found[i] = True
    return found


def differences(first: Sequence[Number], others: Sequence[Sequence[Number]]) -> list[dict[str, Difference]]:
    """For each other model: key -> its difference from the first, for the numbers that both have. One correction over all of them."""
    by_key = {item.key: item for item in first}
    pairs = [(index, item) for index, numbers in enumerate(others) for item in numbers if item.key in by_key]
    p_values = [p_value(by_key[item.key].span, item.span) for _, item in pairs]
    found: list[dict[str, Difference]] = [{} for _ in others]
    for (index, item), p, is_significant in zip(pairs, p_values, holm(p_values), strict=True):
        one, other = by_key[item.key].span.value, item.span.value
        direction: Direction = "better" if item.about.is_better(other, one) else "worse" if item.about.is_better(one, other) else "unknown"
        found[index][item.key] = Difference(change=other - one, p=p, is_significant=is_significant, direction=direction)
    return found


@dataclass(frozen=True, kw_only=True)
class Reversal:
    """Two models that one number puts in one order by the main extractor, and in the other by another.

    Attributes:
        better, worse: names, as the main extractor has them.
        key: the number, without an extractor.
        extractor: label of the one that has it the other way round.
        is_significant: both orders, after Holm's correction over all orders that were looked at.
    """

    better: str
    worse: str
    key: str
    title: str
    extractor: str
    is_significant: bool


def reversals(models: Mapping[str, Sequence[Number]]) -> list[Reversal]:
    """Where extractors rank models (name -> numbers of one protocol) otherwise than the main one does; what only one of two has is passed over."""
    orders: list[tuple[str, str, Number, str]] = []
    p_values: list[float | None] = []
    for (one, ours), (other, theirs) in combinations(models.items(), 2):
        first, second = ({item.key: item for item in numbers} for numbers in (ours, theirs))
        for key, item in first.items():
            plain, at, label = key.partition("@")
            if not at or not {key, plain} <= second.keys() or plain not in first:
                continue
            is_better = item.about.is_better
            leads = [is_better(first[name].span.value, second[name].span.value) for name in (plain, key)]
            trails = [is_better(second[name].span.value, first[name].span.value) for name in (plain, key)]
            p_values += [p_value(first[name].span, second[name].span) for name in (plain, key)]
            if leads[0] and trails[1]:
                orders.append((one, other, first[plain], label))
            elif trails[0] and leads[1]:
                orders.append((other, one, first[plain], label))
            else:
                orders.append(("", "", item, label))  # of one mind; its chances count all the same
    sure = holm(p_values)
    return [
        Reversal(
            better=better, worse=worse, key=item.key, title=item.title, extractor=label, is_significant=sure[2 * i] and sure[2 * i + 1]
        )
        for i, (better, worse, item, label) in enumerate(orders)
        if better
    ]


def told(found: Sequence[Reversal], main: str) -> list[str]:
    """A sentence for each two models and extractor that see them otherwise than `main`, the label of the main extractor; sure ones first."""
    groups: dict[tuple[bool, str, str, str], list[str]] = {}
    for item in sorted(found, key=lambda item: not item.is_significant):
        groups.setdefault((item.is_significant, item.better, item.worse, item.extractor), []).append(item.title)
    return [
        f"The extractors disagree: {better} is better than {worse} in {', '.join(titles)} by {main}, and worse by {label}"
        + (
            ", both beyond chance: neither alone decides which is better"
            if is_sure
            else ", though chance may have made one of the two orders"
        )
        for (is_sure, better, worse, label), titles in groups.items()
    ]


def disagreements(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Keys in which two protocols say that something else was measured, or otherwise; [] where numbers can be compared."""
    keys = (one.keys() | other.keys()) - FREE
    return sorted(key for key in keys if one.get(key) != other.get(key))
