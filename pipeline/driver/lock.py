"""One driver at a time for one training: `lock.json` in its state says who, and a dead owner's lock is taken over.

A folder has `flock`, which makes reading, judging and writing the lock one action. An object store offers no compare-and-swap here: whoever has
written looks again after a moment whether it is still the last one. Should two drivers hold a training all the same (a machine that slept), the
workers of the one that is no longer in `lock.json` end at their next checkpoint, before they write it (`require_owner`).
"""

import fcntl
import getpass
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from ganlib.config import Section
from ganlib.storage import FolderStorage, Storage, StorageError
from pipeline import processes
from pipeline.cli import say

LOCK = "lock.json"
GUARD = "lock.guard"  # flock of a folder; stays, because removing it would let two in
HEARTBEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 30.0
GUARD_SECONDS = 20.0  # the guard is held for one small file at a time
SETTLE_SECONDS = 2.0  # of an object store: longer than another one takes from looking to writing


class LockedError(ValueError):
    """Somebody else runs this training; says who, since when, and what to do."""


class Superseded(RuntimeError):
    """Another attempt at the same training has begun."""


class Place(Section):
    """Where a pid means something: a machine, one boot of it, one namespace of pids (a container has its own)."""

    machine: str
    boot_id: str
    pid_namespace: str

    @classmethod
    def here(cls) -> "Place":
        def text(path: str) -> str:
            try:
                return Path(path).read_text().strip()
            except OSError:
                return ""

        try:
            namespace = os.readlink("/proc/self/ns/pid")
        except OSError:
            namespace = ""
        return cls(machine=text("/etc/machine-id"), boot_id=text("/proc/sys/kernel/random/boot_id"), pid_namespace=namespace)


class Holder(Section):
    """The content of `lock.json`.

    Attributes:
        started: of the process, as `processes.Process` has it.
        dvc_pid, dvc_started: of the `dvc` above it; 0 without one.
        beats: grows while the holder lives.
        stopping: it was asked to stop, and writes its last checkpoint.
    """

    token: str
    user: str
    host: str
    place: Place
    pid: int
    started: float
    dvc_pid: int
    dvc_started: float
    since: str
    beats: int = 0
    stopping: bool = False

    def is_alive(self) -> bool | None:
        """None: not to be told from here, only by watching `beats`."""
        here = Place.here()
        if self.place == here and here.boot_id:
            return processes.Process(self.pid, self.started).is_alive()
        is_this_machine = self.host == socket.gethostname() and self.place.machine == here.machine != ""
        if is_this_machine and self.place.boot_id != here.boot_id:
            return False  # it was rebooted since
        return None

    def is_ending(self) -> bool:
        """It is stopping, or will notice that its `dvc` is gone, or is gone itself."""
        is_alive = self.is_alive()
        is_orphan = is_alive and self.dvc_pid and not processes.Process(self.dvc_pid, self.dvc_started).is_alive()
        return self.stopping or is_alive is False or bool(is_orphan)

    def __str__(self) -> str:
        return f"{self.user}@{self.host}, process {self.pid}, since {self.since}"


def holder(storage: Storage) -> Holder | None:
    """Who `lock.json` says runs this training; None where there is none, or one that was cut short by a full disk."""
    try:
        return Holder.model_validate_json(storage.read(LOCK))
    except (FileNotFoundError, ValueError):
        return None


def require_owner(storage: Storage, token: str) -> None:
    """Raise Superseded unless the lock has `token`."""
    found = holder(storage)
    if found is None or found.token != token:
        raise Superseded(
            f"another attempt at this training has begun ({found or 'and ended'}; state {storage.uri}); this one writes nothing more"
        )


