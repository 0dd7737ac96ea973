"""An MLflow server with accounts: a person who owns one experiment and one model has all that this needs; who lacks something hears it first."""

import base64
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest

from pipeline.tracking import logged_models, model_registry, registry_lock, rooms
from pipeline.tracking import store as stores
from pipeline.tracking.evaluation import log_evaluation
from pipeline.tracking.settings import TrackingConfig
from tests.registrations import measured, register, settings

ADMIN, EXPERIMENT, MODEL = ("admin", "the-word-of-admin"), "adas", "gan-adas"
PATIENT = 300.0  # it hashes each password for a while, and machines are busy
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]  # MLflow's and torch.export's own


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """`mlflow server --app-name basic-auth`, where nobody sees what is another's; ada owns an experiment and a model, bob one of his own."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{folder}/auth.db\nadmin_username = {ADMIN[0]}\n"
        f"admin_password = {ADMIN[1]}\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 600\n"  # or each request hashes the password, for most of a second
    )
    command = [sys.executable, "-W", "ignore", "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of a test",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(600):
            time.sleep(0.2)
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            try:
                with urllib.request.urlopen(f"{uri}/health", timeout=5):
                    break
            except OSError:
                continue
        for name in ("ada", "bob"):
            as_admin(uri, "users/create", {"username": name, "password": f"the-word-of-{name}"})
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def as_admin(uri, what, values):
    request = urllib.request.Request(f"{uri}/api/2.0/mlflow/{what}", json.dumps(values).encode(), {"Content-Type": "application/json"})
    request.add_header("Authorization", f"Basic {base64.b64encode(':'.join(ADMIN).encode()).decode()}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.fixture
def user(server, monkeypatch):
    def become(name, word=None):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", word or f"the-word-of-{name}")

    return become


def ours(**register):
    return settings(model=MODEL, experiment=EXPERIMENT, **register)


def registered(folder, sha256, fid):
    """What the evaluate and the register stage tell MLflow of a training."""
    key, evaluation = f"key-{sha256}", measured(fid)
    facts = {"run_key": key, "images_seen": 100, "sha256": sha256, "family": "dcgan", "data": {"source": "digits"}}
    for name in ("models", "reports"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "models" / "generator.json").write_text(json.dumps(facts | {"git_commit": "c", "data_digest": "d" * 64}))
    (folder / "reports" / "evaluation.json").write_text(json.dumps(evaluation))
    log_evaluation(ours().tracking, {}, folder)
    return register(folder, sha256, fid, config=ours(), run_key=key)


@pytest.fixture
def other_host():
    """What MLflow's own server says to a name that it was not started with (mlflow.server.security_utils.INVALID_HOST_MSG)."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            said = b"Invalid Host header - possible DNS rebinding attack detected"
            self.send_response(403)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_wrong_host_is_said_before_the_training_in_one_line(tmp_path, monkeypatch, other_host):
    """A server that is away disturbs no training.
    Kills: thirty words of urllib3; a 403 for a name taken for one for a person; a store in a file asked.
    """
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    away = rooms.check(TrackingConfig(), MODEL, tmp_path)
    assert away == (
        "MLflow at http://127.0.0.1:9 does not answer (MLFLOW_TRACKING_URI or tracking.uri): nobody listens at this port; the training runs all the "
        "same, and tells it what it missed: `register` insists"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:hidden-word@no-such-host.invalid:5000")
    unknown = rooms.check(TrackingConfig(), MODEL, tmp_path)
    assert "there is no host of this name" in unknown
    assert "hidden-word" not in unknown
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other_host)
    with pytest.raises(stores.Refused, match=r"does not go by this host name \(403\); .* start it with --allowed-hosts") as caught:
        rooms.check(TrackingConfig(), MODEL, tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert rooms.check(TrackingConfig(), MODEL, tmp_path) == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_who_owns_one_experiment_and_one_model_has_all_that_is_needed(server, user, tmp_path, make_prepared):
    """From the evaluation to the champion's pyfunc, as somebody who may see nothing else; and whoever may not, hears it in one line.

    Kills: a model in MLflow's default experiment (403 for whoever may only use his own), and a refusal after the training.
    """
    user("ada")
    assert rooms.check(ours().tracking, MODEL, tmp_path, limit_seconds=PATIENT) == ""
    first, second = registered(tmp_path, "a", 5.0), registered(tmp_path, "b", 4.0)
    assert (first.version, second.version, second.aliases) == (1, 2, ["challenger", "champion"])
    assert rooms.check(ours().tracking, MODEL, tmp_path, limit_seconds=PATIENT) == ""
    store = stores.open_store(ours().tracking, tmp_path)
    # the logged model belongs to the run's experiment, and carries its numbers and what they were measured on
    (model,) = store.client.search_logged_models([store.experiment_id], filter_string=f"tags.`{logged_models.CONTENT}` = 'b'")
    assert model.experiment_id == store.client.get_run(second.run_id).info.experiment_id == store.experiment_id != "0"
    told = {(metric.value, metric.dataset_name, metric.dataset_digest) for metric in model.metrics if metric.key == "evaluation/fid"}
    assert told == {(4.0, "digits", "d" * logged_models.DIGEST_CHARACTERS)}  # by the training's run, and by that of the protocol
    assert store.client.get_model_version(MODEL, "2").source == model.model_uri
    got = store.mlflow.pyfunc.load_model(f"models:/{MODEL}@champion").predict(np.zeros((2, 3), np.float32))
    assert got.shape == (2, 1, 2, 2)
    with registry_lock.held(store, MODEL) as held:
        assert model_registry.rollback(store, held, model_registry.require(store, MODEL), why="odd colours") == (2, 1)

    def refused(message, *, experiment=EXPERIMENT, model=MODEL):
        with pytest.raises(stores.Refused, match=message) as caught:
            rooms.check(TrackingConfig(experiment=experiment), model, tmp_path, limit_seconds=PATIENT)
        assert "\n" not in str(caught.value)
        assert "the-word" not in str(caught.value)

    user("bob")
    refused(r"does not let the user 'bob' \(MLFLOW_TRACKING_USERNAME\) write to the experiment 'adas' \(tracking\.experiment\) \(403\)")
    refused(r"does not let the user 'bob' .* write to the registered model 'gan-adas' \(register\.model\) \(403\)", experiment="bobs")
    assert rooms.check(TrackingConfig(experiment="bobs"), "gan-bobs", tmp_path, limit_seconds=PATIENT) == ""
    user("ada", "a wrong one")
    refused(r"wants credentials, and has got none or wrong ones \(401\); set MLFLOW_TRACKING_USERNAME and")
    # the stage itself: before anything is trained
    clone = make_prepared()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "pipeline.stages.train"],
        cwd=clone.root,
        env=clone.environment | {key: value for key, value in os.environ.items() if key.startswith("MLFLOW_")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert line.startswith("error: MLflow at http://127.0.0.1:")
    assert "(401)" in line
