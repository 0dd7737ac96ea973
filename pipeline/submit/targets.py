"""What a kind of cluster must be able to do; `--address` selects one. A new kind is a class in a file of its own beside this one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.submit.package import Package

STOPPED, UNREACHABLE, LOST, TIMED_OUT, INTERRUPTED = 3, 2, 4, 124, 130  # exit codes of the command


class Unreachable(Exception):
    """No job server answers at the address."""


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
    """How a job ended."""

    status: str  # the cluster's own word
    exit_code: int
    message: str = ""


class Target(Protocol):
    """A kind of cluster. One class each; `--address` selects it."""

    def submit(self, package: Package, job: Job) -> None:
        """Start the job. Raises ValueError if the cluster refuses it."""

    def follow(self, job_id: str, *, write: Callable[[str], object], deadline: float | None = None) -> Outcome:
        """Pass the log to `write` until the job has ended. Raises Lost, and TimedOut at `deadline` (time.monotonic())."""

    def stop(self, job_id: str) -> None:
        """Ask the job to end; `follow` says when it has."""
