"""What a Ray of our own leaves behind, found and ended: by the driver that started it, by a guardian when that driver is killed, by the next driver.

`kill -9` of a driver runs no line of it, and of Ray's helpers those that are still starting watch nobody: an agent that waits for a head which died
outlives the raylet, the driver and the command. So everything that descends from a driver carries its mark in the environment, and a small process
outside the driver's session, the guardian, lives as long as the driver and then ends what carries the mark.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from pipeline.processes import Process

STARTED_BY = "GANPIPE_RAY_STARTED_BY"  # in the environment of everything a Ray of our own starts: pid and start of the driver
# A process that sets its title (Ray's agents and workers do) writes it over its environment, the mark too, unless told otherwise.
KEEPS_ENVIRONMENT = ("SPT_NOENV", "1")
WATCH_SECONDS = 0.5  # how often the guardian looks whether its driver lives
QUIET_SECONDS = 2.0  # after a kill -9, whatever was on its way into being has shown itself by then
END_SECONDS = 60.0  # a process that cannot be killed is waited for no longer


@contextmanager
def marked(driver: Process) -> Iterator[None]:
    """While the block runs every new descendant of this process carries the driver's mark, and a guardian ends them should the driver die."""
    os.environ.setdefault(*KEEPS_ENVIRONMENT)
    environment = {name: value for name, value in os.environ.items() if name != STARTED_BY}
    guardian = subprocess.Popen(
        [sys.executable, "-m", __name__, str(driver.pid), repr(driver.started)],
        cwd=Path(__file__).resolve().parents[2],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # what ends the driver's group or terminal does not end it
    )
    os.environ[STARTED_BY] = f"{driver.pid} {driver.started}"
    try:
        yield
    finally:
        os.environ.pop(STARTED_BY, None)
        end(lambda process: process == driver)
        guardian.kill()
        guardian.wait()


def end(is_over: Callable[[Process], bool], *, quiet_seconds: float = 0.0) -> None:
    """Kill what carries the mark of a driver of which `is_over` is true, until nothing of it has been seen for `quiet_seconds`."""
    now = time.monotonic()
    deadline, seen = now + END_SECONDS, now
    while True:
        found = _carriers(is_over)
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=5)
        now = time.monotonic()
        seen = now if found else seen
        if (not found and now >= seen + quiet_seconds) or now > deadline:
            return
        time.sleep(0.1)


def end_orphans() -> None:
    """Kill what is left of the Rays of drivers that died."""
    end(lambda driver: not driver.is_alive())


def _carriers(is_over: Callable[[Process], bool]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            pid, _, started = process.environ().get(STARTED_BY, "").partition(" ")
            is_ours = pid and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if is_ours and is_over(Process(int(pid), float(started))):
                found.append(process)
        except (psutil.Error, OSError, ValueError):  # gone, or another user's
            continue
    return found


def main() -> None:
    """The guardian of the driver whose pid and start are the arguments."""
    driver = Process(int(sys.argv[1]), float(sys.argv[2]))
    while driver.is_alive():
        time.sleep(WATCH_SECONDS)
    end(lambda process: process == driver, quiet_seconds=QUIET_SECONDS)


if __name__ == "__main__":
    main()