class StateLock:
    """The lock of one training's state.

    Args:
        storage: where the state is.
        patience_seconds: how long to wait for a holder that is stopping.
        heartbeat_seconds: how often a holder shows that it lives.
        dead_after_seconds: without a heartbeat for so long, a holder on another machine is dead.

    Attributes:
        token: what a holder writes into the lock, new for each StateLock.
        lost: set when somebody else has taken the lock.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        patience_seconds: float = 60.0,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        dead_after_seconds: float = DEAD_AFTER_SECONDS,
    ) -> None:
        self.storage = storage
        self.token = uuid.uuid4().hex
        self.lost = threading.Event()
        self._patience_seconds = patience_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._dead_after_seconds = dead_after_seconds
        self._beats = 0
        self._stopping = False
        self._wake = threading.Event()
        self._released = False
        self._still: tuple[str, int] | None = None  # token and beats of a holder whose heart was found still
        self._has_said_watching = False

    @contextmanager
    def held(self) -> Iterator["StateLock"]:
        """Hold the lock while the block runs.

        Raises:
            LockedError: somebody else holds it, and lives.
            StorageError: the state cannot be reached.
        """
        self._me = self._describe()
        self._acquire()
        heart = threading.Thread(target=self._beat, name="lock heartbeat", daemon=True)
        heart.start()
        try:
            yield self
        finally:
            self._released = True
            self._wake.set()
            heart.join(self._dead_after_seconds)
            with suppress(OSError), self._alone():
                if (found := holder(self.storage)) is not None and found.token == self.token:
                    self.storage.remove(LOCK)

    def mark_stopping(self) -> None:
        """Tell whoever wants the lock that it is worth waiting. Not for a signal handler: it takes a lock of its own."""
        self._stopping = True
        self._wake.set()

    def _describe(self) -> Holder:
        me = processes.this()
        dvc = processes.dvc_above() if processes.is_below_dvc() else None
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container without this user in its passwd
            user = str(os.getuid())
        return Holder(
            token=self.token,
            user=user,
            host=socket.gethostname(),
            place=Place.here(),
            pid=me.pid,
            started=me.started,
            dvc_pid=dvc.pid if dvc else 0,
            dvc_started=dvc.started if dvc else 0.0,
            since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        )

    def _acquire(self) -> None:
        give_up: float | None = None  # when; None: not waiting for a holder that ends
        while (found := self._take()) is not None:
            if found.is_alive() is None:
                if not self._moves(found):
                    self._still = found.token, found.beats
                    continue
                latest = holder(self.storage)
                if latest is None or latest.token != found.token:
                    continue
                found = latest
            if not found.is_ending():
                raise LockedError(self._refusal(found, "it is running already"))
            if give_up is None:
                give_up = time.monotonic() + self._patience_seconds
                say(f"waiting for {found}: it is stopping, and writes a last checkpoint first")
            elif time.monotonic() > give_up:
                raise LockedError(self._refusal(found, f"it was asked to stop, and has not ended within {self._patience_seconds:g} s"))
            time.sleep(min(0.2, self.storage.poll_seconds))

    def _take(self) -> Holder | None:
        """Write the lock where nobody alive holds it; returns who does."""
        with self._alone() as is_alone:
            found = holder(self.storage)
            if found is not None:
                has_stopped_beating = self._still == (found.token, found.beats)
                if found.is_alive() is not False and not has_stopped_beating:
                    return found
                why = f"no heartbeat for {self._dead_after_seconds:g} s" if has_stopped_beating else "that process is dead"
                say(f"the lock of {found} is taken over: {why}")
            self._write()
            if is_alone:
                return None
        time.sleep(SETTLE_SECONDS)
        found = holder(self.storage)
        return None if found is not None and found.token == self.token else found

    def _moves(self, found: Holder) -> bool:
        """Watch a holder that cannot be seen from here: whether anything happens to its lock before it counts as dead."""
        if not self._has_said_watching:
            say(f"the lock is held by {found}, not to be seen from here; watching up to {self._dead_after_seconds:g} s whether it lives")
            self._has_said_watching = True
        deadline = time.monotonic() + self._dead_after_seconds
        while time.monotonic() < deadline:
            time.sleep(min(self.storage.poll_seconds, self._heartbeat_seconds))
            now = holder(self.storage)
            if now is None or (now.token, now.beats) != (found.token, found.beats):
                return True
        return False

    def _refusal(self, found: Holder, why: str) -> str:
        where = "" if found.place == Place.here() else f" on {found.host}"
        return (
            f"this training is held by {found}: {why} (state {self.storage.uri}); "
            f"wait for it to end and run the same command again, or stop it{where} with: kill {found.pid}"
        )

    def _write(self) -> None:
        self._beats += 1
        state = self._me.model_copy(update={"beats": self._beats, "stopping": self._stopping})
        self.storage.write(LOCK, state.model_dump_json(indent=2).encode())

    def _beat(self) -> None:
        while True:
            self._wake.wait(self._heartbeat_seconds)
            self._wake.clear()
            if self._released:
                return
            with suppress(OSError), self._alone():  # a full disk or a store that is away: the next beat may get through
                found = holder(self.storage)
                if found is not None and found.token != self.token:
                    self.lost.set()
                    say(f"the lock of this training was taken by {found}; this one writes no more checkpoints")
                    return
                self._write()

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether nobody else reads or writes the lock while the block runs: a promise only of a folder that has flock."""
        if isinstance(self.storage, FolderStorage):
            self.storage.folder.mkdir(parents=True, exist_ok=True)
            with (self.storage.folder / GUARD).open("a") as guard:
                yield _flock(guard.fileno(), self.storage.uri)
        else:
            yield False


def _flock(handle: int, uri: str) -> bool:
    """Take the flock of an open file, which ends when it is closed; False on a file system without flock."""
    deadline = time.monotonic() + GUARD_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StorageError(
                    f"{uri}/{GUARD} has been locked for {GUARD_SECONDS:g} s: a process that uses this state hangs; find it with: "
                    f"fuser {uri}/{GUARD}"
                ) from None
            time.sleep(0.01)
        except OSError:
            return False
