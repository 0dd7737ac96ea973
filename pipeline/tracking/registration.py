"""A generator as a version in the MLflow registry, and the decision who is champion.

The rule is `pipeline.promotion`, the aliases and their history are `model_registry`; here they meet, under the lock. Longer than other files because
what is decided for whom (a version that is known, forced, retired, rolled back, or without a champion to meet) is read in one place.
"""

import contextlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from ganlib.files import sha256_file
from ganlib.redact import redacted
from pipeline import promotion
from pipeline.lineage import digest
from pipeline.params import ROOT
from pipeline.promotion import Decision, Entrant, Spread
from pipeline.tracking import logged_models, model_registry, registry_lock, versions
from pipeline.tracking.card import Card
from pipeline.tracking.model_registry import Standing
from pipeline.tracking.registry_lock import Held
from pipeline.tracking.settings import RegisterConfig, TrackingConfig
from pipeline.tracking.store import RUN_KEY, Store, answering, open_store
from pipeline.tracking.versions import FOLDER, WEIGHTS, weights_tag

CONTENT = "content.sha256"
RECIPE = "gan.recipe"  # the same for trainings that differ in the seed alone
RULE, NUMBERS, EVIDENCE, FORCED = "promotion.rule", "promotion.numbers", "promotion.evidence", "promotion.forced"
DESCRIPTION_CHARACTERS = 5_000  # of a version, in MLflow's tables


@dataclass(frozen=True, kw_only=True)
class Registration:
    """The outcome of the promotion decision.

    Attributes:
        version: None where nothing was registered (`register.dry_run`).
        aliases: that the version has now.
        decision: the rule, its questions, numbers and answers (`pipeline.promotion.Decision`); None where it was not asked, and the reason says why.
    """

    model: str
    version: int | None
    is_new: bool
    aliases: list[str]
    reason: str
    run_id: str
    decision: dict[str, Any] | None = None
    is_dry_run: bool = False


def register_generator(
    register: RegisterConfig,
    tracking: TrackingConfig,
    *,
    generator: nn.Module,
    example: np.ndarray,
    words: str,
    run_key: str,
    card: Card,
    sha256: str,
    truncation: float = 1.0,
    evaluation: Mapping[str, Any],
    recipe: str = "",
    alarms: Sequence[str] = (),
    spreads: Sequence[Spread] = (),
    tags: Mapping[str, str],
    files: list[Path],
    root: Path = ROOT,
) -> Registration:
    """Register a generator when its content is new, and decide who is champion.

    Args:
        register: `model` is a name, not `auto`.
        generator: evaluation mode, CPU; one array [N, D] -> [N, C, H, W].
        example: such an array, [2 or more, D] float32.
        words: what it holds, for whoever loads the model.
        card: of the training, for a run that is not there yet.
        sha256, truncation: of its weights; what is built in. They tell one generator from another, and a version that has both is used again.
        evaluation: its evaluation.json, which lies beside the version's model from then on.
        recipe, alarms, spreads: of its training, and what is stored of seeds (`pipeline.promotion`).

    Raises:
        ValueError: the store does not give back what was registered; a reason to force that was used before; another process holds the model.
        tracking.Unanswered: the store does not answer.
    """
    store = open_store(tracking, root)
    with answering(store.uri):
        name, client = register.model, store.client
        content = logged_models.content(sha256, truncation)
        entrant = Entrant(name="this generator", evaluation=evaluation, recipe=recipe, alarms=alarms)
        if register.dry_run:
            return _dry_run(store, register, entrant, content, spreads)
        _check_force(model_registry.look(store, name), register, content)
        run, is_new_run = store.run(run_key, name=card.name, tags=card.tags)
        run_id = str(run.info.run_id)
        version = _version_with(store, name, content)
        if version is not None and _lacking(store, name, version, _stored(store, name, version, files)):
            version = None  # its artifacts were lost or changed: what it names is made again, as a new one
        if version is not None:
            _complete(store, name, version, run_key, tags, files)
        is_new = version is None
        if version is None:
            model = logged_models.of_generator(store, run, sha256=sha256, truncation=truncation)
            version = _log_version(store, run_id, name, model, generator, example, words, files)
            # the content tag comes last: a version without it is unfinished, and a retry makes a whole one
            for key, told in {**tags, "run_id": run_id, CONTENT: content}.items():
                client.set_model_version_tag(name, str(version), key, told)
            if lacking := _lacking(store, name, version, files):
                raise ValueError(
                    f"{name} version {version} was registered, but {redacted(store.uri)} does not give back {', '.join(lacking)} as it was stored; "
                    "no alias was moved. Look at the server's artifact store (--artifacts-destination), then run `dvc repro register` again"
                )
        measured = {f"metric.{register.metric}": repr(float(evaluation[register.metric])), RECIPE: recipe}
        for key, told in measured.items():
            client.set_model_version_tag(name, str(version), key, told)
        versions.keep_evaluation(store, name, version, evaluation)
        with registry_lock.held(store, name) as held:
            client.set_registered_model_alias(name, model_registry.CHALLENGER, str(version))
            reason, decision = _settle(store, held, register, version, replace(entrant, name=f"version {version}"), content, spreads)
        if is_new_run:  # the training was not tracked here
            client.set_terminated(run_id, "FINISHED")
        standing = model_registry.require(store, name)
    aliases = sorted(alias for alias, number in standing.aliases.items() if number == version)
    return Registration(
        model=name,
        version=version,
        is_new=is_new,
        aliases=aliases,
        reason=reason,
        run_id=run_id,
        decision=decision.as_json() if decision is not None else None,
    )


