"""The health of a training where people look: its outs, the console, MLflow."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from ganlib.data.arrow import SPLITS, ArrowImages, ArrowWriter, write_manifest
from ganlib.storage import open_storage
from ganlib.training.loop import TrainingSpec, train
from ganlib.training.state import BundleStore
from pipeline import artifacts, edit, preflight
from pipeline.params import ROOT
from pipeline.report import curves
from pipeline.selection import Selection
from pipeline.tracking import outbox
from pipeline.tracking import store as stores
from pipeline.tracking.console import Console
from pipeline.tracking.follow import Follower
from pipeline.tracking.training_run import TrainingRun

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own
FACTS = outbox.TrainingFacts(
    run_key="k", params={}, tags={"git.commit": "c", "params.digest": "p"}, data_digest="d" * 64, data_source="digits"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(settings, its root, bundle, spec) of a tiny training that raises one alarm after 96 images."""
    root = tmp_path_factory.mktemp("trained")
    prepared = root / "data" / "prepared"
    prepared.mkdir(parents=True)
    for seed, split in enumerate(SPLITS):
        images = np.random.default_rng(seed).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
        with ArrowWriter(prepared / f"{split}.arrow", shape=(1, 8, 8), class_names=None) as writer:
            writer.append(images, None)
    write_manifest(prepared, class_names=None, class_counts=dict.fromkeys(SPLITS))
    values = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    networks = {"latent_dim": 8, "generator": {"width": 8}, "discriminator": {"width": 8}}
    small = {
        "total_images": 128,
        "batch_images": 16,
        "health_interval_images": 48,
        "alarms": {"mode_collapse": {"threshold": 99.0, "measurements": 2}},
    }
    edit.overlay(values, {"data": {"source": "digits", "image_size": [8, 8]}, "model": networks, "train": small})
    config = preflight.parse(values)
    sections = {name: getattr(config, name) for name in ("model", "task", "optim", "train")}
    spec = TrainingSpec(data=str(prepared / "train.arrow"), held_out=str(prepared / "val.arrow"), folder=str(root / "state"), **sections)
    train(spec)
    bundle, _ = BundleStore(open_storage(spec.folder), keep=1).newest()
    return config, root, bundle, spec


def test_the_outs_have_every_number_and_alarm_and_no_clock(trained):
    """Kills: a column that is lost, a clock in an out (dvc.lock would differ from run to run), a list of alarms that is not there."""
    _, root, bundle, spec = trained
    storage, images = open_storage(spec.folder), ArrowImages(root / "data/prepared/train.arrow")
    choice = Selection(facts={"by": None, "why": "no reference"}).choose(storage, bundle)
    artifacts.write(bundle, choice, spec, images, storage=storage, root=root, facts=FACTS)
    reports = root / "reports" / "training"
    assert all((root / out).exists() for out in artifacts.OUTS)
    with (reports / "health.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["images_seen"]) for row in rows] == [0, 48, 96, 128]
    names = {
        "real_logits",
        "held_out_logits",
        "fake_logits",
        "discriminator_accuracy",
        "diversity",
        "overfitting_gap",
        "largest_logit",
        "separation",
    }
    norms = {f"{kind}_norm_{network}" for kind in ("gradient", "update", "weight") for network in ("generator", "discriminator")}
    assert set(rows[0]) == {"step", "images_seen", "weight_growth", *names, *norms}
    assert {name: float(value) for name, value in rows[-1].items() if name in names} == {
        name: value for name, value in bundle.numbers["health"][-1]["values"].items() if name in names
    }
    (alarm,) = json.loads((reports / "alarms.json").read_text())
    assert (alarm["name"], alarm["images_seen"], alarm["threshold"], alarm["action"]) == ("mode_collapse", 96, 99.0, "warn")
    with Image.open(reports / "health.png") as picture:
        assert picture.size[0] > 1000


def test_a_training_that_was_not_measured_has_its_outs_too(tmp_path):
    curves.draw_health([], [], tmp_path / "health.png")
    artifacts._table(tmp_path / "health.csv", [], "values")
    assert (tmp_path / "health.csv").read_text() == "step,images_seen\n"


def test_an_alarm_is_on_the_console_and_on_the_run(trained, tmp_path, capsys, monkeypatch):
    """Delivered twice, each point is there once. Kills: numbers without their images, a tag that a resume forgets."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config, _, bundle, spec = trained
    storage = open_storage(spec.folder)
    Follower(storage, Console(128, 64)).deliver_all("FINISHED")
    assert "alarm mode_collapse after 96 images: diversity is" in capsys.readouterr().out
    for _ in range(2):
        Follower(storage, TrainingRun(config.tracking, FACTS, storage, tmp_path)).deliver_all("FINISHED")
    store = stores.open_store(config.tracking, tmp_path)
    run = store.client.get_run(store.find_run("k"))
    assert run.data.tags["alarms"] == "mode_collapse (96 images)"
    points = store.client.get_metric_history(run.info.run_id, "health/diversity")
    expected = [(line["images_seen"], line["values"]["diversity"]) for line in bundle.numbers["health"]]
    assert [(point.step, point.value) for point in points] == expected
    assert run.data.metrics["health/memory_bytes"] > 1e7
    assert "health/images_per_second" in run.data.metrics
