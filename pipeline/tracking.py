"""MLflow: the only file that imports it. Everything else hands it plain numbers and paths.

One run a training, found again by its run key, so that a resume, the evaluation and the registration all speak of the same run.
"""

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pipeline.lineage import digest
from pipeline.params import ROOT, Params

RUN_KEY = "gan.run_key"
CONTENT = "content.sha256"


def tracking_uri(params: Params, root: Path = ROOT) -> str:
    """MLFLOW_TRACKING_URI, else `tracking.uri`, else a sqlite file in the project folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or params.tracking.uri or f"sqlite:///{root / 'mlflow.db'}"


def _mlflow(uri: str) -> Any:
    """The mlflow module, pointed at `uri`, quiet, without telemetry and without pickle."""
    for key, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(key, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the import
        import mlflow
    for name in ("alembic", "mlflow", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow


class Store:
    """One MLflow tracking store and experiment.

    Args:
        uri: tracking URI.
        experiment: name; made when it is not there, with artifacts beside a sqlite store.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = uri
        self.mlflow = _mlflow(uri)
        self.client = self.mlflow.MlflowClient(uri)
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            location = str(Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts") if uri.startswith("sqlite:///") else None
            try:
                self.experiment_id = self.client.create_experiment(experiment, artifact_location=location)
            except self.mlflow.exceptions.MlflowException:  # somebody was faster
                self.experiment_id = self.client.get_experiment_by_name(experiment).experiment_id
        else:
            self.experiment_id = found.experiment_id

    def find_run(self, run_key: str) -> str | None:
        """The id of the newest run of this training, whatever its status."""
        runs = self.client.search_runs([self.experiment_id], f"tags.`{RUN_KEY}` = '{run_key}'", order_by=["attributes.start_time DESC"])
        return str(runs[0].info.run_id) if runs else None

    def run(self, run_key: str, *, tags: Mapping[str, str] | None = None) -> str:
        """The run of this training, made when there is none."""
        run_id = self.find_run(run_key)
        if run_id is None:
            created = self.client.create_run(self.experiment_id, run_name=run_key[:12], tags={RUN_KEY: run_key})
            run_id = str(created.info.run_id)
        for key, value in (tags or {}).items():
            self.client.set_tag(run_id, key, value)
        return run_id

    def address(self, run_id: str) -> str:
        """What a person types to look at a run."""
        return f"{self.uri} run {run_id}"


def open_store(params: Params, root: Path = ROOT) -> Store:
    """The store params.yaml and the environment name.

    Raises:
        OSError: it does not answer.
    """
    uri = tracking_uri(params, root)
    try:
        return Store(uri, params.tracking.experiment)
    except Exception as error:  # whatever the store's driver raises: SQL, HTTP, ...
        raise OSError(f"MLflow at {uri} does not answer (MLFLOW_TRACKING_URI or tracking.uri): {error}") from error


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """What a run says of a training before its first loss."""

    run_key: str
    params: Mapping[str, Any]  # nested settings that determine the result
    tags: Mapping[str, str]  # settings that do not, commit, digests
    data_digest: str
    data_source: str
    files: tuple[Path, ...] = ()


class TrainingRun:
    """Ships a training's history into its run. Every call may raise; whoever calls tries again, and nothing is written twice."""

    def __init__(self, params: Params, facts: TrainingFacts, root: Path = ROOT) -> None:
        self._params = params
        self._facts = facts
        self._root = root
        self._open: tuple[Store, str] | None = None

    def lines(self, lines: list[dict[str, Any]]) -> None:
        """History lines: losses over images, with the time they were made, so that a replay adds nothing."""
        store, run_id = self._ensure()
        metric = store.mlflow.entities.Metric
        points = [
            metric(f"train/{name}", float(value), int(line["time"] * 1000), line["images_seen"])
            for line in lines
            for name, value in {**line["scalars"], "images_per_second": line["images_per_second"]}.items()
        ]
        for start in range(0, len(points), 1000):
            store.client.log_batch(run_id, metrics=points[start : start + 1000])

    def grid(self, path: Path) -> None:
        store, run_id = self._ensure()
        store.client.log_artifact(run_id, str(path), "grids")

    def event(self, text: str) -> None:
        store, run_id = self._ensure()
        store.client.set_tag(run_id, "gan.last_event", text)

    def end(self, status: str) -> None:
        """FINISHED, FAILED or KILLED."""
        store, run_id = self._ensure()
        store.client.set_terminated(run_id, status)

    def _ensure(self) -> tuple[Store, str]:
        if self._open is None:
            store = open_store(self._params, self._root)
            run_id = store.run(self._facts.run_key, tags=self._facts.tags)
            store.client.update_run(run_id, status="RUNNING")
            param = store.mlflow.entities.Param
            values = [param(key, str(value)) for key, value in flatten(self._facts.params).items()]
            for start in range(0, len(values), 100):
                store.client.log_batch(run_id, params=values[start : start + 100])
            entities = store.mlflow.entities
            source = json.dumps({"source": self._facts.data_source})
            dataset = entities.Dataset(self._facts.data_source, self._facts.data_digest[:32], "local", source)
            store.client.log_inputs(run_id, [entities.DatasetInput(dataset, [entities.InputTag("mlflow.data.context", "training")])])
            for path in self._facts.files:
                store.client.log_artifact(run_id, str(path))
            self._open = store, run_id
        return self._open


def log_evaluation(
    params: Params, run_key: str, metrics: Mapping[str, float], artifacts: list[Path], *, images_seen: int = 0, root: Path = ROOT
) -> str:
    """Put the evaluation's numbers and pictures into the run of the training they are about.

    Returns:
        where to look at the run.
    """
    store = open_store(params, root)
    run_id = store.run(run_key)
    for name, value in metrics.items():
        store.client.log_metric(run_id, f"evaluation/{name}", float(value), step=images_seen)
    for path in artifacts:
        store.client.log_artifact(run_id, str(path), "evaluation")
    return store.address(run_id)


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
    params: Params,
    *,
    generator: nn.Module,
    example: np.ndarray,
    run_key: str,
    content: str,
    score: float,
    protocol: Mapping[str, Any],
    tags: Mapping[str, str],
    files: list[Path],
    root: Path = ROOT,
) -> Registration:
    """Register a generator when its content is new, and decide who is champion.

    Args:
        generator: evaluation mode, CPU; z [N, latent_dim] -> [N, C, H, W].
        example: latents [2 or more, latent_dim] float32.
        content: sha256 that tells one generator from another; a version that has it is used again.
        score: of `register.metric`; lower is better.
        protocol: how it was measured; two scores are compared only when they agree in it.
    """
    store = open_store(params, root)
    name, client = params.register_.model, store.client
    run_id = store.run(run_key)
    version = _version_with(store, name, content)
    is_new = version is None
    if version is None:
        version = _log_version(store, run_id, name, generator, example, files)
        measured = {f"metric.{params.register_.metric}": repr(score), "metric.protocol": digest(dict(protocol))}
        # the content tag comes last: a version without it is unfinished, and a retry makes a whole one
        for key, value in {**tags, **measured, "run_id": run_id, CONTENT: content}.items():
            client.set_model_version_tag(name, str(version), key, value)
    client.set_registered_model_alias(name, "challenger", str(version))
    is_champion, reason = _decide(store, params, version, score=score, protocol=digest(dict(protocol)))
    if is_champion:
        client.set_registered_model_alias(name, "champion", str(version))
    aliases = ["challenger", *(["champion"] if is_champion else [])]
    return Registration(model=name, version=version, is_new=is_new, aliases=aliases, reason=reason, run_id=run_id)