def _check_force(standing: Standing | None, register: RegisterConfig, content: str) -> None:
    """A reason is given once: one that stays in params.yaml would crown whatever is registered after it."""
    used = {} if standing is None else {tags.get(FORCED): tags for tags in standing.versions.values() if tags.get(CONTENT) != content}
    if register.force is not None and register.force in used:
        raise ValueError(
            f"register.force={register.force!r} was the reason for another version of {register.model} already; set register.force: null, or give a "
            "reason of its own"
        )


def _dry_run(store: Store, register: RegisterConfig, entrant: Entrant, content: str, spreads: Sequence[Spread]) -> Registration:
    """What would be decided. Nothing is written to the registry."""
    standing = model_registry.look(store, register.model)
    version = None if standing is None else _version_with(store, register.model, content)
    reason, _, decision = _verdict(store, register, standing, version, entrant, content, spreads)
    return Registration(
        model=register.model,
        version=version,
        is_new=version is None,
        aliases=[],
        reason=f"dry run, nothing was registered: {reason}",
        run_id="",
        decision=decision.as_json() if decision is not None else None,
        is_dry_run=True,
    )


def _settle(
    store: Store, held: Held, register: RegisterConfig, version: int, entrant: Entrant, content: str, spreads: Sequence[Spread]
) -> tuple[str, Decision | None]:
    """Decide, and move the alias: one step, under the lock. Returns why, and what the rule said."""
    name = register.model
    standing, moved = model_registry.reconcile(store, held, model_registry.require(store, name))
    reason, outcome, decision = _verdict(store, register, standing, version, entrant, content, spreads)
    reason = f"{reason} ({moved})" if moved else reason
    if decision is not None:
        numbers = json.dumps([{**asdict(check)} for check in decision.checks], ensure_ascii=False)
        for key, told in {
            RULE: json.dumps(decision.rule, sort_keys=True),
            NUMBERS: numbers[: model_registry.MOST_CHARACTERS],
            EVIDENCE: _evidence(register, entrant, spreads),
        }.items():
            store.client.set_model_version_tag(name, str(version), key, told)
    if outcome == "champion":
        if register.force is not None:
            store.client.set_model_version_tag(name, str(version), FORCED, register.force)
        model_registry.crown(store, held, standing, version, what="forced" if register.force is not None else "promoted", why=reason)
    elif outcome == "awaiting":
        model_registry.await_approval(store, held, standing, version, why=reason)
    elif outcome == "rejected":
        model_registry.mark(store, name, version, "rejected", reason)
    return reason, decision


