"""Workers that come and go on a real Ray cluster of several nodes: the result is that of one process nobody disturbed."""

import pytest

from pipeline.driver.ray_cluster import room_on
from pipeline.driver.settings import ClusterConfig
from tests.chaos.tiny_training import journal, newest_hashes, started, tiny_spec, undisturbed_hashes

pytestmark = pytest.mark.chaos


def test_a_worker_takes_what_it_needs_from_one_node():
    nodes = [{"CPU": 3.0}, {"CPU": 1.5}, {"CPU": 0.5}, {}]
    assert room_on(nodes, ClusterConfig(cpus_per_worker=1)) == 4
    assert room_on(nodes, ClusterConfig(cpus_per_worker=1.5)) == 3
    assert room_on(nodes, ClusterConfig(cpus_per_worker=0.1)) == 30 + 15 + 5
    gpus = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 4.0}, {"CPU": 8.0}]
    assert room_on(gpus, ClusterConfig(cpus_per_worker=1, gpus_per_worker=1)) == 3


@pytest.mark.slow
def test_a_node_that_dies_and_one_that_comes_change_the_group_and_nothing_else(tmp_path):
    spec = tiny_spec(tmp_path, total_images=64_000)
    with started(spec, tmp_path, nodes=4, plan=("remove", "add"), workers=[1, 4]) as training:
        assert "returned" in training.finish()
    steps = [(line["kind"], line["workers_before"], line["workers"]) for line in journal(spec, "driver.jsonl")]
    assert steps == [("restart", 4, 2), ("resize", 2, 4)]  # three workers would not divide four logical ones
    assert [line["computed_again"] for line in journal(spec, "events.jsonl") if line["kind"] == "resumed"][
        1
    ] == 0  # it saved before it grew
    assert newest_hashes(spec) == undisturbed_hashes(spec, tmp_path / "alone")


@pytest.mark.slow
def test_too_few_nodes_are_waited_for_and_then_named(tmp_path):
    spec = tiny_spec(tmp_path, total_images=640)
    with started(spec, tmp_path, nodes=1, workers=[2, 4], wait_for_nodes_seconds=2) as training:
        said = training.finish()
    assert "waiting up to 2 s: cluster.workers=[2, 4] need 2 CPUs, the cluster has 1 CPUs on 1 node" in said
    assert "ClusterError: cluster.workers=[2, 4] need 2 CPUs" in said


@pytest.mark.slow
def test_workers_take_all_the_nodes_they_are_given(tmp_path):
    """Kills Ray's own way to pack: two workers on one node while the other idles."""
    spec = tiny_spec(tmp_path, total_images=6_400)
    with started(spec, tmp_path, nodes=2, cpus_per_node=2, workers=2) as training:
        training.wait_for_a_checkpoint_of_group(1)
        raylets = {process.ppid() for process in training.processes("ray::RayTrainWorker")}
        assert "returned" in training.finish()
    assert len(raylets) == 2
    assert newest_hashes(spec) == undisturbed_hashes(spec, tmp_path / "alone")


@pytest.mark.slow
def test_an_interface_that_is_not_there_is_one_line(tmp_path):
    spec = tiny_spec(tmp_path, total_images=640)
    with started(spec, tmp_path, workers=2, network_interface="nothing0") as training:
        said = training.finish()
    assert "has no network interface nothing0 (params.yaml: cluster.network_interface)" in said
    assert said.count("nothing0") == 1