def _version_with(store: Store, name: str, content: str) -> int | None:
    for version in store.client.search_model_versions(f"name = '{name}' and tags.`{CONTENT}` = '{content}'"):
        return int(version.version)
    return None


def _decide(store: Store, params: Params, version: int, *, score: float, protocol: str) -> tuple[bool, str]:
    """Whether `version` becomes (or stays) champion, and why."""
    name, metric = params.register_.model, params.register_.metric
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
    return score < theirs, verdict


def _log_version(store: Store, run_id: str, name: str, generator: nn.Module, example: np.ndarray, files: list[Path]) -> int:
    import torch

    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_quiet_stderr_loggers())
        status = store.client.get_run(run_id).info.status
        stack.enter_context(store.mlflow.start_run(run_id=run_id))
        with torch.no_grad():
            output = generator(torch.from_numpy(example)).numpy()
        info = store.mlflow.pytorch.log_model(
            generator,
            name="generator",
            signature=store.mlflow.models.infer_signature(example, output),
            input_example=example,
            serialization_format="pt2",
            pip_requirements=[
                f"torch=={torch.__version__.split('+')[0]}",
                f"numpy=={np.__version__}",
                f"mlflow=={store.mlflow.__version__}",
            ],
        )
        for path in files:
            store.client.log_artifact(run_id, str(path), "generator")
    if status in ("FAILED", "KILLED"):
        store.client.set_terminated(run_id, status)
    with contextlib.suppress(store.mlflow.exceptions.MlflowException):  # it exists
        store.client.create_registered_model(name)
    return int(store.client.create_model_version(name, source=info.model_uri, run_id=run_id, model_id=info.model_id).version)


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


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted keys; an empty mapping stays a value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
