"""Registration and the champion's decision, in a real MLflow store."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from ganlib.storage import open_storage
from pipeline.params import ParamsError
from pipeline.tracking import card, evaluation, logged_models, outbox, training_run
from pipeline.tracking import store as stores
from tests.registrations import register, settings

ROOT = Path(__file__).resolve().parents[2]
CARD = card.Card.of(family="dcgan", source="digits", images=100, run_key="key", git_commit="c")
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]  # MLflow's and torch.export's own


@pytest.fixture
def config(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return settings()


def test_a_version_lies_in_the_project_and_not_where_the_command_ran(config, tmp_path, monkeypatch):
    """Kills: the model among those of MLflow's default experiment, whose folder is below the current one: a temporary experiment's is deleted."""
    here, root = tmp_path / "here", tmp_path / "root"
    here.mkdir()
    root.mkdir()
    monkeypatch.chdir(here)
    register(root, "a", 5.0)
    assert not [path for path in here.rglob("*") if path.is_file()]
    assert list((root / "mlartifacts").rglob("MLmodel"))


@pytest.mark.parametrize("loss", ["all artifacts", "the weights", "other weights"])
def test_a_version_whose_artifacts_are_lost_is_made_again(config, tmp_path, loss):
    """Kills: a version known by its tag alone, which serves nothing, or other weights than models/."""
    weights = tmp_path / "models" / "generator.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    assert register(tmp_path, "a", 5.0, files=[weights]).version == 1
    if loss == "all artifacts":
        shutil.rmtree(tmp_path / "mlartifacts")
    else:
        (stored,) = (tmp_path / "mlartifacts").rglob(f"generator/{weights.name}")
        stored.unlink() if loss == "the weights" else stored.write_bytes(b"others")
    again = register(tmp_path, "a", 5.0, files=[weights])
    assert (again.version, again.is_new) == (2, True)
    assert register(tmp_path, "a", 5.0, files=[weights]).version == 2


def test_a_store_that_loses_what_it_is_given_is_said(config, tmp_path, monkeypatch):
    """Kills: an alias moved to a version that cannot be loaded."""
    weights = tmp_path / "generator.safetensors"
    weights.write_bytes(b"weights")
    store = stores.open_store(config.tracking, tmp_path)
    monkeypatch.setattr(type(store.client), "log_artifact", lambda *_: None)
    with pytest.raises(ValueError, match=r"version 1 was registered, but .* does not give back generator\.safetensors as it was stored"):
        register(tmp_path, "a", 5.0, files=[weights])
    assert not store.client.get_registered_model("gan-digits").aliases


def test_what_was_evaluated_is_what_is_registered(config, tmp_path):
    """Kills: a second model at registering, without the numbers; a repeat that links the run to it again, which MLflow refuses for ever."""
    (tmp_path / "models").mkdir()
    (tmp_path / "reports").mkdir()
    facts = {"run_key": "key", "images_seen": 100, "sha256": "a", "family": "dcgan", "data": {"source": "digits"}}
    (tmp_path / "models" / "generator.json").write_text(json.dumps(facts | {"git_commit": "c", "data_digest": "d" * 64}))
    (tmp_path / "reports" / "evaluation.json").write_text(json.dumps({"fid": 5.0, "protocol": {"split": "test"}}))
    evaluation.log_evaluation(config.tracking, {}, tmp_path)
    store = stores.open_store(config.tracking, tmp_path)
    (model,) = store.client.search_logged_models([store.experiment_id])
    assert (model.tags[logged_models.EXTERNAL], str(model.status)) == ("true", "READY")
    first = register(tmp_path, "a", 5.0)
    store.client.delete_model_version("gan-digits", "1")  # as where a registration broke off before it made the version
    again = register(tmp_path, "a", 5.0)
    (found,) = store.client.search_logged_models([store.experiment_id], filter_string="metrics.`evaluation/fid` < 6")
    assert found.model_id == model.model_id
    assert store.client.get_model_version("gan-digits", str(again.version)).source == found.model_uri
    assert logged_models.EXTERNAL not in found.tags
    assert (found.name, found.source_run_id, str(found.status)) == ("dcgan-digits-key", first.run_id, "READY")
    assert store.mlflow.pytorch.load_model(found.model_uri)(torch.zeros(2, 3)).shape == (2, 1, 2, 2)
    assert len(store.client.get_run(first.run_id).outputs.model_outputs) == 1
    assert len(store.client.search_logged_models([store.experiment_id, "0"])) == 1


def test_a_replay_of_the_history_adds_nothing(config, tmp_path):
    facts = outbox.TrainingFacts(run_key="k", params={"a": {"b": 1}}, tags={"t": "1"}, data_digest="d" * 64, data_source="digits")
    lines = [
        {"images_seen": n, "step": n, "scalars": {"loss": 0.5 * n}, "time": 1_700_000_000.0 + n, "images_per_second": 9.0}
        for n in (1, 2, 3)
    ]
    for part in (lines[:2], lines):  # a resume ships what was shipped before
        training_run.TrainingRun(config.tracking, facts, open_storage(tmp_path / "state"), tmp_path).lines(part)
    store = stores.open_store(config.tracking, tmp_path)
    run_id = store.find_run("k")
    history = store.client.get_metric_history(run_id, "train/loss")
    assert [(m.step, m.value, m.timestamp) for m in history] == [(n, 0.5 * n, 1_700_000_000_000 + n * 1000) for n in (1, 2, 3)]
    assert len(store.client.search_runs([store.experiment_id])) == 1


def test_a_store_that_is_away_is_named(config, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"MLflow at http://127.0.0.1:9 does not answer \(MLFLOW_TRACKING_URI or tracking.uri\)"):
        stores.open_store(config.tracking, tmp_path)


def test_what_is_wrong_with_params_is_not_told_as_the_stores_silence():
    """Kills: an error of this project's own, in a block that talks to the store, under the store's name."""
    with pytest.raises(ParamsError, match=r"^train\.seed$"), stores.answering("http://127.0.0.1:9"):
        raise ParamsError("train.seed")
