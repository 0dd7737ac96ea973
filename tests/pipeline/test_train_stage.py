"""The training on a real Ray: its failures in words, and a Ray that was there before."""

import json
import socket
import subprocess
import sys
import tempfile

import pytest

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def prepared(make_prepared):
    return make_prepared()


def test_a_divergence_stops_once_in_words(prepared):
    prepared.set(optim__discriminator={"name": "sgd", "lr": 1e30}, task__loss="least_squares", train__precision="fp32")
    done = prepared.run("python", "-m", "pipeline.stages.train", check=False)
    assert done.returncode == 1
    assert "DivergenceError: a loss or the gradient of" in done.stderr
    assert "nothing was updated" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (prepared.root / "models").exists()
    prepared.run("git", "checkout", "-q", "params.yaml")


@pytest.mark.slow  # the divergence above takes the same way out of a worker
def test_an_alarm_stops_as_a_divergence_does(prepared):
    """Kills: an alarm that is tried again by the driver, or loses its words on the way out of a worker."""
    prepared.set(train__alarms__mode_collapse={"action": "stop", "threshold": 100.0, "measurements": 1})
    done = prepared.run("python", "-m", "pipeline.stages.train", check=False)
    assert done.returncode == 1
    assert "AlarmError: alarm mode_collapse after" in done.stderr
    assert "below 100; the generator makes one image" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (prepared.root / "models").exists()
    prepared.run("git", "checkout", "-q", "params.yaml")


def test_a_ray_of_our_own_without_the_gpus_asked_for_is_named(prepared):
    prepared.set(cluster__gpus_per_worker=1000)
    done = prepared.run("python", "-m", "pipeline.stages.train", check=False)
    assert done.returncode == 1
    assert "cluster.workers=2 need 2 CPUs and 2000 GPUs, the cluster has" in done.stderr
    prepared.run("git", "checkout", "-q", "params.yaml")


def test_a_ray_that_is_not_there_is_named(prepared):
    done = prepared.run("env", "RAY_ADDRESS=127.0.0.1:1", "python", "-m", "pipeline.stages.train", check=False, timeout=200)
    assert done.returncode == 1
    assert "no Ray answers at '127.0.0.1:1' (cluster.address or RAY_ADDRESS)" in done.stderr


def test_a_tracking_server_that_is_away_stops_no_training_and_a_ray_that_is_there_is_joined(prepared):
    scratch = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: sockets live in it
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    ports = [
        f"--port={port}",
        "--include-dashboard=false",
        f"--temp-dir={scratch}",
        "--object-store-memory=100000000",
    ]
    head = subprocess.Popen(
        [*ray, "start", "--head", "--block", "--num-cpus=2", *ports],
        cwd=prepared.root,
        env=prepared.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    prepared.set(train__total_images=6400)
    try:
        address = ""
        for line in head.stdout:  # "... ray start --address='IP:PORT'"
            if "--address='" in line:
                address = line.split("--address='")[1].split("'")[0]
                break
        assert address
        settings = [f"RAY_ADDRESS={address}", "MLFLOW_TRACKING_URI=http://127.0.0.1:9"]
        done = prepared.run("env", *settings, "python", "-m", "pipeline.stages.train", timeout=300)
        assert "6,400 / 6,400 images" in done.stdout
        assert "warning: MLflow" in done.stderr
        assert json.loads((prepared.root / "models" / "generator.json").read_text())["images_seen"] == 6400
    finally:
        head.terminate()  # `--block` takes what it started with it
        head.wait(timeout=60)
        head.stdout.close()
