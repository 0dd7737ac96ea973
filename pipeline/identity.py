"""Which training this is: the sections of params.yaml it is made of, and the key that names its state and its MLflow run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import model_validator

from ganlib.config import Section
from ganlib.data.arrow import read_manifest
from ganlib.data.settings import DataConfig
from ganlib.models.settings import ModelConfig
from ganlib.optim import OptimConfig
from ganlib.tasks.settings import TaskConfig
from ganlib.train_settings import TrainConfig
from pipeline.driver.settings import ClusterConfig
from pipeline.lineage import code_digest, digest
from pipeline.params import ROOT
from pipeline.tracking.settings import TrackingConfig

# Settings of `train` that no result depends on; dvc.yaml leaves them out of the stage's params, and so does the key.
FREE_TRAIN_KEYS = frozenset({"state_uri", "checkpoint_interval_images", "keep_checkpoints", "keep_best"})
# What another training leaves for this one is named by its content, not by what params.yaml calls it: see `child_key`.
PARENT_TRAIN_KEYS = frozenset({"continue_from", "start_from"})
NEW_TRAIN_KEYS = frozenset({"freeze"})  # younger than many a state: where they are unset they are left out, so that its key stays


class TrainingParams(Section):
    """The sections of params.yaml that the train stage reads."""

    data: DataConfig
    model: ModelConfig
    task: TaskConfig
    optim: OptimConfig
    train: TrainConfig
    cluster: ClusterConfig
    tracking: TrackingConfig

    @model_validator(mode="after")
    def _workers_divide(self) -> "TrainingParams":
        v, w = self.train.logical_workers, self.cluster.workers
        if not self.cluster.group_sizes(v):
            legal = [n for n in range(1, v + 1) if v % n == 0]
            problem = "does not divide" if isinstance(w, int) else "holds no divisor of"
            raise ValueError(
                f"cluster.workers={w} {problem} train.logical_workers={v}; legal: {', '.join(map(str, legal))} (params.yaml: cluster.workers)"
            )
        return self


def training_settings(params: TrainingParams) -> dict[str, Any]:
    """The settings that determine a trained model, as plain values."""
    left_out = FREE_TRAIN_KEYS | PARENT_TRAIN_KEYS | {key for key in NEW_TRAIN_KEYS if not getattr(params.train, key)}
    train = {key: value for key, value in params.train.model_dump(mode="json").items() if key not in left_out}
    return {**{key: getattr(params, key).model_dump(mode="json") for key in ("model", "task", "optim")}, "train": train}


def run_key(params: TrainingParams, root: Path = ROOT) -> str:
    """sha256 over settings, data and code of a training: the same key is the same training, wherever and however often it runs.

    Of a training with a parent this is the half that `child_key` needs.
    """
    data_digest = read_manifest(root / "data" / "prepared").data_digest
    return digest({"settings": training_settings(params), "data": data_digest, "code": code_digest("ganlib.training.loop", root=root)})


def child_key(key: str, parent: Mapping[str, Any]) -> str:
    """The key of a training that takes over from another one: of what it would be alone, and of what it takes over (`Record.identity`)."""
    return digest({"training": key, "parent": dict(parent)})
