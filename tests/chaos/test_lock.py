"""One training, several drivers: real processes take, hold, lose and race for its lock."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ganlib.storage import FolderStorage, open_storage
from pipeline.driver.lock import LOCK, Holder, LockedError, StateLock, Superseded, holder, require_owner
from tests.object_store import object_store

pytestmark = pytest.mark.chaos
ROOT = Path(__file__).resolve().parents[2]

# Holds the lock of argv[1] until a line comes; argv[2] is code that runs first, a line "stopping" marks it.
HOLD = """
import sys
from pipeline.driver import lock
from ganlib.storage import open_storage
exec(sys.argv[2])
with lock.StateLock(open_storage(sys.argv[1]), heartbeat_seconds=0.1).held() as held:
    print("held", held.token, flush=True)
    for line in sys.stdin:
        if line.strip() == "stopping":
            held.mark_stopping()
        elif line.strip() == "lost?":
            print(held.lost.wait(20), flush=True)
        else:
            break
print("released", flush=True)
"""
ELSEWHERE = (
    "lock.Place.here = classmethod(lambda cls: lock.Place(machine='m', boot_id='b', pid_namespace='n'))"  # as another machine has it
)


class Child:
    """A process that holds a lock."""

    def __init__(self, folder: Path, first: str = "", *, environment: dict[str, str] | None = None) -> None:
        self.guard = (Path(folder) / LOCK).with_suffix(".guard")
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder), first],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.token = self.line().removeprefix("held ")

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def sleep(self) -> None:
        """As a machine that sleeps. Not in the middle of a heartbeat: on one machine that keeps everybody else out until it wakes up."""
        while True:
            self.process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)  # until each of its threads has heard of it, its heart beats on
            with self.guard.open("a") as guard, suppress(BlockingIOError):
                fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            self.process.send_signal(signal.SIGCONT)

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()


@pytest.fixture
def hold(tmp_path):
    """hold(first code) -> a Child that holds the lock of tmp_path / "state"; gone after the test."""
    children: list[Child] = []

    def start(first: str = "", **more) -> Child:
        children.append(Child(tmp_path / "state", first, **more))
        return children[-1]

    yield start
    for child in children:
        child.process.kill()
        child.process.communicate()


@pytest.fixture
def storage(tmp_path):
    return FolderStorage(tmp_path / "state")


def rewrite(storage, **changes) -> Holder:
    """Change what lock.json says."""
    values = json.loads(storage.read(LOCK)) | changes
    storage.write(LOCK, json.dumps(values).encode())
    found = holder(storage)
    assert found is not None
    return found


def wait_until(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_second_is_told_which_job_holds_it_and_how_that_is_stopped(hold, storage):
    """Kills a message that sends people to a process id on a node they cannot reach."""
    child = hold()
    rewrite(storage, job="gan-0123abcd-0123456789ab")
    expected = r"held by job gan-0123abcd-0123456789ab, .* stop it with: ganpipe submit stop gan-0123abcd-0123456789ab$"
    with pytest.raises(LockedError, match=expected), StateLock(storage).held():
        pass
    rewrite(storage, job="slurm-7-0")
    with pytest.raises(LockedError, match=rf"held by job slurm-7-0, .*with: kill {child.process.pid}$"), StateLock(storage).held():
        pass


def test_the_second_is_told_who_holds_it_and_since_when(hold, storage):
    child = hold()
    found = holder(storage)
    with pytest.raises(LockedError) as raised, StateLock(storage).held():
        pass
    text = str(raised.value)
    assert f"process {child.process.pid}, since {found.since}: it is running already" in text
    assert f"@{os.uname().nodename}" in text
    assert f"kill {child.process.pid}" in text
    assert storage.uri in text
    require_owner(storage, child.token)  # the first one has noticed nothing
    child.say("end")
    assert child.line() == "released"
    assert holder(storage) is None
    with StateLock(storage).held() as lock:
        require_owner(storage, lock.token)


def test_the_lock_of_a_killed_process_is_taken_over(hold, storage, capsys):
    child = hold()
    child.process.kill()  # not waited for: a zombie is dead too
    wait_until(lambda: holder(storage).is_alive() is False)
    with StateLock(storage).held() as lock:
        assert f"process {child.process.pid}, since" in (said := capsys.readouterr().err)
        assert "is taken over: that process is dead" in said
        require_owner(storage, lock.token)
        with pytest.raises(Superseded, match=f"process {os.getpid()}"):
            require_owner(storage, child.token)
    with pytest.raises(Superseded, match="and ended"):
        require_owner(storage, lock.token)


@pytest.mark.parametrize("change", ["reused", "rebooted"])
def test_a_pid_that_came_back_is_another_process(hold, storage, change):
    hold("lock.StateLock._beat = lambda self: None")  # so that it does not write over the change
    found = holder(storage)
    assert found.is_alive() is True
    other = {"started": found.started - 1} if change == "reused" else {"place": {**found.place.model_dump(), "boot_id": "the one before"}}
    assert rewrite(storage, **other).is_alive() is False
    with StateLock(storage).held() as lock:
        require_owner(storage, lock.token)


def test_another_machine_is_judged_by_its_heartbeat(hold, storage, capsys):
    child = hold(ELSEWHERE)
    assert holder(storage).is_alive() is None
    with pytest.raises(LockedError, match=rf"on {os.uname().nodename} with: kill"), StateLock(storage, dead_after_seconds=20).held():
        pass
    assert "watching up to 20 s whether it lives" in capsys.readouterr().err

    child.sleep()
    with StateLock(storage, dead_after_seconds=1).held() as lock:
        assert "is taken over: no heartbeat for 1 s" in capsys.readouterr().err
        child.process.send_signal(signal.SIGCONT)
        child.say("lost?")
        assert child.line() == "True"
        child.say("end")
        assert child.line() == "released"
        require_owner(storage, lock.token)  # the one that woke up has neither written nor removed the lock


def test_a_holder_that_stops_is_waited_for(hold, storage, capsys):
    child = hold()
    child.say("stopping")
    wait_until(lambda: holder(storage).stopping)
    with (
        pytest.raises(LockedError, match="was asked to stop, and has not ended"),
        StateLock(storage, patience_seconds=0.5).held(),
    ):
        pass
    waiting = subprocess.Popen(
        [sys.executable, "-c", HOLD, storage.uri, ""],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waiting.stderr.readline().startswith("waiting for ")
    require_owner(storage, child.token)
    child.say("end")
    out, said = waiting.communicate("end\n", timeout=60)
    assert [line.split()[0] for line in out.splitlines()] == ["held", "released"]
    assert "waiting" not in said  # said once


# A stand-in for dvc: runs the command below itself as dvc does, through $SHELL -c or directly.
BELOW = """
import os, subprocess, sys
command = [sys.executable, "-c", *sys.argv[2:]]
if sys.argv[1] == "shell":
    import shlex
    command = [os.environ["SHELL"], "-c", shlex.join(command) + "; exit $?"]
