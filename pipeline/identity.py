"""Which training this is: the key that names its state folder and its MLflow run."""

from pathlib import Path
from typing import Any

from ganlib.data.arrow import read_manifest
from pipeline.lineage import code_digest, digest
from pipeline.params import ROOT, Params

# Settings of `train` that no result depends on; dvc.yaml leaves them out of the stage's params, and so does the key.
FREE_TRAIN_KEYS = frozenset({"state_uri", "checkpoint_interval_images", "keep_checkpoints", "keep_best"})


def training_settings(params: Params) -> dict[str, Any]:
    """The settings that determine a trained model, as plain values."""
    train = {key: value for key, value in params.train.model_dump(mode="json").items() if key not in FREE_TRAIN_KEYS}
    return {**{key: getattr(params, key).model_dump(mode="json") for key in ("model", "task", "optim")}, "train": train}


def run_key(params: Params, root: Path = ROOT) -> str:
    """sha256 over settings, data and code of a training: the same key is the same training, wherever and however often it runs."""
    data_digest = read_manifest(root / "data" / "prepared").data_digest
    return digest({"settings": training_settings(params), "data": data_digest, "code": code_digest("ganlib.training.loop", root=root)})


def state_uri(params: Params, key: str, root: Path = ROOT) -> str:
    """Where this training's resumable state is: an absolute folder, or an object-store address; one below `train.state_uri` a training."""
    base = params.train.state_uri
    if "://" not in base:
        return str((root / base / key[:16]).resolve())
    address, mark, query = base.partition("?")
    return f"{address.rstrip('/')}/{key[:16]}{mark}{query}"
