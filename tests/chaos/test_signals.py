"""Signals at a training that `dvc` runs: it saves, ends, leaves nothing behind, and the next `dvc repro` continues it to the same bytes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ganlib.files import sha256_file
from ganlib.storage import FolderStorage
from pipeline.driver.lock import holder
from tests.clones import Clone

pytestmark = pytest.mark.chaos
ROOT = Path(__file__).resolve().parents[2]

# A stand-in for dvc, quicker to start: runs a stage as dvc does, through $SHELL -c, and says what became of it.
DVC = """
import os, shlex, subprocess, sys
command = shlex.join([sys.executable, "-c", sys.argv[1], *sys.argv[2:]])
subprocess.Popen([os.environ["SHELL"], "-c", command + "; exit $?"], env={**os.environ, "DVC_STAGE": "x"}).wait()
"""
STAGE = """
import sys, time
from pathlib import Path
from pipeline import cli
def main():
    try:
        print("begun", flush=True)
        time.sleep(60)
    except SystemExit as end:
        Path(sys.argv[1]).write_text(str(end.code))
        raise
time.sleep(float(sys.argv[2]))
cli.run(main)
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_stage_unwinds_when_its_dvc_is_killed(tmp_path, when):
    """`early`: before the stage looked who had started it."""
    delay = {"early": 1, "late": 0}[when]
    dvc = subprocess.Popen(
        [sys.executable, "-c", DVC, STAGE, str(tmp_path / "unwound"), str(delay)],
        cwd=ROOT,
        env={**os.environ, "SHELL": "/bin/sh"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if when == "late":
        assert dvc.stdout.readline() == "begun\n"
    else:
        wait_until(lambda: len(psutil.Process(dvc.pid).children(recursive=True)) == 2)
    stages = psutil.Process(dvc.pid).children(recursive=True)
    dvc.kill()
    _, said = dvc.communicate(timeout=60)  # the pipe closes when the last of them has ended
    wait_until(lambda: not any(process.is_running() for process in stages), log=lambda: said)
    assert "has died: this stage ends too" in said
    assert "Traceback" not in said
    if when == "late":
        assert (tmp_path / "unwound").read_text() == "143"


def test_a_stage_by_hand_has_no_dvc_to_lose(tmp_path):
    """DVC_STAGE is not set: what started it may end."""
    starter = "import subprocess, sys; subprocess.Popen(sys.argv[1:])"
    stage = "from pipeline import cli; import time; cli.run(lambda: (time.sleep(1.5), print('done')))"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
    done = subprocess.run(
        [sys.executable, "-c", starter, sys.executable, "-c", stage], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


def wait_until(condition, seconds: float = 240.0, *, log=lambda: "") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log()
        time.sleep(0.02)


def stand_still(process: psutil.Process) -> None:
    """SIGSTOP, and return once every thread has heard of it."""
    process.send_signal(signal.SIGSTOP)
    tasks = Path(f"/proc/{process.pid}/task")
    wait_until(lambda: all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks.iterdir()))


class Training:
    """`dvc repro train` in a clone, in the background, in a session of its own; there once the workers train.

    Args:
        waits: for an earlier one, so that it is there at once.
    """

    def __init__(self, clone, *, waits: bool = False) -> None:
        self.clone = clone
        number = len(list(clone.root.parent.glob("*.log")))
        self.path = clone.root.parent / f"{number}.log"
        with self.path.open("w") as log:
            self.dvc = subprocess.Popen(
                ["dvc", "repro", "train"], cwd=clone.root, env=clone.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.images_seen = 0
        if not waits:
            wait_until(lambda: len(self._begun()) > number or self.dvc.poll() is not None, log=lambda: self.said[-3000:])
            assert self.dvc.poll() is None, self.said[-3000:]
            self.images_seen = self._begun()[-1]["images_seen"]

    def _begun(self) -> list[dict]:
        if not (self.clone.root / "state").exists():
            return []
        return events(self.clone, "start", "resumed")

    @property
    def said(self) -> str:
        return self.path.read_text()

    def stage(self) -> int:
        """The pid of the stage, which holds the lock."""
        return holder(state(self.clone)).pid

    def end(self) -> int:
        return self.dvc.wait(timeout=240)


def state(clone) -> FolderStorage:
    (folder,) = (clone.root / "state").iterdir()
    return FolderStorage(folder)


def checkpoints(clone) -> list[str]:
    return [name for name in state(clone).names("checkpoints") if not name.startswith(".")]


def events(clone, *kinds: str) -> list[dict]:
    path = state(clone).folder / "events.jsonl"
    text = path.read_text() if path.exists() else ""
    return [event for event in map(json.loads, text[: text.rfind("\n") + 1].splitlines()) if event["kind"] in kinds]


def living(clone) -> Iterator[psutil.Process]:
    """Processes that were started with the clone's HOME, wherever they hang now."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == clone.environment["HOME"] and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.Error:
            continue


def processes_of(clone) -> list[str]:
    return [line for process in living(clone) if (line := described(process))]


def described(process: psutil.Process) -> str:
    """Its pid, name and command; empty for one that has ended in between."""
    try:
        return " ".join([str(process.pid), process.name(), *process.cmdline()])[:200]
    except psutil.Error:
        return ""


def worker_of(clone) -> psutil.Process:
    """One of the workers that train."""
    return next(process for process in living(clone) if " ray::RayTrain" in described(process))


def runs(clone) -> list[str]:
    code = f"import mlflow; print([r.info.status for r in mlflow.MlflowClient('sqlite:///{clone.root}/mlflow.db').search_runs(['1'])])"
    return json.loads(clone.run("python", "-W", "ignore", "-c", code).stdout.replace("'", '"'))


@pytest.fixture
def clone(make_prepared, tmp_path_factory):
    """Prepared, with a HOME of its own, no checkpoint but those a signal asks for, and patience with MLflow."""
    prepared = make_prepared()
    clone = Clone(prepared.root, prepared.environment | {"HOME": str(tmp_path_factory.mktemp("home"))})
    # no checkpoint of an interval; and MLflow is imported while the training stops, which takes its time on a machine that does other things
    clone.set(train__checkpoint_interval_images=10**9, tracking__patience_seconds=200)
    yield clone
    left = processes_of(clone)
    for process in living(clone):
        process.kill()
    assert left == []


ENDLESS = {"train__total_images": 10**8, "train__history_interval_images": 10**6, "train__grid_interval_images": 10**8}


def test_ctrl_c_saves_ends_and_says_so(clone):
    """At everything, as a terminal sends it."""
    clone.set(**ENDLESS)
    training = Training(clone)
    os.killpg(training.dvc.pid, signal.SIGINT)
    assert training.end() != 0
    # bash hands the stage's exit code on; dash, which DVC takes where SHELL is not set, ends by the Ctrl-C it got itself
    assert re.search("exited with (130|-2)$", training.said, re.MULTILINE)
    is_saved_and_gone(training)


@pytest.mark.slow
def test_sigterm_saves_ends_and_says_so(clone):
    """To the stage, then to dvc: two attempts at one training."""
    clone.set(**ENDLESS)
    training = Training(clone)
    os.kill(training.stage(), signal.SIGTERM)
    assert training.end() != 0
    assert "exited with 143" in training.said
    is_saved_and_gone(training)

    training = Training(clone)
    training.dvc.terminate()
    assert training.end() == -signal.SIGTERM
    is_saved_and_gone(training)
    assert f"dvc (process {training.dvc.pid}) has died: this stage ends too" in training.said


def is_saved_and_gone(training) -> None:
    """What every stopped training owes."""
    clone = training.clone
    wait_until(lambda: not processes_of(clone), log=lambda: "\n".join([*processes_of(clone), training.said[-3000:]]))
    assert "stopping: a checkpoint is written first" in training.said
    newest, stopped = checkpoints(clone)[-1], events(clone, "interrupted")[-1]
    assert training.images_seen < stopped["images_seen"]  # just in time: no interval has brought a checkpoint
    assert int(newest.removeprefix("step-")) * 64 == stopped["images_seen"]
    assert stopped["text"] in training.said
    assert runs(clone) == ["KILLED"], training.said[-3000:]
    assert holder(state(clone)) is None
    assert not (clone.root / "models").exists()


@pytest.mark.slow  # test_kills.py has a killed dvc too
def test_a_killed_dvc_is_continued_by_the_next(clone, finished):
    """kill -9 to dvc alone leaves the stage to itself. The next `dvc repro` waits until it has saved, continues, and ends in the same bytes."""
    clone.set(cluster__stop_grace_seconds=600)
    training = Training(clone)
    worker = worker_of(clone)
    stand_still(worker)  # so that the stage cannot have ended before the next one comes
    training.dvc.kill()
    assert training.end() == -signal.SIGKILL
    again = Training(clone, waits=True)
    wait_until(lambda: "waiting for" in again.said or again.dvc.poll() is not None, log=lambda: training.said + again.said)
    worker.send_signal(signal.SIGCONT)
    assert again.end() == 0, again.said[-3000:]
    assert "it is stopping, and writes a last checkpoint first" in again.said
    assert "error" not in again.said.lower()
    (resumed,) = events(clone, "resumed")
    assert resumed["images_seen"] > 0
    assert resumed["computed_again"] == 0
    assert runs(clone) == ["FINISHED"]
    assert outs(clone) == outs(finished)


def outs(clone) -> dict[str, str]:
    """Hashes of what a training leaves; generator.json names the commit, and each clone has its own."""
    found = {path: md5 for path, md5 in clone.lock().items() if path.startswith("reports/training")}
    found |= {path.name: sha256_file(path) for path in (clone.root / "models").glob("*.safetensors")}
    assert len(found) >= 5
    return found


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait(clone):
    """A worker that stands still cannot save; whoever presses Ctrl-C again has seen enough."""
    clone.set(cluster__stop_grace_seconds=600)
    training = Training(clone)
    stand_still(worker_of(clone))
    for text in ("stopping: a checkpoint is written first", "interrupted"):
        os.killpg(training.dvc.pid, signal.SIGINT)
        wait_until(lambda text=text: text in training.said, log=lambda: training.said[-3000:])
    assert training.end() != 0
    # bash hands the stage's exit code on; dash, which DVC takes where SHELL is not set, ends by the Ctrl-C it got itself
    assert re.search("exited with (130|-2)$", training.said, re.MULTILINE)
    wait_until(lambda: not processes_of(clone), log=lambda: "\n".join(processes_of(clone)))
    assert runs(clone) == ["KILLED"], training.said[-3000:]
