import json
import subprocess
import sys

import pytest

from ganlib import catalog
from ganlib.config import options
from ganlib.losses import LOSSES
from ganlib.models import MODELS
from ganlib.train_settings import TrainConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"total_images": 10, "batch_image": 8}, r"train.batch_image=8 is not a known key \(did you mean 'batch_images'\?\)"),
        ({"total_images": "many"}, r"train.total_images='many': input should be a valid integer"),
        (
            {"total_images": 10, "batch_images": 100, "logical_workers": 8},
            r"batch_images=100 does not divide over logical_workers=8; nearest: 96 or 104",
        ),
        ({"total_images": 10, "batch_images": 6, "logical_workers": 3}, r"logical_workers=3 is not a power of two; nearest: 2 or 4"),
        ({}, r"train.total_images is missing"),
        ({"total_images": 10, "precision": "fp8"}, r"train.precision='fp8': input should be 'fp32' or 'bf16'"),
    ],
)
def test_an_error_says_what_it_got_and_what_is_legal(values, message):
    with pytest.raises(ValueError, match=message):
        options(TrainConfig, values, key="train")


def test_a_registry_names_the_nearest_and_the_legal():
    with pytest.raises(
        ValueError, match=r"task.loss='hing' is not a known loss \(did you mean 'hinge'\?\); legal: began, hinge, least_squares"
    ):
        LOSSES.get("hing", key="task.loss")


def test_the_catalogue_lists_every_registry_with_a_line_each():
    listed = json.loads(
        subprocess.run([sys.executable, "-m", "ganlib.catalog", "--json"], check=True, capture_output=True, text=True).stdout
    )
    settings = listed.pop("settings")
    others = {"sources", "modalities", "networks", "tasks", "transforms", "optimizers", "augmentations", "extractors", "metrics"}
    assert set(listed) == others | {"losses", "perceptual losses", "regularizers"}
    for section, entries in listed.items():
        assert [entry["name"] for entry in entries] == catalog.SECTIONS[section][1].names()
        assert all(entry["summary"].endswith(".") and entry["key"] for entry in entries)
    known = {"minimax", "non_saturating", "least_squares", "wasserstein", "hinge", "relativistic", "began"}  # others may have come
    assert known <= {e["name"] for e in listed["losses"]}
    families = {entry["name"]: entry["options"] for entry in listed["networks"]}
    assert all(families[entry.name][f"{role}.width"]["default"] == 32 for entry in MODELS for role in entry.value.roles)
    tasks = {entry["name"]: entry["options"] for entry in listed["tasks"]}
    assert tasks["vae"]["likelihood"]["default"] == "gaussian"
    assert "loss" not in tasks["vae"]
    penalties = {entry["name"]: entry["options"] for entry in listed["regularizers"]}
    assert penalties["gradient_penalty"]["weight"]["default"] == 10.0
    described = {entry["key"]: entry["summary"] for entry in settings}
    assert {"task.label_noise", "model.conditional", "optim.*.max_gradient_norm", "train.logical_workers"} <= set(described)


def test_the_catalogue_shows_the_options_of_a_name(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["catalog", "ada"])
    catalog.main()
    assert "target: 0.6" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["catalog", "adda"])
    with pytest.raises(SystemExit):
        catalog.main()
    assert "nothing is called adda" in capsys.readouterr().err
