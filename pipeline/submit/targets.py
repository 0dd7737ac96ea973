"""What a kind of cluster must be able to do; `--address` selects one. A new kind is a class in a file of its own beside this one."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.submit.package import Package

# Exit codes of the command; 0: succeeded, 1: failed, 128 + n: killed by signal n.
UNREACHABLE, STOPPED, LOST, NOT_HOME, DIED, TIMED_OUT, INTERRUPTED = 2, 3, 4, 5, 6, 124, 130
JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Unreachable(Exception):
    """No job server answers at the address, or it does not let us in."""


class Lost(Exception):
    """The job server stopped answering while a job was followed."""


class TimedOut(Exception):
    """The job is still running after the time it was given."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What runs on the cluster, whatever kind it is."""

    id: str
    stages: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended.

    Attributes:
        status: the cluster's own word.
        message: the last lines of what the cluster says about it.
        has_died: its driver was killed, or went with its node: another try may end otherwise.
    """

    status: str
    exit_code: int
    message: str = ""
    has_died: bool = False


@dataclass(frozen=True, kw_only=True)
class Known:
    """A job the cluster knows.

    Attributes:
        outcome: None while it waits or runs.
        started, ended: seconds since the epoch; 0: not yet.
    """

    id: str
    status: str
    labels: Mapping[str, str] = field(default_factory=dict)
    outcome: Outcome | None = None
    started: float = 0.0
    ended: float = 0.0


class Target(Protocol):
    """A kind of cluster. One class each; `--address` selects it."""

    def request(self, package: Package, job: Job) -> Mapping[str, Any]:
        """What `submit` hands to the cluster beside the package: plain values, for `--dry-run` too."""

    def submit(self, package: Package, job: Job) -> None:
        """Start the job. Raises ValueError if the cluster refuses it."""

    def follow(self, job_id: str, *, write: Callable[[str], object], deadline: float | None = None) -> Outcome:
        """Pass the log to `write` until the job has ended. Raises Lost, and TimedOut at `deadline` (time.monotonic())."""

    def stop(self, job_id: str) -> None:
        """Ask the job to end; `follow` says when it has."""

    def jobs(self) -> Sequence[Known]:
        """The jobs there are, the oldest first."""

    def log(self, job_id: str) -> str:
        """What the job has printed so far."""


def check_name(job_id: str) -> str:
    """`job_id`, which becomes the name of folders and objects.

    Raises:
        ValueError: it is none.
    """
    if not JOB_NAME.fullmatch(job_id):
        raise ValueError(f"{job_id!r} is no name of a job: expected up to 100 letters, digits, '.', '_' and '-', the first no sign")
    return job_id


def known_job(target: Target, job_id: str) -> Known:
    """The job of that name.

    Raises:
        ValueError: there is none.
    """
    check_name(job_id)
    found = next((job for job in target.jobs() if job.id == job_id), None)
    if found is None:
        raise ValueError(f"the job server knows no job {job_id} (`ganpipe submit list` names those it knows)")
    return found
