"""A Ray cluster's job server."""

import asyncio
import os
import shlex
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from ganlib.redact import redacted
from pipeline.submit.package import JOB_SCRIPT, Package
from pipeline.submit.targets import STOPPED, Job, Lost, Outcome, TimedOut, Unreachable

T = TypeVar("T")
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true", "DVC_NO_ANALYTICS": "1"}
STOP_WAIT_SECONDS = 60  # between SIGTERM and SIGKILL; Ray's default of 3 is short of one training step and a checkpoint
CONNECT_SECONDS = 10
POLL_SECONDS = 1.0
LONGEST_POLL_SECONDS = 30.0  # of the backoff while the head does not answer
REQUEST_SECONDS = 60.0  # Ray's client itself waits for ever for an answer
UPLOAD_SECONDS = 600.0  # for a package of up to 100 MiB to arrive
LOST_SECONDS = 600.0  # a head that is silent for longer is given up; the job is not


class RayJobs:
    """A Ray cluster's job server (the dashboard's address)."""

    def __init__(self, address: str, *, poll_seconds: float = POLL_SECONDS, lost_seconds: float = LOST_SECONDS) -> None:
        """Connect.

        Raises:
            Unreachable: nothing answers, or what answers is no Ray job server.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        _check_answers(address)
        import logging

        from ray.job_submission import JobSubmissionClient

        for module in ("dashboard_sdk", "job.sdk"):  # each sets a level of its own on import
            logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)
        self._poll_seconds, self._lost_seconds = poll_seconds, lost_seconds
        try:
            self._client: Any = _within(REQUEST_SECONDS, lambda: JobSubmissionClient(address))
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise Unreachable(f"{redacted(address)} answers, but not as a Ray job server: {redacted(str(error), of=address)}") from None

    def submit(self, package: Package, job: Job) -> None:
        """Upload the package, which Ray keeps by its hash, and start the job."""
        try:
            _within(
                UPLOAD_SECONDS,
                lambda: self._client.submit_job(
                    entrypoint=shlex.join(["sh", JOB_SCRIPT, *job.stages]),
                    submission_id=job.id,
                    runtime_env={
                        "working_dir": str(package.path),
                        "env_vars": {**QUIET, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_SECONDS), **job.environment},
                    },
                    metadata=dict(job.labels),
                ),
            )
        except RuntimeError as error:
            raise ValueError(f"the job server refused job {job.id}: {_first_lines(str(error))}") from None

    def follow(self, job_id: str, *, write: Callable[[str], object], deadline: float | None = None) -> Outcome:
        """Stream the log; the status that is polled beside it decides, so a log that ends early or hangs changes nothing."""
        return asyncio.run(self._follow(job_id, write, deadline))

    def stop(self, job_id: str) -> None:
        """SIGTERM to the job's processes, SIGKILL after STOP_WAIT_SECONDS."""
        _within(REQUEST_SECONDS, lambda: self._client.stop_job(job_id))

    async def _follow(self, job_id: str, write: Callable[[str], object], deadline: float | None) -> Outcome:
        log = _Log(write)
        stream = asyncio.create_task(self._stream(job_id, log))
        answered, wait = time.monotonic(), self._poll_seconds
        try:
            while True:
                try:
                    info = await asyncio.to_thread(_within, REQUEST_SECONDS, lambda: self._client.get_job_info(job_id))
                    answered, wait = time.monotonic(), self._poll_seconds
                except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
                    if "404" in str(error):
                        raise ValueError(f"the job server knows no job {job_id}") from None
                    if time.monotonic() - answered > self._lost_seconds:
                        raise Lost(f"the job server has not answered for {self._lost_seconds:.0f} s: {_first_lines(str(error))}") from None
                    wait = min(2 * wait, LONGEST_POLL_SECONDS)
                else:
                    if info.status.is_terminal():
                        break
                if deadline is not None and time.monotonic() > deadline:
                    raise TimedOut
                await asyncio.sleep(wait)
        finally:
            stream.cancel()
            with suppress(asyncio.CancelledError):
                await stream
        with suppress(OSError, RuntimeError):  # the stream lags by seconds; the rest comes at once
            log.take(await asyncio.to_thread(_within, REQUEST_SECONDS, lambda: self._client.get_job_logs(job_id)), position=0)
        return _outcome(str(info.status), info.driver_exit_code, info.message or "")

    async def _stream(self, job_id: str, log: "_Log") -> None:
        """The log as it grows; opened again, with growing pauses, until cancelled."""
        wait = self._poll_seconds
        while True:
            try:
                position = 0
                async for text in self._client.tail_job_logs(job_id):
                    position = log.take(text, position=position)
            except Exception as error:  # of any kind: the log may never decide how a job ended
                print(f"log interrupted, reading on: {_first_lines(str(error)) or type(error).__name__}", file=sys.stderr)
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_POLL_SECONDS)


class _Log:
    """Writes each character of a log once, although every reader starts at the beginning."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write, self._written = write, 0

    def take(self, text: str, *, position: int) -> int:
        """`text` stands at `position` of the log; returns the position after it."""
        end = position + len(text)
        if end > self._written:
            self._write(text[max(self._written - position, 0) :])
            self._written = end
        return end


def _outcome(status: str, exit_code: int | None, message: str) -> Outcome:
    """Ray's status as an exit code; a driver that died of signal n counts as 128 + n, as in a shell."""
    if status == "SUCCEEDED":
        return Outcome(status=status, exit_code=0)
    if status == "STOPPED":
        return Outcome(status=status, exit_code=STOPPED, message=message)
    code = exit_code or 1
    return Outcome(status=status, exit_code=128 - code if code < 0 else code, message=message)


def _within(seconds: float, action: Callable[[], T]) -> T:
    """`action`, waited for no longer than this.

    Raises:
        TimeoutError: it has not ended; its thread is left behind.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(action())
        except BaseException as problem:  # handed over
            future.set_exception(problem)

    threading.Thread(target=work, name="job server", daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():  # its own
            raise
        raise TimeoutError(f"the job server has not answered within {seconds:g} s") from None


def _check_answers(address: str) -> None:
    """One request with a time limit: Ray's client has none, and waits minutes for a host that swallows packets."""
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=CONNECT_SECONDS):
            pass
    except urllib.error.HTTPError:
        pass  # it answers; Ray's client knows about tokens
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return  # Ray's client may have another certificate store
        raise Unreachable(
            f"no Ray job server answers at {redacted(address)} ({reason}). Expected the dashboard of the head node, http://HEAD:8265; "
            "it listens on loopback only unless the head was started with --dashboard-host=0.0.0.0 (else: ssh -L, kubectl port-forward)"
        ) from None


def _first_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[:5])[:1000]