Outcome = Literal["champion", "awaiting", "rejected", "as it is"]


def _verdict(
    store: Store,
    register: RegisterConfig,
    standing: Standing | None,
    version: int | None,
    entrant: Entrant,
    content: str,
    spreads: Sequence[Spread],
) -> tuple[str, Outcome, Decision | None]:
    """Why, what becomes of the version, and what the rule said where it was asked."""
    name = register.model
    if standing is not None and version is not None and version in standing.versions:
        tags, state = standing.versions[version], standing.state(version)
        if standing.champion == version:
            return "it is the champion already", "as it is", None
        before = tags.get(model_registry.REASON, "")
        if state == "retired":
            return f"it was retired: {before}", "as it is", None
        if register.force is not None:
            return f"forced by register.force: {register.force}", "champion", None
        by_hand = f"`ganpipe registry promote {name} {version} --reason ...` does"
        if state == "rolled back":
            return f"it was rolled back, and registering it again does not undo that ({before}); {by_hand}", "as it is", None
        if state == "rejected" and tags.get(EVIDENCE) == _evidence(register, entrant, spreads):
            return f"it was rejected by these very measurements: {before}; {by_hand}", "as it is", None
    if register.force is not None:
        return f"forced by register.force: {register.force}", "champion", None
    if standing is not None and standing.champion is None and (lost := _lost(standing, version)):
        return lost, "as it is", None
    champion = _champion(store, standing)
    decision = promotion.decide(register, entrant, champion, spreads)
    reason = decision.reason
    if champion is None and standing is not None and standing.history:
        reason = f"{reason} ({standing.history[-1].in_words()})"
    if not decision.promotes:
        return reason, "rejected", decision
    return (
        (f"it awaits approval (register.approval: manual): {reason}", "awaiting", decision)
        if register.approval == "manual"
        else (reason, "champion", decision)
    )


def _lost(standing: Standing, version: int | None) -> str:
    """Why nobody is crowned though nobody is champion: the alias has got lost. "" where there is no champion for good reason."""
    advice = f"`ganpipe registry promote {standing.name} VERSION --reason ...` makes a champion"
    if standing.noted is not None:
        last = f"`ganpipe registry promote {standing.name} {standing.noted} --reason ...` gives it back"
        return f"the alias champion is gone, and version {standing.noted} had it last; nobody is crowned because it is missing. {last}"
    unknown = [number for number, tags in standing.versions.items() if number != version and model_registry.STATE not in tags]
    if unknown and not standing.history:
        return (
            f"there is no alias champion, and {len(unknown)} earlier version{'s' if len(unknown) > 1 else ''} of which nobody knows whether one "
            f"had it ({', '.join(map(str, sorted(unknown)[:10]))}); nobody is crowned because it is missing. {advice}"
        )
    return ""


def _champion(store: Store, standing: Standing | None) -> Entrant | None:
    if standing is None or standing.champion is None:
        return None
    tags = standing.versions[standing.champion]
    found = versions.kept_evaluation(store, standing.name, standing.champion) or {}
    return Entrant(name=f"version {standing.champion}", evaluation=found, recipe=tags.get(RECIPE, ""))


def _evidence(register: RegisterConfig, entrant: Entrant, spreads: Sequence[Spread]) -> str:
    """The same where a version is judged by the same numbers, the same spread and the same rule."""
    rule = register.model_dump(mode="json", exclude={"dry_run", "force", "approval"})
    told = [[spread.recipe, [dict(found) for found in spread.evaluations]] for spread in spreads]
    return digest([rule, dict(entrant.evaluation), sorted(entrant.alarms), told])


def _version_with(store: Store, name: str, content: str) -> int | None:
    for version in store.client.search_model_versions(f"name = '{name}' and tags.`{CONTENT}` = '{content}'"):
        return int(version.version)
    return None