subprocess.Popen(command, env={**os.environ, "DVC_STAGE": "train"}).wait()
"""


@pytest.mark.parametrize("how", ["shell", "direct"])
def test_a_holder_whose_dvc_died_is_waited_for(storage, how):
    """Killing `dvc` alone leaves the stage behind; it needs a moment to notice."""
    dvc = subprocess.Popen(
        [sys.executable, "-c", BELOW, how, HOLD, storage.uri, ""],
        cwd=ROOT,
        env={**os.environ, "SHELL": "/bin/sh"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert dvc.stdout.readline().startswith("held")
    found = holder(storage)
    try:
        assert found.dvc_pid == dvc.pid
        assert not found.is_ending()
        dvc.kill()
        dvc.wait()
        assert holder(storage).is_alive()
        assert holder(storage).is_ending()
        with pytest.raises(LockedError, match="has not ended"), StateLock(storage, patience_seconds=0.3).held():
            pass
    finally:
        os.kill(found.pid, signal.SIGKILL)
        dvc.kill()
        dvc.communicate()
    with StateLock(storage).held() as lock:
        require_owner(storage, lock.token)


@pytest.mark.parametrize("content", [b"", b'{"token": "ab', b"\0" * 500])
def test_a_lock_cut_short_by_a_full_disk_is_none(storage, content):
    storage.write(LOCK, content)
    assert holder(storage) is None
    with StateLock(storage).held() as lock:
        require_owner(storage, lock.token)


RACE = """
import sys, time
from pathlib import Path
from pipeline.driver import lock
from ganlib.storage import open_storage
lock.say = lambda text: None
root, states, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
for number in range(rounds):
    while not (root / f"go-{number}").exists():
        time.sleep(0)
    try:
        with lock.StateLock(open_storage(f"{states}/{number}")).held():
            print("held", flush=True)
            while not (root / f"end-{number}").exists():
                time.sleep(0.001)
            print("done", flush=True)
    except lock.LockedError:
        print("refused", flush=True)
