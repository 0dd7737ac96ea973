"""Registration and the champion's decision, in a real MLflow store."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from ganlib.files import sha256_file
from ganlib.metrics import needs
from ganlib.storage import open_storage
from pipeline import preflight
from pipeline.tracking import outbox, registration, training_run, versions
from pipeline.tracking import store as stores

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]  # MLflow's and torch.export's own


@pytest.fixture
def config(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return preflight.parse(YAML(typ="safe").load((ROOT / "params.yaml").read_text()))


def register(config, root, *, content, score, protocol="p", files=()):
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Unflatten(1, (1, 2, 2))).eval()
    return registration.register_generator(
        config.register_,
        config.tracking,
        generator=network,
        example=np.zeros((2, 3), np.float32),
        words="three numbers",
        run_key="key",
        content=content,
        score=score,
        value=needs.value_of(config.register_.metric),
        protocol={"extractor": protocol},
        tags={"git.commit": "c", **{versions.weights_tag(path.stem): sha256_file(path) for path in files}},
        files=list(files),
        root=root,
    )


def test_a_version_lies_in_the_project_and_not_where_the_command_ran(config, tmp_path, monkeypatch):
    """Kills: the model among those of MLflow's default experiment, whose folder is below the current one: a temporary experiment's is deleted."""
    here, root = tmp_path / "here", tmp_path / "root"
    here.mkdir()
    root.mkdir()
    monkeypatch.chdir(here)
    register(config, root, content="a", score=5.0)
    assert not [path for path in here.rglob("*") if path.is_file()]
    assert list((root / "mlartifacts").rglob("MLmodel"))


@pytest.mark.parametrize("loss", ["all artifacts", "the weights", "other weights"])
def test_a_version_whose_artifacts_are_lost_is_made_again(config, tmp_path, loss):
    """Kills: a version known by its tag alone, which serves nothing, or other weights than models/."""
    weights = tmp_path / "models" / "generator.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    assert register(config, tmp_path, content="a", score=5.0, files=[weights]).version == 1
    if loss == "all artifacts":
        shutil.rmtree(tmp_path / "mlartifacts")
    else:
        (stored,) = (tmp_path / "mlartifacts").rglob(f"generator/{weights.name}")
        stored.unlink() if loss == "the weights" else stored.write_bytes(b"others")
    again = register(config, tmp_path, content="a", score=5.0, files=[weights])
    assert (again.version, again.is_new) == (2, True)
    assert register(config, tmp_path, content="a", score=5.0, files=[weights]).version == 2


def test_a_store_that_loses_what_it_is_given_is_said(config, tmp_path, monkeypatch):
    """Kills: an alias moved to a version that cannot be loaded."""
    weights = tmp_path / "generator.safetensors"
    weights.write_bytes(b"weights")
    store = stores.open_store(config.tracking, tmp_path)
    monkeypatch.setattr(type(store.client), "log_artifact", lambda *_: None)
    with pytest.raises(ValueError, match=r"version 1 was registered, but .* does not give back generator\.safetensors as it was stored"):
        register(config, tmp_path, content="a", score=5.0, files=[weights])
    assert not store.client.get_registered_model("gan-generator").aliases


def test_versions_and_champions(config, tmp_path):
    first = register(config, tmp_path, content="a", score=5.0)
    assert (first.version, first.is_new, first.aliases) == (1, True, ["challenger", "champion"])
    again = register(config, tmp_path, content="a", score=5.0)
    assert (again.version, again.is_new, again.aliases) == (1, False, ["challenger", "champion"])
    worse = register(config, tmp_path, content="b", score=6.0)
    assert (worse.version, worse.is_new, worse.aliases) == (2, True, ["challenger"])
    assert worse.reason == "fid 6 against 5 of version 1"
    better = register(config, tmp_path, content="c", score=4.0)
    assert (better.version, better.aliases) == (3, ["challenger", "champion"])
    equal = register(config, tmp_path, content="b", score=4.0)
    assert (equal.version, equal.is_new, equal.aliases) == (2, False, ["challenger"])  # what serves stays; kills `<=` in `_decide`
    assert equal.reason == "fid 4 against 4 of version 3"
    other = register(config, tmp_path, content="d", score=1.0, protocol="another")
    assert other.aliases == ["challenger"]
    assert "measured by another protocol" in other.reason
    client = stores.open_store(config.tracking, tmp_path).client
    registered = client.get_registered_model("gan-generator")
    assert {alias: int(version) for alias, version in registered.aliases.items()} == {"champion": 3, "challenger": 4}
    assert {first.run_id, again.run_id, worse.run_id} == {better.run_id}  # one training, one run


@pytest.mark.parametrize(("metric", "scores", "champion"), [("recall", (0.2, 0.5, 0.4), 2), ("density", (1.4, 0.7, 0.9), 3)])
def test_the_metric_says_which_way_is_better(config, tmp_path, metric, scores, champion):
    """Kills: the lowest recall crowned, and a density of 1.4 that is better than one of 0.9."""
    config = config.model_copy(update={"register_": config.register_.model_copy(update={"metric": metric})})
    for content, score in zip("abc", scores, strict=True):
        last = register(config, tmp_path, content=content, score=score)
    assert last.reason.startswith(f"{metric} {scores[2]:.4g} against")
    client = stores.open_store(config.tracking, tmp_path).client
    assert int(client.get_registered_model("gan-generator").aliases["champion"]) == champion


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
