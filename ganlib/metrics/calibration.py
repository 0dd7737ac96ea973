"""What the ladder of known faults says about a ruler: which faults each value sees, whether it is to be trusted, and where a generator stands.

A value is beyond the null where real images against real images hardly ever are: outside the 99 % prediction interval of several draws of halves.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from ganlib.files import atomic_write
from ganlib.metrics.faults import FAULTS, Fault
from ganlib.metrics.needs import Value

FORMAT = 1
FILE = "calibration.json"
CONFIDENCE = 0.99


@dataclass(frozen=True, kw_only=True)
class Null:
    """A value of real images against other real images, over `draws` halves: its mean, and where one more draw would be with 99 %."""

    mean: float
    low: float
    high: float
    draws: int

    @classmethod
    def of(cls, drawn: Sequence[float]) -> "Null":
        """Student's prediction interval: mean -+ t s sqrt(1 + 1 / draws)."""
        n, mean = len(drawn), float(np.mean(drawn))
        reach = float(student.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(drawn, ddof=1) * math.sqrt(1 + 1 / n))
        return cls(mean=mean, low=mean - reach, high=mean + reach, draws=n)


@dataclass(frozen=True, kw_only=True)
class Rungs:
    """A fault in all its strengths, from mild to strong, and what each value came to."""

    title: str
    unit: str
    applies: bool
    why_not: str | None
    strengths: list[float]
    values: dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a value is good for on these data.

    Attributes:
        sees: fault -> the mildest strength from which on it is beyond the null, on the side that is worse; None: in none.
        rises: fault -> it is seen, and no stronger one is better than a milder one by more than the null is wide.
        better, ideal: as the value declares them.
    """

    sees: dict[str, float | None]
    rises: dict[str, bool]
    is_trusted: bool
    why: str
    better: str
    ideal: float | None

    @property
    def num_seen(self) -> int:
        return sum(strength is not None for strength in self.sees.values())


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """calibration.json.

    Attributes:
        split: of the real images.
        n: images on each side, fewer for metrics that look at pixels (`ladder.MAX_PIXEL_SIDE`); 0 where there were too few, and nothing was measured.
        null, metrics: by the key of a value; `faults` by name, in the order of the ladder.
        extractor_accuracy: of the extractor on that split, at what it learnt; None where it learnt nothing from the data.
        majority_share: the same of whoever always gives the commonest answer.
    """

    data_digest: str
    extractor_sha256: str
    split: str
    n: int
    null: dict[str, Null]
    faults: dict[str, Rungs]
    metrics: dict[str, Verdict]
    extractor_accuracy: float | None
    majority_share: float | None
    warnings: list[str]

    def untrusted(self) -> dict[str, str]:
        """Key of a value -> why it is not to be trusted."""
        return {key: verdict.why for key, verdict in self.metrics.items() if not verdict.is_trusted}

    def trusted(self) -> list[str]:
        """Keys of the values that are, those that see most faults first."""
        keys = [key for key, verdict in self.metrics.items() if verdict.is_trusted]
        return sorted(keys, key=lambda key: -self.metrics[key].num_seen)

    def seen(self, key: str, fault: str) -> list[float]:
        """The strengths of a fault in which this value tells it from real images: from one on, milder ones first (a JPEG's quality falls)."""
        strengths, first = self.faults[fault].strengths, self.metrics[key].sees.get(fault)
        return [] if first is None else list(strengths[strengths.index(first) :])

    def equivalent(self, key: str, value: float) -> list[str]:
        """Which faults are as far from real as this value: "as far from real as a blur of 1.3 pixels", one phrase for each that it rises with.

        Between two strengths by linear interpolation; a fault that is counted has none between, and the nearest below is named. The value is
        of `n` images on a side, as the ladder is: FID falls with their number.
        """
        if key not in self.metrics:
            return []
        verdict, null = self.metrics[key], self.null[key]
        distance = badness(verdict.better, verdict.ideal)
        if not _is_beyond(value, null, distance):
            return ["not to be told from real images"]
        phrases = []
        for name, rungs in self.faults.items():
            if rungs.applies and verdict.rises.get(name, False) and name in FAULTS.names():
                fault: Fault = FAULTS.get(name)()
                points = np.maximum.accumulate([distance(x) for x in (null.mean, *rungs.values[key])])
                if distance(value) > points[-1]:
                    phrases.append(f"farther from real than {fault.words(rungs.strengths[-1])}")
                else:
                    phrases.append(_stands(fault, _crossing(distance(value), points, [fault.none, *rungs.strengths])))
        return phrases

    def write(self, folder: Path) -> None:
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False, ensure_ascii=False)  # in reading order, not sorted
        atomic_write(folder / FILE, (text + "\n").encode())


def _crossing(height: float, points: np.ndarray, strengths: Sequence[float]) -> float:
    """Where a line through (strength, point) first reaches `height`; points rise."""
    i = max(1, int(np.searchsorted(points, height)))
    share = (height - points[i - 1]) / (points[i] - points[i - 1])
    return float(strengths[i - 1] + share * (strengths[i] - strengths[i - 1]))


def _stands(fault: Fault, strength: float) -> str:
    """Beside the fault in that strength; of one that is counted, beside the whole number below."""
    if not fault.counts or strength == round(strength):
        return f"as far from real as {fault.words(strength)}"
    return f"nearer to real than {fault.words(1)}" if strength < 1 else f"farther from real than {fault.words(math.floor(strength))}"


