"""Which training this is: the key that names its state folder and its MLflow run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ganlib.config import Section
from ganlib.data.arrow import read_manifest
from pipeline.code_digest import Definitions, definitions, strings_in
from pipeline.lineage import digest
from pipeline.params import ROOT, Params

# Settings of `train` that no result depends on; dvc.yaml leaves them out of the stage's params, and so does the key.
FREE_TRAIN_KEYS = frozenset({"state_uri", "checkpoint_interval_images", "keep_checkpoints", "keep_best"})


def training_settings(params: Params) -> dict[str, Any]:
    """The settings that determine a trained model, as plain values."""
    train = {key: value for key, value in params.train.model_dump(mode="json").items() if key not in FREE_TRAIN_KEYS}
    return {**{key: getattr(params, key).model_dump(mode="json") for key in ("model", "task", "optim")}, "train": train}


def training_code(params: Params, root: Path = ROOT) -> Definitions:
    """The code that determines a trained model, definition by definition."""
    sections = {type(section) for chosen in (params.model, params.task, params.optim, params.train) for section in _sections(chosen)}
    return definitions(
        ["ganlib.training.loop:train"],
        names=strings_in(training_settings(params)),
        settings={f"{section.__module__}:{section.__qualname__}" for section in sections},
        root=root,
    )


def _sections(section: Section) -> Iterator[Section]:
    yield section
    for value in vars(section).values():
        if isinstance(value, Section):
            yield from _sections(value)


def run_key(params: Params, root: Path = ROOT) -> str:
    """sha256 over settings, data and code of a training: the same key is the same training, wherever and however often it runs."""
    data_digest = read_manifest(root / "data" / "prepared").data_digest
    return digest({"settings": training_settings(params), "data": data_digest, "code": training_code(params, root).digest})


def state_uri(params: Params, key: str, root: Path = ROOT) -> str:
    """Where this training's resumable state is: an absolute folder, or an object-store address; one below `train.state_uri` a training."""
    base = params.train.state_uri
    if "://" not in base:
        return str((root / base / key[:16]).resolve())
    address, mark, query = base.partition("?")
    return f"{address.rstrip('/')}/{key[:16]}{mark}{query}"
