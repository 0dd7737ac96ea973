"""Sends the commit as a job; the same commit with the same settings is one job, however often it is sent."""

import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ganlib.redact import redacted
from pipeline import preflight
from pipeline.submit import inputs
from pipeline.submit.package import Package, package_commit, uncommitted
from pipeline.submit.results import Storage, is_seen
from pipeline.submit.targets import Job, Known, Target, check_name

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
# Never sent: Ray keeps a job's environment readable for everyone who reaches the job server. The nodes have their own, or a file (--credentials).
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
Say = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be sent, and how.

    Attributes:
        overrides: `key=value` for params.yaml.
        stages: to reproduce; none for all.
        job_id: name of the job; None: made of commit and key.
        workspace, results, credentials: absolute paths as the cluster's nodes see them.
        keep_days: a job that ended so long ago loses its folder to this one; None: infra/job.sh decides.
        again: send it although the same job runs or is done.
        is_dry: say all, print what would be sent, and send nothing.
        validate: the check of params.yaml.
    """

    root: Path
    overrides: Sequence[str] = ()
    stages: Sequence[str] = ()
    job_id: str | None = None
    workspace: str | None = None
    results: str | None = None
    credentials: str | None = None
    keep_days: int | None = None
    allow_dirty: bool = False
    again: bool = False
    is_dry: bool = False
    validate: Callable[[dict[str, Any]], object] = field(default=preflight.parse)


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What became of a request: a job that runs, or one that has done all this already."""

    job_id: str
    is_done: bool = False


def submit(request: Request, target: Target, *, say: Say = print) -> Sent:
    """Package the commit, check it, and send it unless the same job runs already or is done.

    Raises:
        ValueError: a dirty tree, data that the cluster cannot have, bad overrides or params, a secret, results that have no way home, a package
            that is too large, a job the cluster refuses.
    """
    _check_options(request)
    dirty = uncommitted(request.root)
    if dirty and not request.allow_dirty:
        listed = "\n".join(f"  {line}" for line in dirty[:10]) + (f"\n  and {len(dirty) - 10} more" if len(dirty) > 10 else "")
        raise ValueError(
            f"a job is a commit, and these changes are not in it:\n{listed}\nCommit them, or send HEAD without them with --allow-dirty"
        )
    settings = _settings()
    with tempfile.TemporaryDirectory(prefix="ganpipe-") as folder:
        package = package_commit(request.root, Path(folder), overrides=request.overrides, validate=request.validate)
        if not (package.remote or request.workspace or request.results):
            raise ValueError(
                "the results of this job would have no way home. Give it a DVC remote (`dvc remote add -d NAME URL`, then commit .dvc/config), or "
                "--workspace, a folder that every node and this machine see, or --results, a folder of the cluster that keeps a copy"
            )
        key = _key(package, request, settings)
        same = [job for job in target.jobs() if job.labels.get("key") == key]
        name = f"gan-{package.commit[:8]}-{key[:12]}"
        if not request.again and (sent := _is_sent(same, say) or _is_done(request, name, say)):
            return sent
        job_id = request.job_id or (name if not same else f"{name}-{1 + max(_attempt(job.id) for job in same)}")
        if any(job.id == job_id for job in target.jobs()):
            raise ValueError(f"the job server has another job {job_id} already: give --submission-id another name")
        needed = inputs.look(request.root, package.tree, package.params)
        if needed.lacking and not request.allow_dirty:
            listed = "\n".join(f"  {line}" for line in needed.lacking)
            raise ValueError(f"the job would not have what it needs:\n{listed}\nOr send it without, with --allow-dirty")
        say(
            f"sending commit {package.commit[:12]}, {package.size_bytes / 2**20:.2f} MiB"
            + (f", with {', '.join(request.overrides)}" if request.overrides else "")
        )
        if dirty:
            say(f"not sent: {len(dirty)} uncommitted changes")
        say(f"environment sent along (anyone who can open the dashboard may read it): {', '.join(settings) or 'nothing'}")
        for line in needed.lacking:
            say(f"not sent: {line}")
        for line in needed.expected:
            say(f"expected: {line}")
        state_uri = _state_uri(package.params)
        for warning in _warnings(package, state_uri, settings, request):
            say(f"warning: {warning}")
        environment = {**settings, "GANPIPE_JOB": job_id, "GANPIPE_GIT_COMMIT": package.commit}
        environment["GANPIPE_STATE"] = "" if Path(state_uri).is_absolute() else state_uri
        for variable, value in (("WORKSPACE", request.workspace), ("RESULTS", request.results), ("CREDENTIALS", request.credentials)):
            environment |= {f"GANPIPE_{variable}": value} if value else {}
        if request.keep_days is not None:
            environment["GANPIPE_KEEP_DAYS"] = str(request.keep_days)
        labels = {
            "commit": package.commit,
            "overrides": " ".join(request.overrides),
            "stages": " ".join(request.stages),
            "key": key,
            "workspace": request.workspace or "",
        }
        job = Job(id=job_id, stages=tuple(request.stages), environment=environment, labels=labels)
        if request.is_dry:
            print(_shown(package, target.request(package, job)))
            say("dry run: nothing was sent")
            return Sent(job_id=job_id)
        try:
            target.submit(package, job)
        except ValueError:
            same = [job for job in target.jobs() if job.id == job_id and job.labels.get("key") == key]
            if sent := _is_sent(same, say):  # somebody sent it at the same moment
                return sent
            raise
    say(f"job {job_id} is submitted")
    return Sent(job_id=job_id)