def _stored(store: Store, name: str, version: int, files: list[Path]) -> list[Path]:
    """Which weights a version says that it holds; one that was registered before they were stored holds none."""
    tags = store.client.get_model_version(name, str(version)).tags
    return [path for path in files if path.suffix == ".safetensors" and weights_tag(path.stem) in tags]


def _lacking(store: Store, name: str, version: int, files: list[Path]) -> list[str]:
    """What a version names and the store does not have, or has with other bytes than `files`."""
    lacking = []
    run_id = store.client.get_model_version(name, str(version)).run_id
    with tempfile.TemporaryDirectory(prefix="register-") as folder:
        try:
            store.mlflow.models.get_model_info(f"models:/{name}/{version}")
        except (OSError, store.mlflow.exceptions.MlflowException) as error:
            _require_missing(error)
            lacking.append("the model")
        for path in files:
            try:
                got = store.client.download_artifacts(run_id, f"{FOLDER}/{path.name}", folder)
                if sha256_file(Path(got)) != sha256_file(path):
                    lacking.append(path.name)
            except (OSError, store.mlflow.exceptions.MlflowException) as error:
                _require_missing(error)
                lacking.append(path.name)
    return lacking


def _require_missing(error: Exception) -> None:
    """Raise what does not say that a file is not there."""
    gone = isinstance(error, FileNotFoundError | NotADirectoryError) or "No such file" in str(error) or "404" in str(error)
    if not gone and getattr(error, "error_code", "") not in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
        raise error


def _complete(store: Store, name: str, version: int, run_key: str, tags: Mapping[str, str], files: list[Path]) -> None:
    """Add what a version of this training lacks because it was registered before it was stored: weights that another training starts from."""
    known = store.client.get_model_version(name, str(version))
    lacking = {key: value for key, value in tags.items() if key.endswith(WEIGHTS) and key not in known.tags}
    if not lacking or known.tags.get(RUN_KEY) != run_key:
        return
    for path in files:
        store.client.log_artifact(known.run_id, str(path), FOLDER)
    for key, value in lacking.items():
        store.client.set_model_version_tag(name, str(version), key, value)


def _log_version(
    store: Store, run_id: str, name: str, model: Any, generator: nn.Module, example: np.ndarray, words: str, files: list[Path]
) -> int:
    import torch

    with warnings.catch_warnings(), _quiet_stderr_loggers(), torch.no_grad():
        warnings.simplefilter("ignore")
        output = generator(torch.from_numpy(example)).numpy()
        info = store.mlflow.pytorch.log_model(
            generator,
            model_id=model.model_id,  # that of its evaluation; one made here would lie with those of `Default`
            # not `start_run`, which would change the run's status and end; a run can name an output only once, and this may be a repeat
            run_id=None if logged_models.is_linked(store, run_id, model) else run_id,
            signature=store.mlflow.models.infer_signature(example, output),
            input_example=example,
            metadata={"description": words},
            serialization_format="pt2",
            pip_requirements=[
                f"torch=={torch.__version__.split('+')[0]}",
                f"numpy=={np.__version__}",
                f"mlflow=={store.mlflow.__version__}",
            ],
        )
    for path in files:
        store.client.log_artifact(run_id, str(path), FOLDER)
    with contextlib.suppress(store.mlflow.exceptions.MlflowException):  # it exists
        store.client.create_registered_model(name)
    made = store.client.create_model_version(
        name, source=info.model_uri, run_id=run_id, model_id=info.model_id, description=shortened(words)
    )
    return int(made.version)


def shortened(words: str, limit: int = DESCRIPTION_CHARACTERS) -> str:
    """`words` as a version's description holds them: whole up to `limit` characters, else with where the rest stands."""
    rest = "... (the rest: mlflow.models.get_model_info of this version, .metadata['description'])"
    return words if len(words) <= limit else words[: limit - len(rest)].rpartition(",")[0] + rest


@contextlib.contextmanager
def _quiet_stderr_loggers() -> Iterator[None]:
    """torch.export and mlflow say a good deal that is no news."""
    names = ("torch.export", "torch._dynamo", "torch.fx", "mlflow")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
