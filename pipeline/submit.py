"""Send `dvc repro` of the commit to a cluster and follow it: `python -m pipeline.submit --address http://HEAD:8265`.

The exit code is the job's own, never the log's: 0 succeeded, 3 stopped, a failed job's exit code (1 where it left none), 130 stopped by
Ctrl-C, 124 stopped by --timeout-minutes; 2 the cluster cannot be reached, 4 contact was lost and the job may still run.
Long for its kind because the command and its one target stand together: Ray is imported here and in ray_backend.py, nowhere else.
"""

import argparse
import asyncio
import os
import secrets
import shlex
import ssl
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from pipeline import cli, params
from pipeline.export import JOB_SCRIPT, Package, export, head_commit, uncommitted

# What a job inherits from the submitting environment, where it is set: these names and no others.
SETTINGS = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_S3_ENDPOINT_URL",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AZURE_STORAGE_ACCOUNT",
)
CREDENTIALS = (
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING",
)
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true", "DVC_NO_ANALYTICS": "1"}
STOP_WAIT_SECONDS = 60  # between SIGTERM and SIGKILL; Ray's default of 3 is short of one training step and a checkpoint
CONNECT_SECONDS = 10
POLL_SECONDS = 1.0
LONGEST_POLL_SECONDS = 30.0  # of the backoff while the head does not answer
LOST_SECONDS = 600.0  # a head that is silent for longer is given up; the job is not

STOPPED, UNREACHABLE, LOST, TIMED_OUT, INTERRUPTED = 3, 2, 4, 124, 130


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
            self._client = JobSubmissionClient(address)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise Unreachable(f"{address} answers, but not as a Ray job server: {error}") from None

    def submit(self, package: Package, job: Job) -> None:
        """Upload the package, which Ray keeps by its hash, and start the job."""
        try:
            self._client.submit_job(
                entrypoint=shlex.join(["sh", JOB_SCRIPT, *job.stages]),
                submission_id=job.id,
                runtime_env={
                    "working_dir": str(package.path),
                    "env_vars": {**QUIET, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_SECONDS), **job.environment},
                },
                metadata=dict(job.labels),
            )
        except RuntimeError as error:
            raise ValueError(f"the job server refused job {job.id}: {_first_lines(str(error))}") from None

    def follow(self, job_id: str, *, write: Callable[[str], object], deadline: float | None = None) -> Outcome:
        """Stream the log; the status that is polled beside it decides, so a log that ends early or hangs changes nothing."""
        return asyncio.run(self._follow(job_id, write, deadline))

    def stop(self, job_id: str) -> None:
        """SIGTERM to the job's processes, SIGKILL after STOP_WAIT_SECONDS."""
        self._client.stop_job(job_id)

    async def _follow(self, job_id: str, write: Callable[[str], object], deadline: float | None) -> Outcome:
        log = _Log(write)
        stream = asyncio.create_task(self._stream(job_id, log))
        answered, wait = time.monotonic(), self._poll_seconds
        try:
            while True:
                try:
                    info = await asyncio.to_thread(self._client.get_job_info, job_id)
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
            log.take(await asyncio.to_thread(self._client.get_job_logs, job_id), position=0)
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


def target_at(address: str) -> Target:
    """The kind of cluster an address belongs to.

    Raises:
        ValueError: no kind has such addresses.
        Unreachable: nothing answers there.
    """
    parts = urlsplit(address)
    if parts.scheme in ("http", "https") and parts.hostname:
        return RayJobs(address.rstrip("/"))
    raise ValueError(f"--address {address}: expected the job server of a Ray cluster, http://HEAD:8265 (the dashboard's address)")


