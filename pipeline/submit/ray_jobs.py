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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from ganlib.redact import redacted
from pipeline.submit.package import JOB_SCRIPT, Package
from pipeline.submit.targets import DIED, STOPPED, Job, Known, Lost, Outcome, TimedOut, Unreachable
from pipeline.submit.token import WHERE, find_token

T = TypeVar("T")
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true", "DVC_NO_ANALYTICS": "1"}
STOP_WAIT_SECONDS = 60  # between SIGTERM and SIGKILL; Ray's default of 3 is short of one training step and a checkpoint
CONNECT_SECONDS = 10
POLL_SECONDS = 1.0
LONGEST_POLL_SECONDS = 30.0  # of the backoff while the head does not answer
REQUEST_SECONDS = 60.0  # Ray's client itself waits for ever for an answer
UPLOAD_SECONDS = 600.0  # for a package of up to 100 MiB to arrive
LOST_SECONDS = 600.0  # a head that is silent for longer is given up; the job is not
AGENT_SECONDS = 120.0  # a head answers before the process on its node that starts jobs is there
NO_AGENT = "No available agent to submit job"  # Ray's words for it
LAST_LINES = 20  # of what is said about a failure: a traceback and a log end with the reason
# Ray's words for a job that could not be set up, which another try would not change; without an exit code, all others mean that its driver died.
CANNOT_START = frozenset({"RUNTIME_ENV_SETUP_FAILURE", "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE", "JOB_ENTRYPOINT_COMMAND_START_ERROR"})


class RayJobs:
    """A Ray cluster's job server (the dashboard's address)."""

    def __init__(self, address: str, *, poll_seconds: float = POLL_SECONDS, lost_seconds: float = LOST_SECONDS) -> None:
        """Connect.

        Raises:
            Unreachable: nothing answers, what answers is no Ray job server, or it does not take our token.
            ValueError: the token cannot be read.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        headers = _headers(address)
        import logging

        from ray.job_submission import JobSubmissionClient

        for module in ("dashboard_sdk", "job.sdk"):  # each sets a level of its own on import
            logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)
        self._poll_seconds, self._lost_seconds = poll_seconds, lost_seconds
        try:
            self._client: Any = _within(REQUEST_SECONDS, lambda: JobSubmissionClient(address, headers=headers))
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise Unreachable(f"{redacted(address)} answers, but not as a Ray job server: {redacted(str(error), of=address)}") from None

    def request(self, package: Package, job: Job) -> Mapping[str, Any]:
        """The arguments of Ray's `submit_job`; `working_dir` is uploaded and becomes its address at the head."""
        return {
            "entrypoint": shlex.join(["sh", JOB_SCRIPT, *job.stages]),
            "submission_id": job.id,
            "runtime_env": {
                "working_dir": str(package.path),
                "env_vars": {**QUIET, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_SECONDS), **job.environment},
            },
            "metadata": dict(job.labels),
        }

    def submit(self, package: Package, job: Job) -> None:
        """Upload the package, which Ray keeps by its hash, and start the job; a head that has only just started is waited for."""
        deadline = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                _within(UPLOAD_SECONDS, lambda: self._client.submit_job(**self.request(package, job)))
                return
            except RuntimeError as error:
                if NO_AGENT not in str(error) or time.monotonic() > deadline:
                    raise ValueError(f"the job server refused job {job.id}: {last_lines(str(error), most=1)}") from None
            time.sleep(self._poll_seconds)

    def follow(self, job_id: str, *, write: Callable[[str], object], deadline: float | None = None) -> Outcome:
        """Stream the log; the status that is polled beside it decides, so a log that ends early or hangs changes nothing."""
        return asyncio.run(self._follow(job_id, write, deadline))

    def stop(self, job_id: str) -> None:
        """SIGTERM to the job's processes, SIGKILL after STOP_WAIT_SECONDS."""
        _within(REQUEST_SECONDS, lambda: self._client.stop_job(job_id))

    def jobs(self) -> Sequence[Known]:
        """Jobs that were submitted; Ray lists drivers of another kind too."""
        listed = _within(REQUEST_SECONDS, lambda: self._client.list_jobs())
        return sorted((_known(job) for job in listed if job.submission_id), key=lambda job: job.started)

    def log(self, job_id: str) -> str:
        """From the node that runs the job; it goes with that node."""
        return str(_within(REQUEST_SECONDS, lambda: self._client.get_job_logs(job_id)))

    async def _follow(self, job_id: str, write: Callable[[str], object], deadline: float | None) -> Outcome:
        log = _Log(write)
        stream = asyncio.create_task(self._stream(job_id, log))
        answered, wait, is_known = time.monotonic(), self._poll_seconds, False
        try:
            while True:
                try:
                    info = await asyncio.to_thread(_within, REQUEST_SECONDS, lambda: self._client.get_job_info(job_id))
                    answered, wait, is_known = time.monotonic(), self._poll_seconds, True
                except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
                    if "404" in str(error):
                        if is_known:
                            return Outcome(
                                status="FAILED", exit_code=DIED, has_died=True, message="the head was started again and forgot it"
                            )
                        raise ValueError(f"the job server knows no job {job_id}") from None
                    if time.monotonic() - answered > self._lost_seconds:
                        raise Lost(
                            f"the job server has not answered for {self._lost_seconds:.0f} s: {last_lines(str(error), most=1)}"
                        ) from None
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
        return _outcome(str(info.status), info.driver_exit_code, info.message or "", info.error_type)

    async def _stream(self, job_id: str, log: "_Log") -> None:
        """The log as it grows; opened again, with growing pauses, until cancelled."""
        wait = self._poll_seconds
        while True:
            try:
                position = 0
                async for text in self._client.tail_job_logs(job_id):
                    position = log.take(text, position=position)
            except Exception as error:  # of any kind: the log may never decide how a job ended
                print(f"log interrupted, reading on: {last_lines(str(error), most=1) or type(error).__name__}", file=sys.stderr)
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


