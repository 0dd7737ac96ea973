"""Registrations of a network of sixteen weights in a real MLflow store, for the tests of the registry."""

import contextlib
import tempfile
from pathlib import Path

import numpy as np
import torch
from ruamel.yaml import YAML

from ganlib.files import sha256_file
from pipeline import preflight
from pipeline.provenance import record
from pipeline.provenance.environment import environment
from pipeline.provenance.origin import Origin
from pipeline.tracking import card, model_registry, registration, versions
from pipeline.tracking import store as stores

ROOT = Path(__file__).resolve().parents[1]
NAME = "gan-digits"
INTERFACE = {
    "input": "three numbers",
    "images": [1, 2, 2],
    "latents": {"dim": 3, "distribution": "normal"},
    "fed": None,
    "class_names": [],
    "class_counts": [],
    "truncation": None,
}
NETWORK = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Unflatten(1, (1, 2, 2))).eval()


def settings(*, experiment=None, **register):
    """params.yaml of this project with another `register` section; the spread over seeds is assumed."""
    values = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    values["register"] |= {"model": NAME, "spread": 0.05, **register}
    values["tracking"] |= {} if experiment is None else {"experiment": experiment}
    return preflight.parse(values)


def measured(fid, **protocol):
    """evaluation.json, as far as it decides."""
    told = {"data_digest": "d" * 64, "split": "test", "bootstrap": 20, "read_from": {"classifier/last": ["fid"]}, **protocol}
    return {"fid": fid, "fid_low": fid - 0.01, "fid_high": fid + 0.01, "protocol": told}


def register(
    root,
    content,
    fid,
    *,
    config=None,
    evaluation=None,
    protocol=None,
    run_key="key",
    files=(),
    tags=None,
    lineage=None,
    spreads=(),
    alarms=(),
    measure_again=None,
    **changes,
):
    """Register the network as one whose weights have the sha256 `content` and that was measured to `fid`.

    Args:
        config: or `changes` of the section `register`.
        evaluation: or `fid` and what `protocol` has otherwise.
        tags: or the usual ones, and those of the weights among `files`.
    """
    config = config or settings(**changes)
    weights = {versions.weights_tag(path.stem): sha256_file(path) for path in files if path.suffix == ".safetensors"}
    return registration.register_generator(
        config.register_,
        config.tracking,
        generator=NETWORK,
        example=np.zeros((2, 3), np.float32),
        words="three numbers",
        interface=INTERFACE,
        run_key=run_key,
        card=card.Card.of(family="dcgan", source="digits", images=100, run_key=run_key, git_commit="c"),
        sha256=content,
        images_seen=100,
        evaluation=evaluation or measured(fid, **(protocol or {})),
        alarms=alarms,
        spreads=spreads,
        measure_again=measure_again,
        tags={"git.commit": "c", "data.digest": "d" * 64, **weights} if tags is None else tags,
        files=list(files),
        lineage=lineage,
        root=root,
    )


def lineage_of(weights, evaluation):
    """A lineage.json as `record.of` makes one in a project."""
    return record.Lineage(
        run_key="key",
        code=record.Code(commit="c", trained_commit="c", files={}),
        settings={},
        overrides={},
        params_digest="p" * 64,
        lock=None,
        stages={},
        data_digest="d" * 64,
        data=Origin(source="digits"),
        environment=environment(ROOT),
        job={},
        seeds={"train": 0},
        description=None,
        weights={"generator": weights},
        metrics={"fid": evaluation["fid"]},
        protocol=evaluation["protocol"],
    )


def described_alone(store, run_id, name, model, flavor, words, files):
    """A version whose model is described and has no network: exporting one takes most of a second, and test_tracking.py has that."""
    with tempfile.TemporaryDirectory() as folder:
        store.mlflow.models.Model(run_id=run_id).save(f"{folder}/MLmodel")
        store.client.log_model_artifact(model.model_id, f"{folder}/MLmodel")
    with contextlib.suppress(store.mlflow.exceptions.MlflowException):  # it exists
        store.client.create_registered_model(name)
    source = f"models:/{model.model_id}"
    return int(store.client.create_model_version(name, source, run_id=run_id, model_id=model.model_id, description=words).version)


def store_of(root):
    return stores.open_store(settings().tracking, root)


def standing(root):
    return model_registry.require(store_of(root), NAME)
