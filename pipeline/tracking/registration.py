"""A generator as a version in the MLflow registry; who is champion is decided by `deciding`."""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ganlib.files import sha256_file
from ganlib.marks import embedding
from ganlib.redact import redacted
from pipeline.params import ROOT
from pipeline.promotion import Entrant, Spread
from pipeline.provenance.record import Lineage, Version
from pipeline.tracking import deciding, logged_models, model_registry, versions
from pipeline.tracking.card import Card
from pipeline.tracking.deciding import CONTENT, RECIPE, Case, MeasureAgain, Verdict
from pipeline.tracking.flavor import Flavor
from pipeline.tracking.settings import RegisterConfig, TrackingConfig
from pipeline.tracking.store import RUN_KEY, Store, answering, open_store
from pipeline.tracking.versions import FOLDER, WEIGHTS, weights_tag

STRENGTH_TAG = "marks.strength"  # as params.yaml calls it; a version without it marks at the default


@dataclass(frozen=True, kw_only=True)
class Registration:
    """The outcome of the promotion decision.

    Attributes:
        version: None where nothing was registered (`register.dry_run`).
        aliases: that the version has now.
        decision: the rule, its questions, numbers and answers (`pipeline.promotion.Decision`); None where it was not asked, and the reason says why.
        champion: of then, to which the rule compared: its name, its numbers with their intervals, its protocol, and how they came to be measured.
        strength: of the mark that the version puts into images where it is given the key: that of its own registration.
    """

    model: str
    version: int | None
    is_new: bool
    aliases: list[str]
    reason: str
    run_id: str
    decision: dict[str, Any] | None = None
    champion: dict[str, Any] | None = None
    is_dry_run: bool = False
    strength: float | None = None

    @classmethod
    def of(cls, verdict: Verdict, **facts: Any) -> "Registration":
        decision, champion = verdict.decision, verdict.champion
        return cls(
            reason=verdict.reason,
            decision=decision.as_json() if decision is not None else None,
            champion=champion.as_json() if champion is not None else None,
            **facts,
        )

    def in_words(self) -> str:
        """Where the version is, and what the rule said of it, a line a question that was answered with no."""
        if self.is_dry_run:
            return f"{self.model}: {self.reason}"
        is_new = "new" if self.is_new else "known already"
        first = f"models:/{self.model}/{self.version} ({', '.join([is_new, *self.aliases])}): {self.reason}"
        failed = [check for check in (self.decision or {}).get("checks", ()) if not check["passes"]]
        return "\n".join([first, *(f"  not {check['kind']} of {check['key']}: {check['words']}" for check in failed[1:])])