def badness(better: str, ideal: float | None) -> Callable[[float], float]:
    """value -> a number that is larger the worse it is."""
    if better == "target":
        assert ideal is not None
        return lambda value: abs(value - ideal)
    return (lambda value: -value) if better == "higher" else (lambda value: value)


def _is_beyond(value: float, null: Null, distance: Callable[[float], float]) -> bool:
    """Outside the null's interval, and on the side that is worse."""
    slack = 1e-9 * max(1.0, abs(null.mean))  # of a null without width
    return not null.low - slack <= value <= null.high + slack and distance(value) > distance(null.mean)


def _is_flattered(value: float, name: str, null: Null, distance: Callable[[float], float]) -> bool:
    """A fault in the pixels that looks better than real images do: whoever has it would win by it."""
    return not FAULTS.get(name).picks and not null.low <= value <= null.high and distance(value) < distance(null.mean)


def judge(key: str, value: Value, null: Null, faults: Mapping[str, Rungs], *, doubt: str) -> Verdict:
    """What a value is good for.

    Args:
        doubt: why nothing that it says is to be trusted; "" where there is no such reason.
    """
    distance, width = badness(value.better, value.ideal), null.high - null.low
    sees: dict[str, float | None] = {}
    rises: dict[str, bool] = {}
    for name, rungs in faults.items():
        if not rungs.applies or key not in rungs.values:
            continue
        values = rungs.values[key]
        beyond = [_is_beyond(x, null, distance) for x in values]
        first = len(beyond)
        while first and beyond[first - 1]:
            first -= 1
        sees[name] = rungs.strengths[first] if first < len(beyond) else None
        heights = [distance(x) for x in (null.mean, *values)]
        rises[name] = first < len(beyond) and all(after >= before - width / 2 for before, after in pairwise(heights))
    blind = [name for name in value.must_see if name in sees and sees[name] is None]
    what = " and ".join(f"{FAULTS.get(name)().words(faults[name].strengths[-1])} ({faults[name].values[key][-1]:.3g})" for name in blind)
    flattered = (
        [] if value.better == "target" else [name for name in sees if _is_flattered(faults[name].values[key][-1], name, null, distance)]
    )
    low, high = value.cut(null.low, null.high)
    why = doubt
    if flattered and not (blind or doubt):
        fault, found = FAULTS.get(flattered[0])().words(faults[flattered[0]].strengths[-1]), faults[flattered[0]].values[key][-1]
        why = f"takes {fault} ({found:.3g}) for better than real images ({low:.3g} to {high:.3g})"
    elif blind and not doubt:
        why = f"cannot tell real images ({low:.3g} to {high:.3g}) from {what}"
    elif not doubt:
        why = f"sees {', '.join(faults[name].title for name in sees if sees[name] is not None) or 'no fault'}"
    return Verdict(sees=sees, rises=rises, is_trusted=not (blind or flattered or doubt), why=why, better=value.better, ideal=value.ideal)


def told(
    found: Calibration | None, values: Mapping[str, float], alike: Mapping[str, float], *, data_digest: str, extractor_sha256: str
) -> dict[str, Any]:
    """What evaluation.json says of the ruler: which of its values are not to be trusted, which are, and where the generator stands on the ladder.

    Args:
        values: of the evaluation.
        alike: of the same generator, measured as the ladder was (`ladder.Ruler.generated`); empty where that was not possible.

    Raises:
        ValueError: the calibration is of other data or of another extractor.
    """
    if found is None:
        return {
            "n": 0,
            "untrusted": {},
            "trusted": [],
            "alike": {},
            "stands": {},
            "warnings": ["not calibrated: run `dvc repro calibrate`"],
        }
    for name, there, expected in (
        ("data_digest", found.data_digest, data_digest),
        ("extractor_sha256", found.extractor_sha256, extractor_sha256),
    ):
        if there != expected:
            raise ValueError(f"data/calibration was made with {name} {there[:12]}, expected {expected[:12]}; run `dvc repro calibrate`")
    return {
        "n": found.n,
        "split": found.split,
        "untrusted": {key: why for key, why in found.untrusted().items() if key in values},
        "trusted": [key for key in found.trusted() if key in values],
        "alike": {key: alike[key] for key in found.metrics if key in alike},
        "stands": {key: phrases for key in found.metrics if key in alike and (phrases := found.equivalent(key, alike[key]))},
        "warnings": found.warnings,
    }


def veto(ruler: Mapping[str, Any], key: str) -> str:
    """Why nobody is promoted by this value, and what to set instead; "" where it may decide.

    Args:
        ruler: what `told` said; empty where an evaluation says nothing of its ruler.
    """
    plain = key.removesuffix("_low").removesuffix("_high")
    if plain not in ruler.get("untrusted", {}):
        return ""
    instead = ", ".join(ruler["trusted"])
    advice = (
        f"set register.metric to one that is trusted: {instead}"
        if instead
        else "no value of evaluate.metrics is; try another reference.extractor"
    )
    return f"{plain} is not to be trusted on these data, it {ruler['untrusted'][plain]}; {advice}"


def read(folder: Path) -> Calibration | None:
    """The calibration that the stage wrote to `folder`; None where there is none.

    Raises:
        ValueError: another format.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    if found.pop("format", None) != FORMAT:
        raise ValueError(f"{path} has another format than {FORMAT}; run `dvc repro -f calibrate`")
    return Calibration(
        **found
        | {
            "null": {key: Null(**values) for key, values in found["null"].items()},
            "faults": {name: Rungs(**values) for name, values in found["faults"].items()},
            "metrics": {key: Verdict(**values) for key, values in found["metrics"].items()},
        }
    )
