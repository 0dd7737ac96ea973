"""One driver at a time for one training: `lock.json` in its state says who, and a dead owner's lock is taken over.

Every change of it is a compare-and-swap (`Storage.swap`): whoever judged a lock replaces the very version that was judged, or nothing. A lock that
is given back stays, and says so. Should two drivers hold a training all the same (a machine that slept), the workers of the one that is no longer
in `lock.json` end at their next checkpoint, before they write it (`require_owner`).
"""

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
from ganlib.storage import Storage, Tag
from pipeline import processes
from pipeline.cli import say

LOCK = "lock.json"
GUARD = "lock.guard"  # what `swap` leaves beside it in a folder (ganlib.storage)
HEARTBEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 30.0


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
        released: it has ended, and holds nothing.
        job: of a cluster, that it is part of; empty without one.
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
    released: bool = False
    job: str = ""

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
        job = f"job {self.job}, " if self.job else ""
        return f"{job}{self.user}@{self.host}, process {self.pid}, since {self.since}"


def holder(storage: Storage) -> Holder | None:
    """Who `lock.json` says runs this training; None where there is none, or one that was cut short by a full disk."""
    found, _ = _look(storage)
    return None if found is None or found.released else found


def _look(storage: Storage) -> tuple[Holder | None, Tag | None]:
    """What `lock.json` says, and which version of it that is; None, None where there is none."""
    try:
        data, tag = storage.read_tagged(LOCK)
    except FileNotFoundError:
        return None, None
    try:
        return Holder.model_validate_json(data), tag
    except ValueError:
        return None, tag


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
        self._tag: Tag | None = None  # of the lock as this one wrote it last
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
            with suppress(OSError):
                self._renew(released=True)

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
            job=os.environ.get("GANPIPE_JOB", ""),
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
        while True:
            found, tag = _look(self.storage)
            why = ""
            if found is not None and not found.released:
                has_stopped_beating = self._still == (found.token, found.beats)
                if found.is_alive() is not False and not has_stopped_beating:
                    return found
                why = f"no heartbeat for {self._dead_after_seconds:g} s" if has_stopped_beating else "that process is dead"
            self._tag = self._replace(tag)
            if self._tag is not None:
                if why:
                    say(f"the lock of {found} is taken over: {why}")
                return None

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
            f"wait for it to end and run the same command again, or stop it{where} with: "
            + (f"ganpipe submit stop {found.job}" if found.job.startswith("gan-") else f"kill {found.pid}")
        )

    def _replace(self, tag: Tag | None, *, released: bool = False) -> Tag | None:
        """Write this one into the lock in place of the version that has `tag`; None where somebody else was faster."""
        self._beats += 1
        state = self._me.model_copy(update={"beats": self._beats, "stopping": self._stopping, "released": released})
        return self.storage.swap(LOCK, state.model_dump_json(indent=2).encode(), tag)

    def _renew(self, *, released: bool = False) -> Holder | None:
        """Write what is this one's already once more; returns who has taken it."""
        tag = self._replace(self._tag, released=released)
        if tag is None:
            found, latest = _look(self.storage)
            if found is not None and found.token != self.token:
                return found
            if latest is None and released:  # removed by hand, perhaps with all of the state
                return None
            tag = self._replace(latest, released=released)  # removed by hand, or the answer to our last write was lost
        self._tag = tag or self._tag
        return None

    def _beat(self) -> None:
        while True:
            self._wake.wait(self._heartbeat_seconds)
            self._wake.clear()
            if self._released:
                return
            with suppress(OSError):  # a full disk or a store that is away: the next beat may get through
                if (found := self._renew()) is not None:
                    self.lost.set()
                    say(f"the lock of this training was taken by {found}; this one writes no more checkpoints")
                    return
