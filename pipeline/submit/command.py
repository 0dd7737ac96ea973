"""Send `dvc repro` of the commit to a cluster and follow it: `python -m pipeline.submit --address http://HEAD:8265`.

The exit code is the job's own, never the log's: 0 succeeded, 3 stopped, a failed job's exit code (1 where it left none), 130 stopped by
Ctrl-C, 124 stopped by --timeout-minutes; 2 the cluster cannot be reached, 4 contact was lost and the job may still run.
"""

import argparse
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ganlib.redact import redacted
from pipeline import params, preflight
from pipeline.submit.package import head_commit, package_commit, uncommitted
from pipeline.submit.ray_jobs import STOP_WAIT_SECONDS, RayJobs
from pipeline.submit.targets import INTERRUPTED, LOST, TIMED_OUT, UNREACHABLE, Job, Lost, Target, TimedOut, Unreachable

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


def target_at(address: str) -> Target:
    """The kind of cluster an address belongs to.

    Raises:
        ValueError: no kind has such addresses.
        Unreachable: nothing answers there.
    """
    parts = urlsplit(address)
    if parts.scheme in ("http", "https") and parts.hostname:
        return RayJobs(address.rstrip("/"))
    raise ValueError(f"--address {redacted(address)}: expected the job server of a Ray cluster, http://HEAD:8265 (the dashboard's address)")


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
    validate: Callable[[dict[str, Any]], object] = preflight.parse,
    say: Callable[[str], object] = print,
) -> str:
    """Package the commit of `root`, check it, send it; returns the job's id.

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
        package = package_commit(root, Path(folder), overrides=overrides, validate=validate)
        forwarded = {name: os.environ[name] for name in SETTINGS + (CREDENTIALS if use_credentials else ()) if os.environ.get(name)}
        say(
            f"sending commit {package.commit[:12]}, {package.size_bytes / 2**20:.2f} MiB"
            + (f", with {redacted(', '.join(overrides))}" if overrides else "")
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
        labels = {"commit": package.commit, "overrides": redacted(" ".join(overrides)), "stages": " ".join(stages)}
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
            found.append(
                f"train.state_uri={redacted(state_uri)} is relative: a job sent again cannot resume; use --workspace, or an absolute path"
            )
    tracking = values.get("tracking")
    uri = forwarded.get("MLFLOW_TRACKING_URI") or (tracking.get("uri") if isinstance(tracking, dict) else None)
    if not uri:
        found.append("neither MLFLOW_TRACKING_URI nor tracking.uri is set: the model is registered in a local store in the job's folder")
    elif urlsplit(str(uri)).scheme not in ("http", "https") or urlsplit(str(uri)).hostname in ("localhost", "127.0.0.1", "::1"):
        found.append(
            f"the MLflow server {urlsplit(str(uri)).scheme}://{urlsplit(str(uri)).hostname or ''} is another one on the cluster than here"
        )
    return found


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
    arguments: Sequence[str] | None = None, *, root: Path | None = None, validate: Callable[[dict[str, Any]], object] = preflight.parse
) -> int:
    """The command; returns its exit code. `root`: the clone whose commit is sent, the current one where none is given."""
    options = _arguments(arguments)
    if not options.address:
        raise ValueError("where to? Give --address http://HEAD:8265, or set RAY_API_SERVER_ADDRESS")
    try:
        target = target_at(options.address)
    except Unreachable as error:
        print(f"error: {error}", file=sys.stderr)
        return UNREACHABLE
    job_id = options.follow or submit(
        root or params.clone(),
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
