"""Parts of a real Ray are shot or stopped in the middle of a training: it goes on by itself, and ends in the same bytes."""

import pytest

from tests.chaos.tiny_training import journal, newest_hashes, started, tiny_spec, undisturbed_hashes
from tests.object_store import object_store

pytestmark = pytest.mark.chaos
WORKER = "ray::RayTrainWorker"


def restarts(spec) -> list[dict]:
    return [line for line in journal(spec, "driver.jsonl") if line["kind"] == "restart"]


def test_a_worker_that_is_shot_and_one_that_is_stopped_change_nothing(tmp_path):
    spec = tiny_spec(tmp_path, total_images=12_800)
    with started(spec, tmp_path, workers=2, hang_timeout_seconds=8) as training:
        training.wait_for_a_checkpoint_of_group(1)
        training.processes(WORKER)[0].kill()
        training.wait_for_a_checkpoint_of_group(2)
        stopped = training.processes(WORKER)[-1]
        stopped.suspend()
        assert "returned" in training.finish()
        assert not stopped.is_running()  # it could wake up and write
    assert len(restarts(spec)) == 2
    assert [line["workers"] for line in restarts(spec)] == [2, 2]
    assert newest_hashes(spec) == undisturbed_hashes(spec, tmp_path / "alone")


@pytest.mark.slow
def test_a_lone_worker_that_is_stopped_is_replaced(tmp_path):
    spec = tiny_spec(tmp_path, total_images=12_800)
    with started(spec, tmp_path, workers=1, hang_timeout_seconds=8) as training:
        training.wait_for_a_checkpoint_of_group(1)
        (stopped,) = training.processes(WORKER)
        stopped.suspend()
        assert "returned" in training.finish()
        assert not stopped.is_running()
    assert [line["text"].partition(":")[0] for line in restarts(spec)] == ["worker 0 hangs"]
    assert newest_hashes(spec) == undisturbed_hashes(spec, tmp_path / "alone")


@pytest.mark.slow
def test_a_ray_of_our_own_that_is_shot_is_started_again(tmp_path):
    spec = tiny_spec(tmp_path, total_images=25_600)
    with started(spec, tmp_path, workers=2) as training:
        seen = []
        for group, victim in enumerate(("raylet/raylet", "gcs_server", "ray::TrainController"), start=1):
            training.wait_for_a_checkpoint_of_group(group)
            seen += training.processes("")
            training.processes(victim)[0].kill()
        assert "returned" in training.finish()
        assert not [process for process in seen if process.is_running()]
    assert [line["text"].partition(":")[0] for line in restarts(spec)][:2] == ["Ray died", "Ray died"]
    assert len(restarts(spec)) == 3
    assert newest_hashes(spec) == undisturbed_hashes(spec, tmp_path / "alone")


@pytest.mark.slow
def test_failures_without_a_new_checkpoint_end_it(tmp_path):
    spec = tiny_spec(tmp_path, total_images=12_800)
    with started(spec, tmp_path, workers=1, max_failures=0) as training:
        training.wait_for_a_checkpoint_of_group(1)
        training.processes(WORKER)[0].kill()
        said = training.finish()
    assert "ClusterError: worker 0 died (cluster.max_failures=0)" in said
    assert restarts(spec) == []


@pytest.mark.slow
def test_a_worker_is_shot_while_the_state_is_in_an_object_store(tmp_path, monkeypatch):
    with object_store() as store:
        for key, value in store.environment.items():
            monkeypatch.setenv(key, value)
        spec = tiny_spec(tmp_path, total_images=12_800, state=f"{store.uri}/shot")
        with started(spec, tmp_path, workers=2) as training:
            training.wait_for_a_checkpoint_of_group(1)
            training.processes(WORKER)[0].kill()
            assert "returned" in training.finish()
        assert len(restarts(spec)) == 1
        assert newest_hashes(spec) == undisturbed_hashes(spec, tmp_path / "alone")
