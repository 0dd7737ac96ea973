"""Where the project is: its state and its tracking store, whatever runs where and however its folder is called."""

import http.server
import threading
from pathlib import Path

import pytest

from pipeline import params, results
from pipeline.state_address import state_uri
from pipeline.tracking import outbox
from pipeline.tracking import store as stores
from pipeline.tracking.settings import TrackingConfig


def make_project(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in params.PROJECT_FILES:
        (folder / name).write_text("")
    return folder


@pytest.mark.parametrize("place", ["standalone/tmpa1", "tmpa1"])
@pytest.mark.parametrize("below", ["", "sub/project"])
def test_a_temporary_experiment_has_the_state_and_the_store_of_its_project(tmp_path, monkeypatch, place, below):
    """Kills: the state, or the store, below the experiment's own folder; a project in a folder of its repository taken for the repository."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    repository = tmp_path / "repository"
    origin = make_project(repository / below)
    experiment = make_project(repository / ".dvc" / "tmp" / "exps" / place / below)
    assert params.home(experiment) == origin
    assert params.home(origin) == origin
    assert state_uri("state", "k" * 64, experiment) == str(origin / "state" / ("k" * 16))
    for uri in (None, "sqlite:///mlflow.db"):
        assert stores.tracking_uri(TrackingConfig(uri=uri), experiment) == f"sqlite:///{origin / 'mlflow.db'}"
    assert stores.tracking_uri(TrackingConfig(uri="runs"), experiment) == str(origin / "runs")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert stores.tracking_uri(TrackingConfig(), experiment) == f"sqlite:///{origin / 'other.db'}"
    for elsewhere in ("https://host/mlflow", "sqlite:////data/mlflow.db", "databricks", "databricks://profile"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", elsewhere)
        assert stores.tracking_uri(TrackingConfig(), experiment) == elsewhere


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_a_project_keeps_its_database_whatever_its_folder_is_called(tmp_path, monkeypatch):
    """In a real store. Kills: a path as part of an address without quotes (`a%41b` opens `aAb`, `?` cuts); artifacts beside another folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "a%41b ? # é+"
    root.mkdir()
    store = stores.open_store(TrackingConfig(), root)
    run, _ = store.run("key")
    store.client.log_text(run.info.run_id, "hello", "said.txt")
    assert Path(store.client.download_artifacts(run.info.run_id, "said.txt")).read_text() == "hello"
    assert sorted(path.name for path in root.iterdir()) == ["mlartifacts", "mlflow.db"]
    assert [path.name for path in tmp_path.iterdir()] == [root.name]


@pytest.fixture
def refusing(request):
    """A server that answers every request with the parameter."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            self.send_response(request.param)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = answer

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield request.param, server.server_port
        server.shutdown()


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("refusing", [401, 403], indirect=True)
def test_a_refusal_says_what_it_is_and_no_password(refusing, tmp_path, monkeypatch):
    """Kills: `does not answer` for a server that wants credentials; the address with its password in the message."""
    status, port = refusing
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:hidden-word@127.0.0.1:{port}")
    with pytest.raises(stores.Unanswered) as caught:
        stores.open_store(TrackingConfig(), tmp_path)
    assert "hidden-word" not in str(caught.value)
    assert f"({status})" in str(caught.value)
    assert "credentials" in str(caught.value)
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN" in str(caught.value)
    assert caught.value.__cause__ is None  # a traceback would show the original


def test_nothing_that_is_told_or_shown_holds_a_password(tmp_path):
    """Kills: params.yaml as it is among a run's files, an address as a tag, the line of `make repro`."""
    uri = "https://ada:hidden-word@host/mlflow"
    (tmp_path / "params.yaml").write_text(f"tracking:\n  uri: {uri}\n")
    facts = outbox.TrainingFacts(
        run_key="k", params={}, tags={"cluster.address": uri}, data_digest="d", data_source="s", files=(tmp_path / "params.yaml",)
    )
    assert "hidden-word" not in outbox.Outbox.of(facts).model_dump_json()
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "evaluation.json").write_text("{}")
    (tmp_path / "reports" / "registration.json").write_text('{"model": "m", "version": 1, "aliases": [], "reason": "r"}')
    assert "hidden-word" not in results.describe(tmp_path, uri)
