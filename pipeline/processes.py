"""Processes of this machine: one remembered beyond its pid, the `dvc` that started a stage, the end of this one, a thread that gives way."""

import os
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psutil  # type: ignore[import-untyped]

_inside: list[threading.Event] = []


@dataclass(frozen=True)
class Process:
    """A process, told from a later one that got the same pid by when it started.

    Attributes:
        started: ticks since boot, which no setting of the clock moves; without /proc, seconds of the clock.
    """

    pid: int
    started: float

    def is_alive(self) -> bool:
        """False as well for a zombie, which only waits to be collected."""
        return find(self.pid) == self


def find(pid: int) -> Process | None:
    """The process that has `pid` now, None where there is none or a zombie."""
    if Path("/proc/self/stat").exists():
        try:
            state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        except (OSError, ValueError):
            return None
        return None if state in "ZX" else Process(pid, float(fields[18]))
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else Process(pid, process.create_time())
    except psutil.Error:
        return None


def this() -> Process:
    """The process that runs this line."""
    found = find(os.getpid())
    assert found is not None
    return found


def leave_at_once_until(is_back: threading.Event) -> None:
    """Have `leave` spare this process the interpreter's farewell as long as a thread is inside of a library that may abort in it."""
    _inside.append(is_back)


def leave(code: int) -> NoReturn:
    """End this process with `code`, as `sys.exit` does."""
    if all(is_back.is_set() for is_back in _inside):
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or a terminal that is gone
            stream.flush()
    os._exit(code)


def is_below_dvc() -> bool:
    """Whether this process is the command of a stage that `dvc` runs."""
    return "DVC_STAGE" in os.environ


def dvc_above() -> Process | None:
    """The `dvc` (or the program that calls its API) that started this stage; None where it has died already.

    DVC runs a command through `$SHELL -c`, and neither of them leaves the process group: an orphan's new parent is in another one.
    """
    shell = Path(os.environ.get("SHELL") or "/bin/sh").name
    try:
        parent = psutil.Process().parent()
        while parent is not None:
            command = parent.cmdline()
            if not (command and Path(command[0]).name == shell and "-c" in command):
                return find(parent.pid) if os.getpgid(parent.pid) == os.getpgid(0) else None
            parent = parent.parent()
    except (psutil.Error, OSError):  # it died while we looked
        pass
    return None


def yield_to_others(niceness: int) -> None:
    """Lower the priority of the calling thread: `nice` of it is `niceness` from then on.

    On Linux alone, where each thread has its own; elsewhere it would be that of the whole process, so nothing is done, as where it is forbidden.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
