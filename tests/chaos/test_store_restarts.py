"""State, shards of data, DVC's remote and MLflow's artifacts in one real S3 store, which dies and comes back in the middle of a training."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from ganlib.files import sha256_file
from ganlib.storage import Storage, open_storage
from tests.clones import Clone
from tests.object_store import ObjectStore, object_store
from tests.tracking_server import Server, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(1500)]
WEIGHTS = ("generator.safetensors", "discriminator.safetensors")


def newest(store: ObjectStore) -> tuple[int, int]:
    """(worker groups that have begun, the newest whole checkpoint) of the one training in the store; nothing yet is (0, 0)."""
    trainings = open_storage(store.uri)
    found = [name for name in trainings.names("") if name != "images"]
    if not found:
        return 0, 0
    state: Storage = open_storage(f"{store.uri}/{found[0]}")
    try:
        events = [json.loads(line) for line in state.read("events.jsonl").decode().splitlines()]
    except FileNotFoundError:
        return 0, 0
    begun = sum(event["kind"] in ("start", "resumed") for event in events)
    return begun, max((int(name.partition("-")[2]) for name in state.names("checkpoints")), default=0)


def started(clone: Clone, log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as output:
        return subprocess.Popen(
            ["dvc", "repro", "train"], cwd=clone.root, env=clone.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )


def wait_for_a_checkpoint(training: "subprocess.Popen[bytes]", store: ObjectStore, log: Path, *, after: tuple[int, int]) -> tuple[int, int]:
    """Return once a group that had not begun at `after`, or that group itself, has written another checkpoint."""
    seen = after

    def is_there() -> bool:
        nonlocal seen
        assert training.poll() is None, f"the training ended before it was disturbed:\n{log.read_text()[-5000:]}"
        seen = newest(store)
        return seen[0] >= max(after[0], 1) and seen[1] > after[1]

    wait_for(is_there, f"a checkpoint after {after}: {log.read_text()[-2000:]}", seconds=400)
    return seen


def test_a_store_that_restarts_changes_nothing_and_one_that_stays_away_is_said(make_clone, tmp_path, monkeypatch) -> None:
    """A few seconds away: the training goes on by itself. Away until it gives up: one line, and the same command ends in the undisturbed bytes.

    Kills: a training that ends with the first refused request, one that waits for ever, a traceback, a checkpoint that was half written and is
    taken for whole, a run of MLflow that is lost.
    """
    clone: Clone = make_clone()
    clone.set(train__total_images=48_000, train__select=None, train__health_interval_images=0)
    log = tmp_path / "output.txt"
    with object_store() as store:
        for name, value in store.environment.items():  # this test looks into the store too
            monkeypatch.setenv(name, value)
        artifacts = {**store.environment, "MLFLOW_S3_ENDPOINT_URL": store.environment["AWS_ENDPOINT_URL"]}
        server = Server(tmp_path / "server", artifacts="s3://state/mlflow", environment=artifacts)
        training = None
        try:
            clone.environment |= store.environment | {"GANPIPE_DATA_CACHE": str(tmp_path / "cache")}
            clone.set(data__store_uri="s3://state/images", data__shard_mb=1, train__state_uri=store.uri, tracking__uri=server.start().uri)
            clone.run("dvc", "remote", "add", "-d", "ours", "s3://state/dvc")
            clone.commit("everything in the store")

            training = started(clone, log)
            seen = wait_for_a_checkpoint(training, store, log, after=(0, 0))
            store.kill()
            time.sleep(3)
            store.start()
            wait_for_a_checkpoint(training, store, log, after=seen)
            before = len(log.read_text())
            store.kill()
            code = training.wait(400)
            said = log.read_text()[before:]
            assert code != 0
            assert "Traceback" not in said, said
            lines = [line for line in said.splitlines() if "s3://state/trainings" in line]
            assert [line for line in lines if "check that the store answers" in line and "run the same command again" in line], said
            store.start()
            assert started(clone, log).wait(400) == 0, log.read_text()[-5000:]
            assert "resumed from step-" in log.read_text()[before:]

            ((_, status),) = server.runs("gan")
            assert status == "FINISHED"
            kept = open_storage("s3://state/mlflow")
            assert kept.size_bytes("") > 0
            stages = ("fetch", "prepare", "reference", "train")
            clone.run("dvc", "push", "--run-cache", *stages)
            home = clone.copy(tmp_path / "home")
            for name in (".dvc/cache", "models", "data/prepared", "reports"):
                shutil.rmtree(home.root / name)
            home.run("dvc", "pull", *stages)
            assert "up to date" in home.run("dvc", "status", "train").stdout
            assert home.repro("train") == []

            alone = home.copy(tmp_path / "alone")
            alone.set(train__state_uri="state", tracking__uri=None)
            alone.environment["GANPIPE_CACHED_OUTS"] = "0"  # trained anew, undisturbed
            alone.run("dvc", "repro", "--force", "--single-item", "train")
            for name in WEIGHTS:
                assert sha256_file(alone.root / "models" / name) == sha256_file(home.root / "models" / name)
        finally:
            if training is not None and training.poll() is None:  # what it started ends with it
                training.kill()
                training.wait()
            server.kill()
