"""Whether a challenger takes the place of the champion: a function of two stored evaluations, a stored spread over seeds and the rule.

Nothing is trained or measured here, and nobody is asked. `pipeline.tracking.registration` reads the evaluations from the registry and moves the
alias. Long, because the whole rule stands in one place, so that whoever signs it reads one file.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from scipy import stats

from ganlib.metrics import calibration, needs
from ganlib.metrics.calibration import badness
from ganlib.metrics.intervals import Z95
from ganlib.metrics.measure import compared, differing
from pipeline.tracking.settings import RegisterConfig

FEWEST_SEEDS = 3  # of two, a standard deviation is nearly nothing to go by (its t quantile is 6.3)
FEWEST_RESAMPLES = 4  # that two evaluations have in common
SPREAD_COMMAND = "ganpipe seeds"

Kind = Literal["ruler", "limit", "alarm", "protocol", "superiority over samples", "superiority over seeds", "non-inferiority"]


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A generator as it was measured.

    Attributes:
        name: what the words call it, `version 3`.
        evaluation: its evaluation.json.
        recipe: of its training (`pipeline.spread.recipe`): the same for two trainings that differ in the seed alone.
        alarms: names of those its training raised.
        note: how it came to its evaluation, where that is not the one that it was registered with.
    """

    name: str
    evaluation: Mapping[str, Any]
    recipe: str = ""
    alarms: Sequence[str] = ()
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Its numbers with their intervals, and how they were measured."""
        numbers = {key: value for key, value in self.evaluation.items() if isinstance(value, int | float)}
        return {"name": self.name, "note": self.note, "numbers": numbers, "protocol": self.evaluation.get("protocol", {})}


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What one recipe came to under several seeds.

    Attributes:
        recipe: as `Entrant.recipe`.
        evaluations: of each seed, as evaluation.json has them.
    """

    recipe: str
    evaluations: Sequence[Mapping[str, Any]]

    def of(self, key: str, alike: Mapping[str, Any]) -> list[float]:
        """The numbers `key` of the seeds that were measured as `alike` says (`ganlib.metrics.measure.compared`)."""
        return [float(found[key]) for found in self.evaluations if key in found and compared(key, found) == alike]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question of the rule and its answer.

    Attributes:
        numbers: what the words are made of, by name.
    """

    kind: Kind
    key: str
    passes: bool
    words: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the rule says of a challenger.

    Attributes:
        reason: one sentence for a person.
        not_judged: key -> why a number of the protocol takes no part.
        rule: the settings that decided.
    """

    promotes: bool
    reason: str
    checks: Sequence[Check]
    not_judged: Mapping[str, str]
    rule: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How much nearer to the ideal a challenger is than the champion, in the number's own units; and how sure that is of these very images.

    Attributes:
        error: standard error over the draw of images; 0 where the number has no interval.
        degrees: of freedom of `error`.
        is_paired: by resamples of the same latents against the same images; else the two intervals are taken for independent.
    """

    value: float
    error: float
    degrees: float
    is_paired: bool


def decide(rule: RegisterConfig, challenger: Entrant, champion: Entrant | None, spreads: Sequence[Spread] = ()) -> Decision:
    """The rule, one-sided at `rule.error_rate` wherever chance has a say.

    - *ruler*: the calibration trusts the main number.
    - *limit*, *alarm*: hard ones, of the challenger alone, with or without a champion.
    - *protocol*: both were measured alike (`ganlib.metrics.measure.compared`).
    - *superiority*: the main number is better by more than `rule.margin` of the champion's, beyond what another draw of images may make (paired
      bootstrap), and beyond what another seed of the recipe may make (`Spread`). Both must hold, so that the pair errs no more often than either.
    - *non-inferiority*: every other number that the calibration trusts and whose resamples are stored is worse by no more than its margin:
      `rule.tolerance` of the champion's (of 1 for a share), or what another seed may make, whichever is more. Trusted ones without resamples may not
      be worse by more than that margin and beyond chance (Holm's correction over them).

    Raises:
        ValueError: the challenger's evaluation lacks the main number.
    """
    main = rule.metric
    value = needs.value_of(main)
    if value is None or main not in challenger.evaluation:
        raise ValueError(f"register.metric={main!r} is not in the evaluation of {challenger.name}")
    checks = [_ruler(rule, challenger), *_limits(rule, challenger), *_alarms(rule, challenger)]
    not_judged: dict[str, str] = {}
    if champion is not None:
        checks.append(_alike(main, challenger, champion))
        if checks[-1].passes:
            checks += _superiority(rule, value, challenger, champion, spreads)
            others, not_judged = _others(rule, challenger, champion, spreads)
            checks += others
    failed = [check for check in checks if not check.passes]
    promotes = not failed
    if failed:
        reason = failed[0].words + (
            f"; and {len(failed) - 1} more: {', '.join(_short(check) for check in failed[1:])}" if failed[1:] else ""
        )
    elif champion is None:
        reason = f"there is no champion to compare with; {main} {_number(challenger.evaluation[main])}, within every limit"
    else:
        over = [check.words for check in checks if check.kind.startswith("superiority")]
        reason = "; ".join(over) + f"; no worse in {sum(check.kind == 'non-inferiority' for check in checks)} other numbers"
    told = rule.model_dump(mode="json", exclude={"model", "dry_run", "force", "approval"})
    return Decision(promotes=promotes, reason=reason, checks=checks, not_judged=not_judged, rule=told)


def difference(key: str, challenger: Entrant, champion: Entrant) -> Gain:
    """By how much the challenger's number `key` is better, with its standard error over the draw of images."""
    value = needs.value_of(key)
    assert value is not None
    bad = badness(value.better, value.ideal)
    gain = bad(float(champion.evaluation[key])) - bad(float(challenger.evaluation[key]))
    theirs, ours = (entrant.evaluation.get("resampled", {}).get(key, ()) for entrant in (champion, challenger))
    count = min(len(theirs), len(ours))
    if count >= FEWEST_RESAMPLES and _draws(champion) == _draws(challenger) and _draws(champion) is not None:
        pairs = [bad(one) - bad(other) for one, other in zip(theirs[:count], ours[:count], strict=True)]
        return Gain(value=gain, error=statistics.stdev(pairs), degrees=count - 1, is_paired=True)
    return Gain(value=gain, error=math.hypot(_error(key, champion), _error(key, challenger)), degrees=math.inf, is_paired=False)


def _draws(entrant: Entrant) -> tuple[Any, ...] | None:
    """What makes resample i of two evaluations the same draw; None where it is not known."""
    protocol = entrant.evaluation.get("protocol", {})
    if "latents" not in protocol:
        return None
    return (protocol["latents"], protocol.get("seed"), protocol.get("n_fake"), entrant.evaluation.get("prdc_images"))


def _error(key: str, entrant: Entrant) -> float:
    """Standard error of a number from its 95 % interval, by the longer side: one that ends at a bound is cut there."""
    value = float(entrant.evaluation[key])
    low, high = (float(entrant.evaluation.get(f"{key}{end}", value)) for end in ("_low", "_high"))
    return max(high - value, value - low) / Z95


def _quantile(error_rate: float, degrees: float) -> float:
    return float(stats.norm.ppf(1 - error_rate) if math.isinf(degrees) else stats.t.ppf(1 - error_rate, degrees))


def _p(statistic: float, degrees: float) -> float:
    return float(stats.norm.sf(statistic) if math.isinf(degrees) else stats.t.sf(statistic, degrees))


def _scale(value: needs.Value, number: float) -> float:
    """What a margin is a share of: 1 for a share, so that 0.05 is five points of a hundred; else the number itself."""
    return 1.0 if value.is_share else abs(number)


@dataclass(frozen=True, kw_only=True)
class _OverSeeds:
    """Standard error of the difference between two trainings, and where it comes from; None: nothing is stored."""

    error: float | None
    degrees: float
    words: str


def _over_seeds(rule: RegisterConfig, key: str, challenger: Entrant, champion: Entrant, spreads: Sequence[Spread]) -> _OverSeeds:
    """sqrt(s1^2 + s2^2) of the two recipes' spreads, Welch's degrees of freedom; of one spread, sqrt(2) s and that one's degrees."""
    numbers = [float(entrant.evaluation[key]) for entrant in (challenger, champion)]
    if rule.spread is not None:
        found = math.hypot(*(rule.spread * number for number in numbers))
        return _OverSeeds(
            error=found, degrees=math.inf, words=f"a spread of {100 * rule.spread:g} % over seeds, assumed by register.spread"
        )
    alike = compared(key, challenger.evaluation)
    stored = {spread.recipe: values for spread in spreads if len(values := spread.of(key, alike)) >= FEWEST_SEEDS}
    if not stored:
        return _OverSeeds(error=None, degrees=0, words="")
    # of a recipe that has none, the widest of the others, in proportion
    widest = max(stored.values(), key=lambda values: statistics.stdev(values) / max(abs(statistics.mean(values)), 1e-12))
    own = [stored.get(entrant.recipe, widest) for entrant in (challenger, champion)]
    borrowed = sum(entrant.recipe not in stored for entrant in (challenger, champion))
    deviations, degrees = [], [len(values) - 1 for values in own]
    for entrant, values, number in zip((challenger, champion), own, numbers, strict=True):
        stretch = 1.0 if entrant.recipe in stored else max(1.0, abs(number) / max(abs(statistics.mean(values)), 1e-12))
        deviations.append(stretch * statistics.stdev(values))
    error = math.hypot(*deviations)
    if own[0] is own[1]:  # one estimate for both
        freedom = float(degrees[0])
    else:
        fourth = sum(s**4 / k for s, k in zip(deviations, degrees, strict=True))
        freedom = error**4 / fourth if fourth > 0 else float(min(degrees))
    seeds = " and ".join(map(str, dict.fromkeys(k + 1 for k in degrees)))
    words = f"the spread over {seeds} seeds" + (" of another recipe, in proportion" if borrowed else "")
    return _OverSeeds(error=error, degrees=freedom, words=words)


def _ruler(rule: RegisterConfig, challenger: Entrant) -> Check:
    ruler = challenger.evaluation.get("ruler", {})
    veto = calibration.veto(ruler, rule.metric)
    is_known = rule.metric in ruler.get("trusted", ())
    words = f"the calibration trusts {rule.metric}" if is_known else f"no calibration says what {rule.metric} sees on these data"
    return Check(kind="ruler", key=rule.metric, passes=not veto, words=veto or words)


def _limits(rule: RegisterConfig, challenger: Entrant) -> list[Check]:
    checks, doubts = [], challenger.evaluation.get("ruler", {}).get("untrusted", {})
    for key, limit in rule.limits.items():
        value = needs.value_of(key)
        assert value is not None  # the preflight
        if key not in challenger.evaluation:
            checks.append(Check(kind="limit", key=key, passes=True, words=f"{key} was not measured"))
            continue
        found = float(challenger.evaluation[key])
        is_floor = value.better == "higher"
        passes = found >= limit if is_floor else found <= limit
        words = f"{key} {_number(found)} is {'within' if passes else 'past'} its limit, {'at least' if is_floor else 'at most'} {limit:g}"
        words += "" if passes else f" (register.limits.{key})"
        words += f"; on these data it is not to be trusted: it {doubts[key]}" if key in doubts else ""
        checks.append(Check(kind="limit", key=key, passes=passes, words=words, numbers={"value": found, "limit": limit}))
    return checks


def _alarms(rule: RegisterConfig, challenger: Entrant) -> list[Check]:
    raised = [name for name in rule.alarms if name in challenger.alarms]
    words = (
        f"its training raised {', '.join(raised)} (register.alarms; reports/training/alarms.json)"
        if raised
        else "its training raised no such alarm"
    )
    return [Check(kind="alarm", key=", ".join(rule.alarms), passes=not raised, words=words)] if rule.alarms else []


def _alike(key: str, challenger: Entrant, champion: Entrant) -> Check:
    note = f" ({champion.note})" if champion.note else ""
    if key not in champion.evaluation:
        words = f"{champion.name}, the champion, has no {key} in its evaluation{note}; measure and register it again, or promote by hand"
        return Check(kind="protocol", key=key, passes=False, words=words)
    different = differing(key, challenger.evaluation, champion.evaluation)
    if not different:
        return Check(kind="protocol", key=key, passes=True, words=f"{key} was measured alike{note}")
    told = "; ".join(f"{name} is {_brief(ours)} here and {_brief(theirs)} there" for name, (ours, theirs) in different.items())
    words = (
        f"{champion.name}, the champion, was measured otherwise, so {key} cannot be compared: {told}{note}; measure that model again under these "
        "settings and register it, or promote by hand (`ganpipe registry promote`)"
    )
    numbers = {name: list(both) for name, both in different.items()}
    return Check(kind="protocol", key=key, passes=False, words=words, numbers=numbers)


def _superiority(
    rule: RegisterConfig, value: needs.Value, challenger: Entrant, champion: Entrant, spreads: Sequence[Spread]
) -> list[Check]:
    key = rule.metric
    ours, theirs = float(challenger.evaluation[key]), float(champion.evaluation[key])
    margin, gain = rule.margin * _scale(value, theirs), difference(key, challenger, champion)
    seeds = _over_seeds(rule, key, challenger, champion, spreads)
    least = _quantile(rule.error_rate, gain.degrees) * gain.error
    told = f"{key} {_number(ours)} against {_number(theirs)} of {champion.name}"
    how = "paired resamples of the same latents" if gain.is_paired else "the two intervals"
    numbers = {"challenger": ours, "champion": theirs, "gain": gain.value, "margin": margin}
    p = _p((gain.value - margin) / gain.error, gain.degrees) if gain.error > 0 else float(gain.value <= margin)
    checks = [
        Check(
            kind="superiority over samples",
            key=key,
            passes=gain.value - least > margin,
            words=f"{told}: {_better(gain.value)}{_than(margin)} {'beyond' if gain.value - least > margin else 'not beyond'} another draw of images "
            f"({how}, p = {p:.2g}, one-sided at {rule.error_rate:g})",
            numbers=numbers | {"error": gain.error, "degrees": _finite(gain.degrees), "p": p, "is_paired": gain.is_paired},
        )
    ]
    if seeds.error is None:
        words = (
            f"{told}: how much another seed may make is not stored for these data and this protocol, so nobody can tell this from chance; "
            f"run `{SPREAD_COMMAND}` (which trains), or assume a spread (register.spread)"
        )
        return [*checks, Check(kind="superiority over seeds", key=key, passes=False, words=words, numbers=numbers)]
    reach = _quantile(rule.error_rate, seeds.degrees) * seeds.error
    passes = gain.value - reach > margin
    p = _p((gain.value - margin) / seeds.error, seeds.degrees) if seeds.error > 0 else float(gain.value <= margin)
    words = f"{'more' if passes else 'no more'} than another seed may make ({seeds.words}: {_number(reach)}{_beyond(margin)}, p = {p:.2g})"
    return [
        *checks,
        Check(
            kind="superiority over seeds",
            key=key,
            passes=passes,
            words=words if passes else f"{told}: {_better(gain.value)}, {words}",
            numbers=numbers | {"error": seeds.error, "degrees": _finite(seeds.degrees), "p": p},
        ),
    ]


def _others(rule: RegisterConfig, challenger: Entrant, champion: Entrant, spreads: Sequence[Spread]) -> tuple[list[Check], dict[str, str]]:
    """Every other number of both evaluations: its check, or why it has none."""
    trusted = challenger.evaluation.get("ruler", {}).get("trusted", ())
    untrusted = challenger.evaluation.get("ruler", {}).get("untrusted", {})
    checks, not_judged, harms = [], {}, []
    for key in challenger.evaluation:
        value = needs.value_of(key)
        if value is None or key.endswith(("_low", "_high")) or key == rule.metric:
            continue
        if key not in trusted:
            not_judged[key] = untrusted.get(key, "the calibration does not measure it")
            continue
        if key not in champion.evaluation:
            not_judged[key] = f"{champion.name} has none"
            continue
        if different := differing(key, challenger.evaluation, champion.evaluation):
            not_judged[key] = f"measured otherwise: {', '.join(different)}"
            continue
        gain, seeds = difference(key, challenger, champion), _over_seeds(rule, key, challenger, champion, spreads)
        luck = 0.0 if seeds.error is None else _quantile(rule.error_rate, seeds.degrees) * seeds.error
        margin = max(rule.tolerance * _scale(value, float(champion.evaluation[key])), luck)
        if gain.is_paired:
            checks.append(_non_inferior(key, gain, margin, rule.error_rate, challenger, champion))
        else:
            excess = -gain.value - margin
            p = _p(excess / gain.error, math.inf) if gain.error > 0 else float(excess <= 0)
            harms.append((p, key, gain, margin))
    for rank, (p, key, gain, margin) in enumerate(sorted(harms, key=lambda row: row[0])):
        passes = p > rule.error_rate / (len(harms) - rank)
        words = f"{_told(key, challenger, champion)}, {'not ' if passes else ''}worse beyond chance and a margin of {_number(margin)} (p = {p:.2g})"
        checks.append(
            Check(
                kind="non-inferiority",
                key=key,
                passes=passes,
                words=words,
                numbers={"gain": gain.value, "margin": margin, "error": gain.error, "p": p},
            )
        )
    return checks, not_judged


def _non_inferior(key: str, gain: Gain, margin: float, error_rate: float, challenger: Entrant, champion: Entrant) -> Check:
    worst = -gain.value + _quantile(error_rate, gain.degrees) * gain.error
    passes = worst <= margin
    at_worst = f"at worst {_number(max(0.0, worst))} worse, {'within' if passes else 'past'} a margin of {_number(margin)}"
    words = f"{_told(key, challenger, champion)}, {at_worst}"
    numbers = {"gain": gain.value, "margin": margin, "error": gain.error, "degrees": _finite(gain.degrees), "worst": worst}
    return Check(kind="non-inferiority", key=key, passes=passes, words=words, numbers=numbers)


def _told(key: str, challenger: Entrant, champion: Entrant) -> str:
    return f"{key} {_number(challenger.evaluation[key])} against {_number(champion.evaluation[key])} of {champion.name}"


def _short(check: Check) -> str:
    return f"{check.kind} ({check.key})"


def _better(gain: float) -> str:
    return f"better by {_number(gain)}" if gain > 0 else "no better" if gain == 0 else f"worse by {_number(-gain)}"


def _than(margin: float) -> str:
    return f", more than the margin of {_number(margin)}" if margin > 0 else ""


def _beyond(margin: float) -> str:
    return f" beyond a margin of {_number(margin)}" if margin > 0 else ""


def _number(value: float) -> str:
    return f"{float(value):.4g}"


def _finite(number: float) -> float | None:
    """JSON has no infinity."""
    return None if math.isinf(number) else number


def _brief(value: Any) -> str:
    """A value of a protocol for a sentence: the beginning of a hash."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "not said" if value in (None, []) else text[:12] if len(text) == 64 else text
