"""Which training this is: the sections of params.yaml it is made of, and the key that names its state and its MLflow run."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import model_validator

from ganlib.config import Section
from ganlib.data.arrow import read_manifest
from ganlib.data.settings import DataConfig
from ganlib.fields import IMAGE
from ganlib.models.settings import ModelConfig
from ganlib.optim import OptimConfig
from ganlib.tasks import TaskSettings, check_networks, options_of
from ganlib.train_settings import TrainConfig
from pipeline.code_digest import Definitions, definitions, strings_in
from pipeline.driver.settings import ClusterConfig
from pipeline.lineage import digest
from pipeline.params import ROOT
from pipeline.tracking.settings import TrackingConfig

TRAINS = "ganlib.training.loop:train"  # what runs in a worker: the root of the code that a result depends on
JUDGES = (
    "ganlib.selection:Judge",
    "ganlib.selection:choose",
    "ganlib.selection:verdicts",
)  # what the choice of an export depends on besides
LEAST_IMAGES = 50  # of the validation split: with fewer, chance chooses
# Settings of `train` that no result depends on; dvc.yaml leaves them out of the stage's params, and so does the key.
FREE_TRAIN_KEYS = frozenset({"log_interval_images", "state_uri", "checkpoint_interval_images", "keep_checkpoints", "keep_best"})
# What another training leaves for this one is named by its content, not by what params.yaml calls it: see `Identity.child_of`.
PARENT_TRAIN_KEYS = frozenset({"continue_from", "start_from"})
NEW_TRAIN_KEYS = frozenset({"freeze", "stop"})  # younger than many a state: where they are unset they are left out, so that its key stays


class TrainingParams(Section):
    """The sections of params.yaml that the train stage reads."""

    data: DataConfig
    model: ModelConfig
    task: TaskSettings
    optim: OptimConfig
    train: TrainConfig
    cluster: ClusterConfig
    tracking: TrackingConfig

    @model_validator(mode="after")
    def _networks_are_the_tasks(self) -> "TrainingParams":
        check_networks(self.task, self.model, self.optim)
        return self

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
    if params.train.select is not None:  # who judges the candidates is no part of the training
        train["select"] = {"interval_images": params.train.select.interval_images}
    sections = {key: getattr(params, key).model_dump(mode="json") for key in ("model", "task", "optim")}
    kinds = {params.data.modality, *(column.modality for column in params.data.columns.values())} - {IMAGE}
    if kinds:  # which code networks see their data through; there was but one, so images keep their keys
        sections["data"] = {"modalities": sorted(kinds)}
    return {**sections, "train": train}


def recipe(settings: Mapping[str, Any], parent: Mapping[str, Any] | None) -> str:
    """sha256 of all settings but the seed, and of what was taken over: trainings that have it alike differ in their random numbers alone.

    Args:
        settings: `training_settings`.
        parent: `Identity.parent`.
    """
    train = {key: value for key, value in settings["train"].items() if key != "seed"}
    return digest({"settings": {**settings, "train": train}, "parent": None if parent is None else dict(parent)})


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What makes a training the training it is: the same identity is the same result, wherever and however often it runs.

    Attributes:
        code: every definition it can run -> sha256 of what it means.
        parent: what it takes over from another training (`pipeline.parents.Record.identity`); None where it begins alone.
    """

    settings: dict[str, Any]
    data_digest: str
    code: dict[str, str]
    parent: Mapping[str, Any] | None = None

    @property
    def key(self) -> str:
        """sha256 over settings, data, code and parent; names the state and the MLflow run."""
        alone = digest({"settings": self.settings, "data": self.data_digest, "code": self.code})
        return alone if self.parent is None else digest({"training": alone, "parent": dict(self.parent)})

    def child_of(self, parent: Mapping[str, Any]) -> "Identity":
        """The same training where it takes over from another one."""
        return replace(self, parent=parent)


def identity(params: TrainingParams, root: Path = ROOT) -> Identity:
    """Of the training that `params` describe, with the data and the code in `root`."""
    data_digest = read_manifest(root / "data" / "prepared").data_digest
    settings = training_settings(params)
    if params.train.stop is not None:  # who judges the candidates says where the training ends
        settings["train"]["stop"]["judge"] = judge(params, root)
    return Identity(settings=settings, data_digest=data_digest, code=training_code(params, root).parts)


def training_code(params: TrainingParams, root: Path = ROOT) -> Definitions:
    """The code that determines a trained model, definition by definition."""
    return _code(training_settings(params), (params.model, params.task, params.optim, params.train), root)


def judge(params: TrainingParams, root: Path = ROOT) -> dict[str, Any]:
    """What chooses among a training's candidates for export (`ganlib.selection`), as plain values; `by` is None where nothing does, and `why`."""
    select = params.train.select
    if select is None:
        return {"by": None, "why": "train.select is null"}
    manifest = read_manifest(root / "data" / "prepared")
    if (images := manifest.splits["val"].images) < LEAST_IMAGES:
        return {"by": None, "why": f"the validation split has {images} images, choosing needs {LEAST_IMAGES} (data.val_fraction)"}
    try:
        made = json.loads((root / "data" / "reference" / "reference.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"by": None, "why": "there is no data/reference; `dvc repro reference` makes it"}
    main, settings = made["extractors"][0], training_settings(params)
    code = definitions(
        JUDGES, names=strings_in(settings) | {main["name"]}, settings=_names((params.model, params.task, params.train)), root=root
    ).digest
    return {
        "by": "kid",
        "split": "val",
        "images": select.images,
        "extractor": main["name"],
        "extractor_sha256": main["sha256"],
        "code": code,
    }


def code_of_settings(settings: Mapping[str, Any], root: Path = ROOT) -> dict[str, str]:
    """`Identity.code` of a training with `settings` (`Identity.settings`, perhaps of another day) and the code in `root`.

    Raises:
        ValueError: that code does not take the settings.
    """
    task = options_of(settings.get("task") or {})
    schemas: dict[str, type[Section]] = {"model": ModelConfig, "task": task, "optim": OptimConfig, "train": TrainConfig}
    sections = [schema.model_validate_json(json.dumps(settings.get(name))) for name, schema in schemas.items()]
    return _code(settings, sections, root).parts


def _code(settings: Mapping[str, Any], sections: Iterable[Section], root: Path) -> Definitions:
    return definitions([TRAINS], names=strings_in(dict(settings)), settings=_names(sections), root=root)


def _names(sections: Iterable[Section]) -> set[str]:
    kinds = {kind for chosen in sections for section in _sections(chosen) for kind in type(section).__mro__ if issubclass(kind, Section)}
    return {f"{kind.__module__}:{kind.__qualname__}" for kind in kinds}


def _sections(section: Section) -> Iterator[Section]:
    yield section
    for _, value in section:  # networks among them, which are no fields
        if isinstance(value, Section):
            yield from _sections(value)