def _shown(package: Package, asked: Mapping[str, Any]) -> str:
    """A request and the files of its package as JSON; the package's temporary folder is left out."""
    with zipfile.ZipFile(package.path) as archive:
        files = archive.namelist()
    held = {"name": package.path.name, "size_bytes": package.size_bytes, "sha256_of_contents": package.digest, "files": files}
    text = json.dumps({"request": asked, "package": held}, indent=2, ensure_ascii=False)
    return text.replace(json.dumps(str(package.path), ensure_ascii=False), json.dumps(package.path.name))


def _check_options(request: Request) -> None:
    if request.job_id is not None:
        check_name(request.job_id)
    for name, folder in (("--workspace", request.workspace), ("--results", request.results), ("--credentials", request.credentials)):
        if folder is not None and not Path(folder).is_absolute():
            raise ValueError(f"{name} {folder}: expected an absolute path, as the cluster's nodes see it")
    for item in request.overrides:
        if redacted(item) != item:
            raise ValueError(
                f"-S {redacted(item)} has a password in it, which everyone who reaches the job server could read: give it to the nodes instead "
                "(their own environment, or a file there that --credentials names)"
            )


def _settings() -> dict[str, str]:
    """What the job inherits.

    Raises:
        ValueError: a password in one of them.
    """
    found = {name: os.environ[name] for name in SETTINGS if os.environ.get(name)}
    for name, value in found.items():
        if redacted(value) != value:
            raise ValueError(
                f"{name}={redacted(value)} has a password in it, which everyone who reaches the job server could read: take it out, and give the "
                "nodes MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (their own environment, or a file there that --credentials names)"
            )
    return found


def _key(package: Package, request: Request, settings: Mapping[str, str]) -> str:
    """What makes two jobs one: the files of the commit with the overrides in them, the stages, and where they run."""
    parts = [package.digest, list(request.stages), request.workspace, request.results, dict(settings)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _attempt(job_id: str) -> int:
    found = re.fullmatch(r"gan-[0-9a-f]{8}-[0-9a-f]{12}-(\d+)", job_id)
    return int(found[1]) if found else 1


def _is_sent(same: Sequence[Known], say: Say) -> Sent | None:
    """The job of the same key that runs, else one that is done."""
    for job in reversed(same):
        if job.outcome is None:
            say(f"job {job.id} runs this commit with these settings already ({job.status}): attached to it; --again sends another one")
            return Sent(job_id=job.id)
    for job in reversed(same):
        if job.outcome is not None and job.outcome.exit_code == 0:
            say(f"job {job.id} has done this commit with these settings; --again runs it anew")
            return Sent(job_id=job.id, is_done=True)
    if same:
        say(f"job {same[-1].id} of this commit with these settings ended as {same[-1].status}: it is sent again")
    return None


def _is_done(request: Request, name: str, say: Say) -> Sent | None:
    """A job of the same key that the server has forgotten, and that left its results."""
    with suppress(ValueError, OSError):  # the job itself will say what is wrong with its storage
        for job in reversed(Storage(request.root, workspace=request.workspace).names()):
            if job == name or job.startswith(f"{name}-"):
                say(f"job {job} has done this commit with these settings; --again runs it anew")
                return Sent(job_id=job, is_done=True)
    return None


def _state_uri(values: Mapping[str, Any]) -> str:
    train = values.get("train")
    return str(train.get("state_uri", "state")) if isinstance(train, dict) else "state"


def _warnings(package: Package, state_uri: str, settings: Mapping[str, str], request: Request) -> list[str]:
    """What would go wrong on a cluster and cannot be seen from here."""
    found, values = [], package.params
    if request.workspace is None:
        found.append("no --workspace: the job runs in a temporary folder of one node, which workers on other nodes cannot see")
        if not Path(state_uri).is_absolute():
            found.append(
                f"train.state_uri={redacted(state_uri)} is relative: a job sent again cannot resume; use --workspace, or an absolute path"
            )
    if not package.remote and request.workspace and not is_seen(request.workspace):
        found.append(
            f"there is no DVC remote, and {request.workspace} is not to be seen from here (yet): the results can be fetched only where it is"
        )
    elif not package.remote and not request.workspace:
        found.append("there is no DVC remote: --results keeps a copy, which `ganpipe submit fetch` cannot apply")
    if (names := [name for name in CREDENTIALS if os.environ.get(name)]) and request.credentials is None:
        found.append(
            f"{', '.join(names)} {'stay' if len(names) > 1 else 'stays'} here: Ray would keep them readable for all. The nodes need their own, in "
            "their environment or in a file that --credentials names"
        )
    tracking = values.get("tracking")
    uri = settings.get("MLFLOW_TRACKING_URI") or (tracking.get("uri") if isinstance(tracking, dict) else None)
    if not uri:
        found.append("neither MLFLOW_TRACKING_URI nor tracking.uri is set: the model is registered in a local store in the job's folder")
    elif urlsplit(str(uri)).scheme not in ("http", "https") or urlsplit(str(uri)).hostname in ("localhost", "127.0.0.1", "::1"):
        found.append(
            f"the MLflow server {urlsplit(str(uri)).scheme}://{urlsplit(str(uri)).hostname or ''} is another one on the cluster than here"
        )
    return found
