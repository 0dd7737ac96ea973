"""Who is champion once a version is there: the rule (`pipeline.promotion`) and the aliases (`model_registry`) meet, under the lock.

A champion that was measured otherwise is measured again, without the lock; whoever is champion when that is done is asked for anew.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ganlib.metrics.measure import differing
from pipeline import promotion
from pipeline.lineage import digest
from pipeline.promotion import Decision, Entrant, Spread
from pipeline.tracking import model_registry, registry_lock, versions
from pipeline.tracking.model_registry import Standing
from pipeline.tracking.registry_lock import Held
from pipeline.tracking.settings import RegisterConfig
from pipeline.tracking.store import Store, Unanswered

CARD = "Model card: README.md, beside the model."
CONTENT = "content.sha256"
RECIPE = "gan.recipe"  # the same for trainings that differ in the seed alone
RULE, NUMBERS, EVIDENCE, FORCED = "promotion.rule", "promotion.numbers", "promotion.evidence", "promotion.forced"
TRUNCATION = "truncation"
DESCRIPTION_CHARACTERS = 5_000  # of a version, in MLflow's tables
MOST_FAILED = 10  # questions in a summary

MeasureAgain = Callable[
    [str, float], Mapping[str, Any]
]  # `models:/NAME/VERSION`, its truncation -> an evaluation.json; ValueError: it cannot be
Outcome = Literal["champion", "awaiting", "rejected", "as it is"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A generator that asks to be champion.

    Attributes:
        content: what tells its generator from others.
        words: what it holds, for the description of its version.
        again: version -> its evaluation as this one was measured, or why there is none.
    """

    store: Store
    register: RegisterConfig
    entrant: Entrant
    content: str
    words: str
    spreads: Sequence[Spread] = ()
    measure_again: MeasureAgain | None = None
    again: Mapping[int, Mapping[str, Any] | str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.register.model

    @property
    def evidence(self) -> str:
        """The same where a version is judged by the same numbers, the same spread and the same rule."""
        rule = self.register.model_dump(mode="json", exclude={"dry_run", "force", "approval"})
        told = [[spread.recipe, [dict(found) for found in spread.evaluations]] for spread in self.spreads]
        return digest([rule, dict(self.entrant.evaluation), sorted(self.entrant.alarms), told])


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What becomes of a version.

    Attributes:
        decision: of the rule, None where it was not asked.
        champion: whom it was compared with.
        before: who was champion until then.
    """

    reason: str
    outcome: Outcome
    decision: Decision | None = None
    champion: Entrant | None = None
    before: int | None = None


def check_force(standing: Standing | None, register: RegisterConfig, content: str) -> None:
    """A reason is given once: one that stays in params.yaml would crown whatever is registered after it.

    Raises:
        ValueError: it was used for another version.
    """
    used = {} if standing is None else {tags.get(FORCED): tags for tags in standing.versions.values() if tags.get(CONTENT) != content}
    if register.force is not None and register.force in used:
        raise ValueError(
            f"register.force={register.force!r} was the reason for another version of {register.model} already; set register.force: null, or give a "
            "reason of its own"
        )


def would_be(case: Case, version: int | None) -> Verdict:
    """What would be decided. Nothing is written to the registry."""
    while True:
        standing = model_registry.look(case.store, case.name)
        verdict = _verdict(case, standing, version)
        if isinstance(verdict, Verdict):
            return replace(verdict, reason=f"dry run, nothing was registered: {verdict.reason}")
        case = _measured_again(case, verdict, standing)


def settle(case: Case, version: int) -> Verdict:
    """Decide, and move the alias: one step, under the lock.

    Raises:
        ValueError: as `check_force`.
    """
    while True:
        with registry_lock.held(case.store, case.name) as held:
            standing, moved = model_registry.reconcile(case.store, held, model_registry.require(case.store, case.name))
            check_force(standing, case.register, case.content)  # once more: two may have begun with the same reason
            verdict = _verdict(case, standing, version)
            if isinstance(verdict, Verdict):
                case.store.client.set_registered_model_alias(case.name, model_registry.CHALLENGER, str(version))
                verdict = replace(verdict, reason=f"{verdict.reason} ({moved})" if moved else verdict.reason, before=standing.champion)
                _act(case, held, standing, version, verdict)
                return verdict
        case = _measured_again(case, verdict, standing)


def _act(case: Case, held: Held, standing: Standing, version: int, verdict: Verdict) -> None:
    """Write why, on the version and beside its model; then move the alias."""
    store, name, why = case.store, case.name, verdict.reason
    if verdict.outcome != "as it is":
        store.client.update_model_version(name, str(version), description=described(case.words, why))
    if verdict.decision is not None:
        whole = {"reason": why, "decision": verdict.decision.as_json()}
        if verdict.champion is not None:
            whole |= {"champion": verdict.champion.as_json(), "champion_evaluation": dict(verdict.champion.evaluation)}
        versions.keep(store, name, version, versions.PROMOTION, whole)
        for key, told in {
            RULE: json.dumps(verdict.decision.rule, sort_keys=True),
            NUMBERS: json.dumps(summary(verdict.decision), ensure_ascii=False),
            EVIDENCE: case.evidence,
        }.items():
            store.client.set_model_version_tag(name, str(version), key, told)
    if verdict.outcome == "champion":
        force = case.register.force
        if force is not None:
            store.client.set_model_version_tag(name, str(version), FORCED, force)
        model_registry.crown(store, held, standing, version, what="forced" if force is not None else "promoted", why=why)
    elif verdict.outcome == "awaiting":
        model_registry.await_approval(store, held, standing, version, why=why)
    elif verdict.outcome == "rejected":
        model_registry.mark(store, name, version, "rejected", why)


def summary(decision: Decision) -> dict[str, Any]:
    """A decision as a tag has place for it; the whole is the version's promotion.json."""
    failed = [f"{check.kind} ({check.key})" for check in decision.checks if not check.passes]
    over = {
        check.kind.removeprefix("superiority over "): check.numbers for check in decision.checks if check.kind.startswith("superiority")
    }
    main = next(iter(over.values()), {})
    return {
        "promotes": decision.promotes,
        **{key: main[key] for key in ("challenger", "champion", "margin") if key in main},
        **{f"p_over_{what}": numbers["p"] for what, numbers in over.items() if "p" in numbers},
        "asked": len(decision.checks),
        "failed": failed[:MOST_FAILED] + ([f"and {len(failed) - MOST_FAILED} more"] if failed[MOST_FAILED:] else []),
        "whole": versions.PROMOTION,
    }


def described(words: str, why: str) -> str:
    """A version's description: what it holds, what was decided when it was registered, and where its card is."""
    told = f"\n\nWhen it was registered: {why[: DESCRIPTION_CHARACTERS // 4]}\n\n{CARD}"
    return shortened(words, DESCRIPTION_CHARACTERS - len(told)) + told


def shortened(words: str, limit: int = DESCRIPTION_CHARACTERS) -> str:
    """`words` as a version's description holds them: whole up to `limit` characters, else with where the rest stands."""
    rest = "... (the rest: mlflow.models.get_model_info of this version, .metadata['description'])"
    return words if len(words) <= limit else words[: limit - len(rest)].rpartition(",")[0] + rest


def _verdict(case: Case, standing: Standing | None, version: int | None) -> Verdict | int:
    """What becomes of the version; the number of a champion that must be measured again first."""
    register, name = case.register, case.name
    if standing is not None and version is not None and version in standing.versions:
        tags, state = standing.versions[version], standing.state(version)
        if standing.champion == version:
            return Verdict(reason="it is the champion already", outcome="as it is")
        before = tags.get(model_registry.REASON, "")
        if state == "retired":
            return Verdict(reason=f"it was retired: {before}", outcome="as it is")
        by_hand = f"`ganpipe registry promote {name} {version} --reason ...` does"
        if state == "rolled back" and register.force is None:
            reason = f"it was rolled back, and registering it again does not undo that ({before}); {by_hand}"
            return Verdict(reason=reason, outcome="as it is")
        if state == "rejected" and register.force is None and tags.get(EVIDENCE) == case.evidence:
            return Verdict(reason=f"it was rejected by these very measurements: {before}; {by_hand}", outcome="as it is")
    if register.force is not None:
        return Verdict(reason=f"forced by register.force: {register.force}", outcome="champion")
    if standing is not None and standing.champion is None and (lost := _lost(standing, version)):
        return Verdict(reason=lost, outcome="as it is")
    champion = _champion(case, standing)
    if champion is not None and standing is not None and standing.champion is not None:
        is_unlike = differing(register.metric, case.entrant.evaluation, champion.evaluation)
        if is_unlike and case.measure_again is not None and standing.champion not in case.again:
            return standing.champion
    decision = promotion.decide(register, case.entrant, champion, case.spreads)
    reason = decision.reason
    if champion is None and standing is not None and standing.history:
        reason = f"{reason} ({standing.history[-1].in_words()})"
    outcome: Outcome = "champion" if decision.promotes else "rejected"
    if decision.promotes and register.approval == "manual":
        reason, outcome = f"it awaits approval (register.approval: manual): {reason}", "awaiting"
    return Verdict(reason=reason, outcome=outcome, decision=decision, champion=champion)


def _lost(standing: Standing, version: int | None) -> str:
    """Why nobody is crowned though nobody is champion: the alias has got lost. "" where there is no champion for good reason."""
    advice = f"`ganpipe registry promote {standing.name} VERSION --reason ...` makes a champion"
    if standing.noted is not None:
        last = f"`ganpipe registry promote {standing.name} {standing.noted} --reason ...` gives it back"
        return f"the alias champion is gone, and version {standing.noted} had it last; nobody is crowned because it is missing. {last}"
    # whoever is about to decide of a version has told its recipe: such a one is being registered beside this one, or was never decided of
    told = (model_registry.STATE, RECIPE)
    unknown = [number for number, tags in standing.versions.items() if number != version and not any(tag in tags for tag in told)]
    if unknown and not standing.history:
        return (
            f"there is no alias champion, and {len(unknown)} earlier version{'s' if len(unknown) > 1 else ''} of which nobody knows whether one "
            f"had it ({', '.join(map(str, sorted(unknown)[:10]))}); nobody is crowned because it is missing. {advice}"
        )
    return ""


def _champion(case: Case, standing: Standing | None) -> Entrant | None:
    """As it is registered, or as it was measured again."""
    if standing is None or standing.champion is None:
        return None
    number = standing.champion
    found: Mapping[str, Any] = versions.kept_evaluation(case.store, standing.name, number) or {}
    again, note = case.again.get(number), ""
    if isinstance(again, str):
        note = f"it could not be measured again here: {again}"
    elif again is not None:
        different = ", ".join(differing(case.register.metric, again, found)) or "some keys"
        found, note = again, f"measured again as this generator was, as it was measured otherwise in {different}"
    return Entrant(name=f"version {number}", evaluation=found, recipe=standing.versions[number].get(RECIPE, ""), note=note)


def _measured_again(case: Case, number: int, standing: Standing | None) -> Case:
    assert case.measure_again is not None
    assert standing is not None
    try:
        truncation = float(standing.versions[number].get(TRUNCATION, 1.0))
        found: Mapping[str, Any] | str = case.measure_again(f"models:/{case.name}/{number}", truncation)
    except Unanswered:
        raise
    except (ValueError, OSError) as error:  # its files are gone, it makes other images, ...
        found = str(error)
    return replace(case, again={**case.again, number: found})