def submit(
    root: Path,
    target: Target,
    *,
    overrides: Sequence[str] = (),
    stages: Sequence[str] = (),
    job_id: str | None = None,
    workspace: str | None = None,
    results: str | None = None,
    use_credentials: bool = True,
    allow_dirty: bool = False,
    validate: Callable[[dict[str, Any]], object] = params.parse,
    say: Callable[[str], object] = print,
) -> str:
    """Export the commit of `root`, check it, send it; returns the job's id.

    Raises:
        ValueError: a dirty tree, bad overrides or params, a package that is too large, a job the cluster refuses.
    """
    for name, folder in (("--workspace", workspace), ("--results", results)):
        if folder is not None and not Path(folder).is_absolute():
            raise ValueError(f"{name} {folder}: expected an absolute path, as the cluster's nodes see it")
    dirty = uncommitted(root)
    if dirty and not allow_dirty:
        listed = "\n".join(f"  {line}" for line in dirty[:10]) + (f"\n  and {len(dirty) - 10} more" if len(dirty) > 10 else "")
        raise ValueError(
            f"a job is a commit, and these changes are not in it:\n{listed}\nCommit them, or send HEAD without them with --allow-dirty"
        )
    job_id = job_id or f"gan-{head_commit(root)[:8]}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
    with tempfile.TemporaryDirectory(prefix="ganpipe-") as folder:
        package = export(root, Path(folder), overrides=overrides, validate=validate)
        forwarded = {name: os.environ[name] for name in SETTINGS + (CREDENTIALS if use_credentials else ()) if os.environ.get(name)}
        say(
            f"sending commit {package.commit[:12]}, {package.size_bytes / 2**20:.2f} MiB"
            + (f", with {', '.join(overrides)}" if overrides else "")
        )
        if dirty:
            say(f"not sent: {len(dirty)} uncommitted changes")
        say(f"environment sent along (anyone who can open the dashboard may read it): {', '.join(forwarded) or 'nothing'}")
        state_uri = _state_uri(package.params)
        for warning in _warnings(package.params, state_uri, forwarded, workspace=workspace, results=results):
            say(f"warning: {warning}")
        environment = {**forwarded, "GANPIPE_JOB": job_id, "GANPIPE_GIT_COMMIT": package.commit}
        environment["GANPIPE_STATE"] = "" if Path(state_uri).is_absolute() else state_uri
        environment |= {"GANPIPE_WORKSPACE": workspace} if workspace else {}
        environment |= {"GANPIPE_RESULTS": results} if results else {}
        labels = {"commit": package.commit, "overrides": " ".join(overrides), "stages": " ".join(stages)}
        target.submit(package, Job(id=job_id, stages=tuple(stages), environment=environment, labels=labels))
    say(f"job {job_id} is submitted")
    return job_id


def follow(target: Target, job_id: str, *, timeout_minutes: float | None = None, say: Callable[[str], object] = print) -> int:
    """Follow a job to its end; returns the exit code for the shell. Ctrl-C stops the job and waits; a second one leaves it to itself."""
    deadline = None if timeout_minutes is None else time.monotonic() + 60 * timeout_minutes
    printed: list[bool] = []

    def write(text: str) -> None:
        printed[:] = [True]
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        outcome = target.follow(job_id, write=write, deadline=deadline)
    except Lost as error:
        say(f"{error}\nthe job may still be running: follow it again with --follow {job_id}")
        return LOST
    except TimedOut:
        return _stop(target, job_id, f"{timeout_minutes:g} minutes are over", TIMED_OUT, say)
    except KeyboardInterrupt:
        return _stop(target, job_id, "interrupted", INTERRUPTED, say)
    message = outcome.message.strip()
    if printed:  # a failed job's message repeats the end of the log
        message = message.partition("\n")[0]
    say(f"job {job_id}: {outcome.status}" + (f": {message}" if message else ""))
    return outcome.exit_code


def _stop(target: Target, job_id: str, why: str, exit_code: int, say: Callable[[str], object]) -> int:
    say(f"{why}: stopping job {job_id}; Ctrl-C again leaves it running")
    try:
        target.stop(job_id)
        outcome = target.follow(job_id, write=lambda text: None, deadline=time.monotonic() + 2 * STOP_WAIT_SECONDS)
    except (KeyboardInterrupt, Lost, TimedOut, OSError, RuntimeError):
        say(f"job {job_id} was asked to stop, but nobody waited for it: see --follow {job_id}")
        return exit_code
    say(f"job {job_id}: {outcome.status}")
    return exit_code


def _state_uri(values: Mapping[str, Any]) -> str:
    train = values.get("train")
    return str(train.get("state_uri", "state")) if isinstance(train, dict) else "state"


