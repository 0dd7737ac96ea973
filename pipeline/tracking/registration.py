"""A generator as a version in the MLflow registry, and the decision who is champion."""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ganlib.files import sha256_file
from ganlib.metrics.needs import Value
from ganlib.redact import redacted
from pipeline.lineage import digest
from pipeline.params import ROOT
from pipeline.tracking.settings import RegisterConfig, TrackingConfig
from pipeline.tracking.store import RUN_KEY, Store, answering, open_store
from pipeline.tracking.versions import FOLDER, WEIGHTS, weights_tag

CONTENT = "content.sha256"
DESCRIPTION_CHARACTERS = 5_000  # of a version, in MLflow's tables


@dataclass(frozen=True, kw_only=True)
class Registration:
    """The outcome of the promotion decision."""

    model: str
    version: int
    is_new: bool
    aliases: list[str]
    reason: str
    run_id: str


def register_generator(
    register: RegisterConfig,
    tracking: TrackingConfig,
    *,
    generator: nn.Module,
    example: np.ndarray,
    words: str,
    run_key: str,
    content: str,
    score: float,
    value: Value,
    protocol: Mapping[str, Any],
    tags: Mapping[str, str],
    files: list[Path],
    root: Path = ROOT,
) -> Registration:
    """Register a generator when its content is new, and decide who is champion.

    Args:
        generator: evaluation mode, CPU; one array [N, D] -> [N, C, H, W].
        example: such an array, [2 or more, D] float32.
        words: what it holds, for whoever loads the model.
        content: sha256 that tells one generator from another; a version that has it is used again.
        score: of `register.metric`.
        value: what that number is; it says which score is better.
        protocol: how it was measured; two scores are compared only when they agree in it.

    Raises:
        ValueError: the store does not give back what was registered.
        tracking.Unanswered: the store does not answer.
    """
    store = open_store(tracking, root)
    with answering(store.uri):
        name, client = register.model, store.client
        run, is_new_run = store.run(run_key)
        run_id = str(run.info.run_id)
        version = _version_with(store, name, content)
        if version is not None and _lacking(store, name, version, _stored(store, name, version, files)):
            version = None  # its artifacts were lost or changed: what it names is made again, as a new one
        if version is not None:
            _complete(store, name, version, run_key, tags, files)
        is_new = version is None
        if version is None:
            version = _log_version(store, run_id, name, generator, example, words, files)
            measured = {f"metric.{register.metric}": repr(score), "metric.protocol": digest(dict(protocol))}
            # the content tag comes last: a version without it is unfinished, and a retry makes a whole one
            for key, told in {**tags, **measured, "run_id": run_id, CONTENT: content}.items():
                client.set_model_version_tag(name, str(version), key, told)
            if lacking := _lacking(store, name, version, files):
                raise ValueError(
                    f"{name} version {version} was registered, but {redacted(store.uri)} does not give back {', '.join(lacking)} as it was stored; "
                    "no alias was moved. Look at the server's artifact store (--artifacts-destination), then run `dvc repro register` again"
                )
        client.set_registered_model_alias(name, "challenger", str(version))
        is_champion, reason = _decide(store, register, version, score=score, value=value, protocol=digest(dict(protocol)))
        if is_champion:
            client.set_registered_model_alias(name, "champion", str(version))
        if is_new_run:  # the training was not tracked here
            client.set_terminated(run_id, "FINISHED")
    aliases = ["challenger", *(["champion"] if is_champion else [])]
    return Registration(model=name, version=version, is_new=is_new, aliases=aliases, reason=reason, run_id=run_id)


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


def _decide(store: Store, register: RegisterConfig, version: int, *, score: float, value: Value, protocol: str) -> tuple[bool, str]:
    """Whether `version` becomes (or stays) champion, and why."""
    name, metric = register.model, register.metric
    registered = store.client.get_registered_model(name)
    champion = registered.aliases.get("champion")
    if champion is None:
        return True, "there was no champion"
    if int(champion) == version:
        return True, "it is the champion already"
    tags = store.client.get_model_version(name, champion).tags
    if tags.get("metric.protocol") != protocol or f"metric.{metric}" not in tags:
        return False, f"champion version {champion} was measured by another protocol: {metric} cannot be compared; move the alias by hand"
    theirs = float(tags[f"metric.{metric}"])
    verdict = f"{metric} {score:.4g} against {theirs:.4g} of version {champion}"
    return value.is_better(score, theirs), verdict


def _log_version(store: Store, run_id: str, name: str, generator: nn.Module, example: np.ndarray, words: str, files: list[Path]) -> int:
    import torch

    with warnings.catch_warnings(), _quiet_stderr_loggers(), torch.no_grad():
        warnings.simplefilter("ignore")
        output = generator(torch.from_numpy(example)).numpy()
        # else the model lies with those of `Default`, below the current folder
        store.mlflow.set_experiment(experiment_id=store.experiment_id)
        info = store.mlflow.pytorch.log_model(
            generator,
            name="generator",
            run_id=run_id,  # not `start_run`, which would change the run's status and end
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
