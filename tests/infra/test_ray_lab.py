"""A real Ray of three nodes with networks of their own (tests/ray_lab.py), job server and tokens on: what is left of a run when they die."""

import sys
import time
from pathlib import Path

import pytest

from ganlib.files import sha256_file
from tests.ray_lab import RayLab, missing, ray_lab

pytestmark = [pytest.mark.slow, pytest.mark.chaos, pytest.mark.timeout(1500), pytest.mark.skipif(bool(missing()), reason=missing())]
HEAD = 1
WEIGHTS = ("generator.safetensors", "discriminator.safetensors")


def groups(state: Path) -> int:
    """How many worker groups have begun."""
    return sum(
        path.read_text().count('"kind": "start"') + path.read_text().count('"kind": "resumed"') for path in state.glob("*/events.jsonl")
    )


def newest(state: Path) -> int:
    return max((int(path.name.partition("-")[2]) for path in state.glob("*/checkpoints/step-*")), default=0)


def wait_for_a_checkpoint(lab: RayLab, job, state: Path, log: Path, *, group: int) -> None:
    """Return once worker group `group` (from 1) has written a checkpoint."""
    deadline, before = time.monotonic() + 400, None
    while before is None or newest(state) <= before:
        assert job.poll() is None, f"the job ended before group {group} had a checkpoint:\n{log.read_text()[-6000:]}\n{lab.logs()}"
        assert time.monotonic() < deadline, f"no checkpoint of group {group}:\n{log.read_text()[-6000:]}\n{lab.logs()}"
        if before is None and groups(state) >= group:
            before = newest(state)
        time.sleep(0.1)


def test_a_node_dies_then_the_head_and_the_single_machines_bytes_come_home(make_clone, tmp_path: Path) -> None:
    """One command, `ganpipe submit --retry 1`, through both.

    Kills: two workers on one node, a gloo that takes the interface of the host's name, a job that is lost with the head, a second job that begins
    anew, a way home that trains again.
    """
    clone, shared, log = make_clone(), tmp_path / "shared", tmp_path / "submit.log"
    clone.set(train__total_images=32_000, train__select=None, train__health_interval_images=0)
    clone.run("dvc", "remote", "add", "-d", "ours", str(tmp_path / "remote"))
    clone.commit("a remote")
    state = shared / "state"
    environment = {name: value for name, value in clone.environment.items() if name not in ("RAY_AUTH_MODE", "PYTHONPATH")}
    with ray_lab(tmp_path / "lab", nodes=3, environment=environment) as lab:
        lab.wait()
        submit = [sys.executable, "-m", "pipeline.submit", "--workspace", str(shared), "--retry", "1", "--target", "train"]
        job = lab.popen(submit, cwd=clone.root, log=log)
        wait_for_a_checkpoint(lab, job, state, log, group=1)
        at_work = [number for number in lab.nodes if lab.processes(number, "ray::RayTrainWorker")]
        assert len(at_work) == 2, at_work
        lab.cut_off(victim := next(number for number in at_work if number != HEAD))
        wait_for_a_checkpoint(lab, job, state, log, group=2)
        lab.cut_off(HEAD)
        lab.start(victim)
        lab.start(HEAD)
        assert job.wait(600) == 0, log.read_text()[-6000:] + lab.logs()
    said = log.read_text()
    assert "its driver died: sent again, try 1 of 1" in said
    assert "resumed from step-" in said
    assert "results of gan-" in said
    assert "up to date" in clone.run("dvc", "status", "train").stdout
    alone = clone.copy(tmp_path / "alone")
    assert clone.repro("train") == []
    alone.environment["GANPIPE_CACHED_OUTS"] = "0"  # trained anew on this machine, from the data that came home
    alone.run("dvc", "repro", "--force", "--single-item", "train")
    for name in WEIGHTS:
        assert sha256_file(alone.root / "models" / name) == sha256_file(clone.root / "models" / name)
