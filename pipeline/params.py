"""params.yaml as one validated object. Everything is checked before any work: keys, types, ranges, names and whether they fit together."""

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ganlib.config import (
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    OptimConfig,
    ReferenceConfig,
    SampleConfig,
    Section,
    TaskConfig,
    TrainConfig,
    explain,
)

ROOT = Path(__file__).resolve().parent.parent  # the project: stages run with it as the current folder


class ClusterConfig(Section):
    """Where the training runs. Nobody's dependency: moving to another cluster never invalidates a trained model."""

    workers: int | list[int] = Field(
        2, description="physical training workers, a divisor of train.logical_workers; [min, max]: as many of them as the cluster has"
    )
    cpus_per_worker: float = Field(1, gt=0, description="CPUs reserved, and compute threads used, per worker", strict=False)
    gpus_per_worker: float = Field(0, ge=0, description="0 trains on CPU with gloo, else NCCL", strict=False)
    max_failures: int = Field(3, ge=0, description="how often the worker group is restarted after a failure")
    hang_timeout_seconds: float = Field(300, gt=0, description="a worker that finishes no step for so long is replaced", strict=False)
    stop_grace_seconds: float = Field(30, gt=0, description="after Ctrl-C or SIGTERM, so long may the last checkpoint take", strict=False)
    wait_for_nodes_seconds: float = Field(600, ge=0, description="how long to wait for nodes that a training needs", strict=False)
    address: str | None = Field(None, description="Ray address to join; null: RAY_ADDRESS if set, else a Ray of our own on this machine")

    @model_validator(mode="after")
    def _workers_are_a_number_or_a_range(self) -> "ClusterConfig":
        low, high = self.worker_range if isinstance(self.workers, int) or len(self.workers) == 2 else (0, 0)
        if not 1 <= low <= high:
            raise ValueError(f"cluster.workers={self.workers!r} is neither a number from 1 nor [min, max]; take 2 or [1, 4], for example")
        return self

    @property
    def worker_range(self) -> tuple[int, int]:
        """(fewest, most) workers; equal where the number is fixed."""
        return (self.workers, self.workers) if isinstance(self.workers, int) else (self.workers[0], self.workers[1])

    def group_sizes(self, logical_workers: int) -> list[int]:
        """Numbers of workers this training can run on, the largest first: divisors of `logical_workers` in the range."""
        low, high = self.worker_range
        return [size for size in range(high, low - 1, -1) if logical_workers % size == 0]


class TrackingConfig(Section):
    """MLflow. Nobody's dependency either. MLFLOW_TRACKING_URI in the environment wins over `uri`."""

    uri: str | None = Field(None, description="null: a sqlite store in the project folder")
    experiment: str = "gan"
    patience_seconds: float = Field(
        20,
        ge=0,
        description="after a training, so long is waited for MLflow to take what is left; the rest is delivered later",
        strict=False,
    )


class RegisterConfig(Section):
    """The promotion decision."""

    model: str = Field("gan-generator", description="name in the MLflow model registry")
    metric: str = Field("fid", description="key of reports/evaluation.json that decides; lower is better")


class Params(Section):
    """The whole of params.yaml."""

    data: DataConfig
    model: ModelConfig
    task: TaskConfig
    optim: OptimConfig
    train: TrainConfig
    sample: SampleConfig
    reference: ReferenceConfig
    evaluate: EvaluateConfig
    register_: RegisterConfig = Field(alias="register")
    cluster: ClusterConfig
    tracking: TrackingConfig

    @model_validator(mode="after")
    def _workers_divide(self) -> "Params":
        v, w = self.train.logical_workers, self.cluster.workers
        if not self.cluster.group_sizes(v):
            legal = [n for n in range(1, v + 1) if v % n == 0]
            problem = "does not divide" if isinstance(w, int) else "holds no divisor of"
            raise ValueError(
                f"cluster.workers={w} {problem} train.logical_workers={v}; legal: {', '.join(map(str, legal))} (params.yaml: cluster.workers)"
            )
        return self


class ParamsError(ValueError):
    """params.yaml cannot be used; the message lists every problem."""


def parse(values: dict[str, Any]) -> Params:
    """Validate a parsed params.yaml, names and geometry included.

    Raises:
        ParamsError: one line a problem.
    """
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        raise ParamsError("params.yaml cannot be used:\n" + explain(error, Params)) from None
    from pipeline import preflight  # refuses or stays silent, so it is no dependency of a stage's result

    try:
        preflight.check(params)
    except ValueError as error:
        raise ParamsError(f"params.yaml cannot be used:\n{error}") from None
    return params


def load(path: Path | None = None) -> Params:
    """params.yaml of this project, validated.

    Raises:
        ParamsError: unreadable YAML, unknown keys, wrong types or values, unknown names, things that do not fit together.
    """
    path = path or ROOT / "params.yaml"
    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))  # the parser DVC uses: 4e-4 is a number to both
    except (OSError, YAMLError) as error:
        raise ParamsError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path} holds {type(values).__name__}, expected a mapping of sections")
    return parse(values)