def register_generator(
    register: RegisterConfig,
    tracking: TrackingConfig,
    *,
    generator: nn.Module,
    example: np.ndarray,
    words: str,
    interface: Mapping[str, Any],
    run_key: str,
    card: Card,
    sha256: str,
    images_seen: int,
    truncation: float = 1.0,
    evaluation: Mapping[str, Any],
    recipe: str = "",
    alarms: Sequence[str] = (),
    spreads: Sequence[Spread] = (),
    measure_again: MeasureAgain | None = None,
    tags: Mapping[str, str],
    files: list[Path],
    beside: Sequence[Path] = (),
    lineage: Lineage | None = None,
    root: Path = ROOT,
) -> Registration:
    """Register a generator when its content is new, and decide who is champion.

    Args:
        register: `model` is a name, not `auto`.
        generator: evaluation mode, CPU; one array [N, D] -> [N, C, H, W].
        example: such an array, [2 or more, D] float32.
        words: what it holds, for whoever loads the model.
        interface: the same for programs (`pipeline.forms.interface`).
        card: of the training, for a run that is not there yet.
        images_seen: of its training: the step of its run that the model belongs to.
        sha256, truncation: of its weights; what is built in. They tell one generator from another, and a version that has both is used again.
        evaluation: its evaluation.json, which lies beside the version's model from then on.
        recipe, alarms, spreads: of its training, and what is stored of seeds (`pipeline.promotion`).
        measure_again: measures a champion that was measured otherwise as this generator was.
        beside: files that lie beside a new version's model: its card, further forms.
        lineage: where it comes from; lies beside the model with that evaluation.

    Raises:
        ValueError: the store does not give back what was registered; a reason to force that was used before; another process holds the model.
        tracking.Unanswered: the store does not answer.
    """
    store = open_store(tracking, root)
    with answering(store.uri):
        name, client = register.model, store.client
        content = logged_models.content(sha256, truncation)
        entrant = Entrant(name="this generator", evaluation=evaluation, recipe=recipe, alarms=alarms)
        case = Case(
            store=store, register=register, entrant=entrant, content=content, words=words, spreads=spreads, measure_again=measure_again
        )
        if register.dry_run:
            version = _version_with(store, name, content)
            verdict = deciding.would_be(case, version)
            return Registration.of(verdict, model=name, version=version, is_new=version is None, aliases=[], run_id="", is_dry_run=True)
        deciding.check_force(model_registry.look(store, name), register, content)
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
            with torch.no_grad():
                output = generator(torch.from_numpy(example)).numpy()
            logged_models.link(store, run_id, model, step=images_seen)
            flavor = Flavor(
                store=store, generator=generator, example=example, output=output, interface=interface, beside=beside, run_id=run_id
            )
            version = _log_version(store, run_id, name, model, flavor, words, files)
            # the content tag comes last: a version without it is unfinished, and a retry makes a whole one
            for key, told in {**tags, **_strength_tag(interface), "run_id": run_id, CONTENT: content}.items():
                client.set_model_version_tag(name, str(version), key, told)
            if lacking := _lacking(store, name, version, files):
                raise ValueError(
                    f"{name} version {version} was registered, but {redacted(store.uri)} does not give back {', '.join(lacking)} as it was stored; "
                    "no alias was moved. Look at the server's artifact store (--artifacts-destination), then run `dvc repro register` again"
                )
        measured = {f"metric.{register.metric}": repr(float(evaluation[register.metric])), RECIPE: recipe}
        for key, told in measured.items():
            client.set_model_version_tag(name, str(version), key, told)
        versions.keep(store, name, version, versions.MEASURED, evaluation)
        verdict = deciding.settle(replace(case, entrant=replace(entrant, name=f"version {version}")), version)
        if lineage is not None:
            _keep_lineage(store, name, version, lineage, run_id, verdict.before)
        if is_new_run:  # the training was not tracked here
            client.set_terminated(run_id, "FINISHED")
        standing = model_registry.require(store, name)
    aliases = sorted(alias for alias, number in standing.aliases.items() if number == version)
    strength = float(standing.versions[version].get(STRENGTH_TAG, embedding.STRENGTH))
    return Registration.of(verdict, model=name, version=version, is_new=is_new, aliases=aliases, run_id=run_id, strength=strength)


def _strength_tag(interface: Mapping[str, Any]) -> dict[str, str]:
    return {STRENGTH_TAG: repr(interface["strength"])} if "strength" in interface else {}


def _keep_lineage(store: Store, name: str, version: int, lineage: Lineage, run_id: str, champion: int | None) -> None:
    """Put lineage.json beside the model: once for each evaluation of it, so that a registration that is repeated elsewhere changes nothing.

    Args:
        champion: before it was decided.
    """
    tags = model_registry.require(store, name).versions
    evaluation = tags[version][versions.sha256_tag(versions.MEASURED)]
    with contextlib.suppress(ValueError):  # changed since: it is written anew
        kept = versions.kept(store, name, version, versions.LINEAGE, "")
        if kept is not None and kept["evaluation"] == evaluation:
            return
    other = champion if champion != version else None
    told = {
        "run_id": run_id,
        "evaluation": evaluation,
        "served": versions.served(store, name, version),
        "parent_champion": None if other is None else Version(version=f"models:/{name}/{other}", content=tags[other].get(CONTENT)),
    }
    whole = lineage.model_copy(update=told)
    for key, value in whole.tags.items():
        store.client.set_model_version_tag(name, str(version), key, value)
    versions.keep(store, name, version, versions.LINEAGE, whole.model_dump(mode="json"))


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
            versions.require_missing(error)
            lacking.append("the model")
        for path in files:
            try:
                got = store.client.download_artifacts(run_id, f"{FOLDER}/{path.name}", folder)
                if sha256_file(Path(got)) != sha256_file(path):
                    lacking.append(path.name)
            except (OSError, store.mlflow.exceptions.MlflowException) as error:
                versions.require_missing(error)
                lacking.append(path.name)
    return lacking


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


def _log_version(store: Store, run_id: str, name: str, model: Any, flavor: Flavor, words: str, files: list[Path]) -> int:
    with warnings.catch_warnings(), _quiet_stderr_loggers(), torch.no_grad():
        warnings.simplefilter("ignore")
        info = store.mlflow.models.Model.log(
            None,
            flavor,
            model_id=model.model_id,  # that of its evaluation; one made here would lie with those of `Default`
            # no run_id: the model would be handed the run's numbers of step 0, those of an untrained network
            metadata={"description": words},
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
        name, source=info.model_uri, run_id=run_id, model_id=info.model_id, description=deciding.shortened(words)
    )
    return int(made.version)


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