def _warnings(
    values: Mapping[str, Any], state_uri: str, forwarded: Mapping[str, str], *, workspace: str | None, results: str | None
) -> list[str]:
    """What would go wrong on a cluster and cannot be seen from here."""
    found = []
    if workspace is None:
        found.append(
            "no --workspace: the job runs in a temporary folder of one node, which workers on other nodes cannot see"
            + ("" if results else " and whose outputs end with it (--results keeps a copy)")
        )
        if not Path(state_uri).is_absolute():
            found.append(f"train.state_uri={state_uri} is relative: a job sent again cannot resume; use --workspace, or an absolute path")
    tracking = values.get("tracking")
    uri = forwarded.get("MLFLOW_TRACKING_URI") or (tracking.get("uri") if isinstance(tracking, dict) else None)
    if not uri:
        found.append("neither MLFLOW_TRACKING_URI nor tracking.uri is set: the model is registered in a local store in the job's folder")
    elif urlsplit(str(uri)).scheme not in ("http", "https") or urlsplit(str(uri)).hostname in ("localhost", "127.0.0.1", "::1"):
        found.append(
            f"the MLflow server {urlsplit(str(uri)).scheme}://{urlsplit(str(uri)).hostname or ''} is another one on the cluster than here"
        )
    return found


def _outcome(status: str, exit_code: int | None, message: str) -> Outcome:
    """Ray's status as an exit code; a driver that died of signal n counts as 128 + n, as in a shell."""
    if status == "SUCCEEDED":
        return Outcome(status=status, exit_code=0)
    if status == "STOPPED":
        return Outcome(status=status, exit_code=STOPPED, message=message)
    code = exit_code or 1
    return Outcome(status=status, exit_code=128 - code if code < 0 else code, message=message)


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
            f"no Ray job server answers at {address} ({reason}). Expected the dashboard of the head node, http://HEAD:8265; "
            "it listens on loopback only unless the head was started with --dashboard-host=0.0.0.0 (else: ssh -L, kubectl port-forward)"
        ) from None


def _first_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[:5])[:1000]


def _default_address() -> str | None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        if os.environ.get(name, "").startswith(("http://", "https://")):
            return os.environ[name]
    return None


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.submit",
        description="Send `dvc repro` of the commit to a cluster as a job and follow it.",
        epilog="Exit code: 0 succeeded, 3 stopped, a failed job's own (else 1), 130 Ctrl-C, 124 timeout, 2 unreachable, 4 contact lost.",
    )
    parser.add_argument("--address", default=_default_address(), help="http://HEAD:8265; default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS")
    parser.add_argument(
        "-S", "--set-param", action="append", default=[], metavar="KEY=VALUE", help="override of params.yaml, as in `dvc exp run -S`"
    )
    parser.add_argument("--target", nargs="+", default=[], metavar="STAGE", help="stages to reproduce; default: all")
    parser.add_argument("--workspace", help="folder every node sees, an absolute path: runs, DVC cache and training state live there")
    parser.add_argument("--results", help="folder on the cluster that gets a copy of dvc.lock, reports, samples and models")
    parser.add_argument("--submission-id", help="name of the job; default: made of commit and time")
    parser.add_argument("--detach", action="store_true", help="submit and leave; --follow ID comes back")
    parser.add_argument("--follow", metavar="ID", help="submit nothing, follow this job")
    parser.add_argument("--allow-dirty", action="store_true", help="send HEAD although there are changes, which are not sent")
    parser.add_argument("--no-credentials", action="store_true", help="send no passwords and keys: the cluster has its own")
    parser.add_argument("--timeout-minutes", type=float, help="stop the job when it is still running then")
    return parser.parse_args(arguments)


def main(
    arguments: Sequence[str] | None = None, *, root: Path = params.ROOT, validate: Callable[[dict[str, Any]], object] = params.parse
) -> int:
    """The command; returns its exit code."""
    options = _arguments(arguments)
    if not options.address:
        raise ValueError("where to? Give --address http://HEAD:8265, or set RAY_API_SERVER_ADDRESS")
    try:
        target = target_at(options.address)
    except Unreachable as error:
        print(f"error: {error}", file=sys.stderr)
        return UNREACHABLE
    job_id = options.follow or submit(
        root,
        target,
        overrides=options.set_param,
        stages=options.target,
        job_id=options.submission_id,
        workspace=options.workspace,
        results=options.results,
        use_credentials=not options.no_credentials,
        allow_dirty=options.allow_dirty,
        validate=validate,
    )
    if options.detach:
        return 0
    return follow(target, job_id, timeout_minutes=options.timeout_minutes)


def _command() -> None:
    sys.exit(main())


if __name__ == "__main__":
    cli.run(_command)
