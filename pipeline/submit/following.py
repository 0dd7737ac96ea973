"""Follows a job to its end, stops it, says how it stands."""

import sys
import time
from collections.abc import Callable, Sequence

from pipeline.submit.ray_jobs import STOP_WAIT_SECONDS
from pipeline.submit.targets import INTERRUPTED, LOST, TIMED_OUT, Known, Lost, Outcome, Target, TimedOut

Say = Callable[[str], object]
TAIL_CHARACTERS = 10_000  # of the log, kept to see what was printed already


def follow(target: Target, job_id: str, *, timeout_minutes: float | None = None, say: Say = print) -> Outcome:
    """Follow a job to its end; its exit code is that for the shell. Ctrl-C stops the job and waits; a second one leaves it to itself."""
    deadline = None if timeout_minutes is None else time.monotonic() + 60 * timeout_minutes
    tail = ""

    def write(text: str) -> None:
        nonlocal tail
        tail = (tail + text)[-TAIL_CHARACTERS:]
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        outcome = target.follow(job_id, write=write, deadline=deadline)
    except Lost as error:
        say(f"{error}\nthe job may still be running: follow it again with `ganpipe submit logs {job_id} --follow`")
        return Outcome(status="LOST", exit_code=LOST)
    except TimedOut:
        return _stop(target, job_id, f"{timeout_minutes:g} minutes are over", TIMED_OUT, say)
    except KeyboardInterrupt:
        return _stop(target, job_id, "interrupted", INTERRUPTED, say)
    say(ending(job_id, outcome, printed=tail))
    return outcome


def ending(job_id: str, outcome: Outcome, *, printed: str = "") -> str:
    """How a job ended, with the last lines of what is said about it, unless they were `printed`."""
    code = f" (exit code {outcome.exit_code})" if outcome.exit_code else ""
    last = outcome.message.rpartition("\n")[2].strip()
    return f"job {job_id}: {outcome.status}{code}" + (f"\n{outcome.message}" if last and last not in printed else "")


def stop(target: Target, job: Known, *, say: Say = print) -> None:
    """Stop a job, and wait until it has ended."""
    if job.outcome is not None:
        say(f"{ending(job.id, job.outcome)}\nnothing to stop")
        return
    _stop(target, job.id, "asked to stop", 0, say)


def _stop(target: Target, job_id: str, why: str, exit_code: int, say: Say) -> Outcome:
    try:
        say(f"{why}: stopping job {job_id}; Ctrl-C again leaves it running")
        target.stop(job_id)
        outcome = target.follow(job_id, write=lambda text: None, deadline=time.monotonic() + 2 * STOP_WAIT_SECONDS)
    except (KeyboardInterrupt, Lost, TimedOut, OSError, RuntimeError):
        say(f"job {job_id} was asked to stop, but nobody waited for it: see `ganpipe submit status {job_id}`")
        return Outcome(status="STOPPING", exit_code=exit_code)
    say(f"job {job_id}: {outcome.status}")
    return Outcome(status=outcome.status, exit_code=exit_code)


def describe(job: Known) -> str:
    """A job for a person: one line a fact."""
    facts = {
        "status": job.status,
        "commit": job.labels.get("commit", "") or "not one of ours",
        "overrides": job.labels.get("overrides", ""),
        "stages": job.labels.get("stages", "") or "all",
        "workspace": job.labels.get("workspace", ""),
        "started": _clock(job.started),
        "ended": _clock(job.ended),
    }
    lines = [f"{job.id}", *(f"  {name:<10} {value}" for name, value in facts.items() if value)]
    return "\n".join(lines + ([ending(job.id, job.outcome)] if job.outcome is not None else []))


def table(jobs: Sequence[Known]) -> str:
    """One line a job, the newest first."""
    if not jobs:
        return "the job server knows no jobs"
    width = max(len(job.id) for job in jobs)
    return "\n".join(
        f"{job.id:<{width}}  {job.status:<9}  {_clock(job.started) or '-':<20}  {job.labels.get('commit', '')[:12]:<12}  "
        + job.labels.get("overrides", "")
        for job in reversed(jobs)
    )


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds)) if seconds else ""