def _known(job: Any) -> Known:
    outcome = _outcome(str(job.status), job.driver_exit_code, job.message or "", job.error_type) if job.status.is_terminal() else None
    return Known(
        id=job.submission_id,
        status=str(job.status),
        labels=job.metadata or {},
        outcome=outcome,
        started=(job.start_time or 0) / 1000,
        ended=(job.end_time or 0) / 1000,
    )


def _outcome(status: str, exit_code: int | None, message: str, error_type: str | None = None) -> Outcome:
    """Ray's status as an exit code; a driver that died of signal n counts as 128 + n, as in a shell."""
    message = last_lines(message)
    if status == "SUCCEEDED":
        return Outcome(status=status, exit_code=0)
    if status == "STOPPED":
        return Outcome(status=status, exit_code=STOPPED, message=message)
    if exit_code is None:
        has_died = error_type not in CANNOT_START
        return Outcome(status=status, exit_code=DIED if has_died else 1, message=message, has_died=has_died)
    code = 128 - exit_code if exit_code < 0 else exit_code or 1
    return Outcome(status=status, exit_code=code, message=message, has_died=code > 128)


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


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Follows no redirection, which would take the token along to wherever it leads."""

    def redirect_request(self, *_: object) -> None:
        return None


def _headers(address: str) -> dict[str, str]:
    """What lets us in: the token, where the server asks for one.

    One request with a time limit: Ray's client has none, and waits minutes for a host that swallows packets.
    """
    if _status(address, {}) not in (401, 403):
        return {}
    token, where = find_token()
    if not token:
        raise Unreachable(f"{redacted(address)} asks for a token, and {where}: put the cluster's token into {WHERE} (infra/README.md)")
    headers = {"Authorization": f"Bearer {token}"}
    if _status(address, headers) in (401, 403):
        raise Unreachable(
            f"{redacted(address)} does not take the token of {where}: ask whoever runs the cluster for its token (infra/README.md)"
        )
    return headers


def _status(address: str, headers: dict[str, str]) -> int:
    """The status code of the server's answer; 0 where only Ray's client can tell."""
    request = urllib.request.Request(f"{address}/api/version", headers=headers)
    try:
        with urllib.request.build_opener(_StayHere).open(request, timeout=CONNECT_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return 0  # Ray's client may have another certificate store
        raise Unreachable(
            f"no Ray job server answers at {redacted(address)} ({reason}). Expected the dashboard of the head node, http://HEAD:8265; "
            "it listens on loopback only unless the head was started with --dashboard-host=0.0.0.0 (else: ssh -L, kubectl port-forward)"
        ) from None


def last_lines(text: str, *, most: int = LAST_LINES) -> str:
    """The end of a message: a traceback and a log say there what went wrong."""
    return "\n".join(text.strip().strip("'\"").splitlines()[-most:])[-4000:].strip()