"""


@pytest.mark.parametrize("place", ["folder", pytest.param("s3", marks=pytest.mark.heavy)])
def test_of_two_that_race_for_a_lock_one_gets_it(hold, storage, tmp_path, request, monkeypatch, place):
    """Fifty times: for a dead lock, for none, for one that was given back. Killed by a `swap` that is a plain write."""
    rounds, states = 51, str(tmp_path)
    if place == "s3":
        server = request.getfixturevalue("s3")
        for key, value in server.environment.items():
            monkeypatch.setenv(key, value)
        states = f"{server.uri}/race"
    child = hold()
    child.process.kill()
    child.process.wait()
    dead = storage.read(LOCK)
    given_back = json.dumps(json.loads(dead) | {"released": True}).encode()
    for number in range(rounds):
        if before := (dead, b"", given_back)[number % 3]:
            open_storage(f"{states}/{number}").write(LOCK, before)
    racers = [
        subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path), states, str(rounds)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 2
        for number in range(rounds):
            (tmp_path / f"go-{number}").touch()
            outcomes = {racer.stdout.readline().strip(): racer for racer in racers}
            assert sorted(outcomes) == ["held", "refused"], number
            (tmp_path / f"end-{number}").touch()
            assert outcomes["held"].stdout.readline() == "done\n"
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()


def test_one_that_slept_does_not_take_back_a_lock_that_was_given_back(hold, storage):
    """Another has come and gone meanwhile. Killed by a heartbeat that writes wherever nobody holds the lock."""
    child = hold(ELSEWHERE)
    child.sleep()
    with StateLock(storage, dead_after_seconds=1).held() as lock:
        pass
    assert holder(storage) is None
    child.process.send_signal(signal.SIGCONT)
    child.say("lost?")
    assert child.line() == "True"
    child.say("end")
    assert child.line() == "released"
    assert holder(storage) is None
    with pytest.raises(Superseded, match="and ended"):
        require_owner(storage, lock.token)


def test_a_lock_that_was_removed_by_hand_comes_back(hold, storage):
    """With the next heartbeat. Killed by a heartbeat that takes every refusal for another holder."""
    child = hold()
    storage.remove(LOCK)
    wait_until(lambda: holder(storage) is not None)
    require_owner(storage, child.token)


@pytest.mark.slow
def test_an_object_store_has_one_holder_too(capsys, monkeypatch):
    """Two that come at once, then the lock of the killed winner."""
    with object_store() as server:
        for key, value in server.environment.items():
            monkeypatch.setenv(key, value)
        storage = open_storage(f"{server.uri}/one")
        command = [sys.executable, "-c", HOLD, storage.uri, ""]
        both = [
            subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        try:
            loser = next(iter(wait_for_one_to_end(both)))
            (winner,) = (process for process in both if process is not loser)
            assert f"held by {holder(storage)}: it is running already" in loser.stderr.read()
            assert winner.stdout.readline() == f"held {holder(storage).token}\n"
            before = holder(storage).beats
            wait_until(lambda: holder(storage).beats > before)
        finally:
            for process in both:
                process.kill()
                process.communicate()
        with StateLock(storage).held() as lock:
            assert "is taken over: that process is dead" in capsys.readouterr().err
            require_owner(storage, lock.token)
        assert holder(storage) is None
        assert storage.names("") == [LOCK]  # nothing is left of finding out what the store can do


def wait_for_one_to_end(processes):
    wait_until(lambda: any(process.poll() is not None for process in processes), 240)
    return [process for process in processes if process.poll() is not None]


def test_two_clones_that_share_a_state_train_once(make_prepared, finished, tmp_path):
    """Both begin at once. One trains; the other says who and since when, touches nothing, and has the result when it comes again."""
    clones = [make_prepared(), make_prepared()]
    for clone in clones:
        clone.set(train__state_uri=str(tmp_path / "shared"))
    train = ["python", "-m", "pipeline.stages.train"]
    both = [
        subprocess.Popen(train, cwd=clone.root, env=clone.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for clone in clones
    ]
    try:
        wait_for_one_to_end(both)
        loser = 0 if both[0].poll() is not None else 1
        (folder,) = (tmp_path / "shared").iterdir()
        found = holder(FolderStorage(folder))
        assert found.pid == both[1 - loser].pid
        assert both[loser].returncode == 1
        assert f"error: this training is held by {found}: it is running already (state {folder})" in both[loser].communicate()[1]
        _, said = both[1 - loser].communicate(timeout=300)
        assert both[1 - loser].returncode == 0, said[-3000:]
    finally:
        for process in both:
            process.kill()
            process.communicate()
    assert holder(FolderStorage(folder)) is None
    assert not (clones[loser].root / "models").exists()
    assert "training on" not in clones[loser].run(*train).stdout
    expected = (finished.root / "models" / "generator.safetensors").read_bytes()
    for clone in clones:
        assert (clone.root / "models" / "generator.safetensors").read_bytes() == expected
