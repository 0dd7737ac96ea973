"""Send `dvc repro` of the commit to a cluster, follow it, bring its results home: `ganpipe submit --address http://HEAD:8265`.

Exit codes (the table in infra/README.md): 0 succeeded, 1 failed, 2 no server answers or it does not let us in, 3 stopped, 4 contact was lost and
the job may still run, 5 succeeded but its results are not here, 6 its driver died with its node, 128 + n its driver was killed by signal n;
130 Ctrl-C and 124 --timeout-minutes stopped it.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ganlib.redact import redacted
from pipeline import params, preflight
from pipeline.submit import results
from pipeline.submit.following import describe, ending, follow, stop, table
from pipeline.submit.ray_jobs import RayJobs
from pipeline.submit.sending import Request, submit
from pipeline.submit.targets import NOT_HOME, UNREACHABLE, Outcome, Target, Unreachable, check_name, known_job

VERBS = {
    "send": "package the commit, send it and follow it (the default)",
    "list": "the jobs the server knows",
    "status": "how JOB stands",
    "logs": "what JOB has printed; --follow stays until it ends",
    "stop": "stop JOB and wait for its end",
    "fetch": "apply the results of JOB to this clone",
}


def target_at(address: str | None) -> Target:
    """The kind of cluster an address belongs to.

    Raises:
        ValueError: no kind has such addresses.
        Unreachable: nothing answers there, or it does not let us in.
    """
    if not address:
        raise ValueError("where to? Give --address http://HEAD:8265, or set RAY_API_SERVER_ADDRESS")
    parts = urlsplit(address)
    if parts.scheme in ("http", "https") and parts.hostname:
        return RayJobs(address.rstrip("/"))
    raise ValueError(f"--address {redacted(address)}: expected the job server of a Ray cluster, http://HEAD:8265 (the dashboard's address)")


def fetch(root: Path, job_id: str, target: Callable[[], Target], *, workspace: str | None = None, force: bool = False) -> None:
    """Apply the results of a job to `root`; the job server is asked only where no DVC remote and no workspace say where they are.

    Raises:
        ValueError: it left none, or they cannot be applied.
    """
    check_name(job_id)
    if not workspace and not results.has_remote(root):
        workspace = known_job(target(), job_id).labels.get("workspace") or None
    storage = results.Storage(root, workspace=workspace)
    results.fetch(root, storage, storage.read(job_id), force=force)


def _default_address() -> str | None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        if os.environ.get(name, "").startswith(("http://", "https://")):
            return os.environ[name]
    return None


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    lines = "\n".join(f"  {verb:<7} {text}" for verb, text in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="ganpipe submit",
        description="Send `dvc repro` of the commit to a cluster as a job, follow it, and bring its results home.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"verbs:\n{lines}\n\nExit code: 0 succeeded, 1 failed, 2 unreachable, 3 stopped, 4 contact lost, 5 results not here, 6 driver died, "
        "130 Ctrl-C, 124 timeout.",
    )
    parser.add_argument("verb", nargs="?", choices=tuple(VERBS), default="send", help="default: send")
    parser.add_argument("job", nargs="?", metavar="JOB", help="for status, logs, stop, fetch")
    parser.add_argument("--address", default=_default_address(), help="http://HEAD:8265; default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS")
    parser.add_argument(
        "-S", "--set-param", action="append", default=[], metavar="KEY=VALUE", help="override of params.yaml, as in `dvc exp run -S`"
    )
    parser.add_argument("--target", nargs="+", default=[], metavar="STAGE", help="stages to reproduce; default: all")
    parser.add_argument("--workspace", help="folder every node sees, an absolute path: runs, DVC cache and training state live there")
    parser.add_argument("--results", help="folder on the cluster that gets a copy of dvc.lock, reports, samples and models")
    parser.add_argument("--credentials", metavar="FILE", help="on every node, an absolute path: NAME=VALUE lines for the job's environment")
    parser.add_argument(
        "--keep-days", type=int, metavar="N", help="the job removes folders of runs that ended more than N days ago (default: 30)"
    )
    parser.add_argument("--submission-id", help="name of the job; default: made of commit and settings")
    parser.add_argument("--detach", action="store_true", help="submit and leave; `logs JOB --follow` and `fetch JOB` come back")
    parser.add_argument("--follow", nargs="?", const="", metavar="JOB", help="submit nothing, follow this job")
    parser.add_argument("--fetch", metavar="JOB", help="the same as `fetch JOB`")
    parser.add_argument("--no-fetch", action="store_true", help="leave the results of a followed job where they are")
    parser.add_argument("--force", action="store_true", help="fetch over local changes")
    parser.add_argument("--retry", type=int, default=0, metavar="N", help="send a job whose driver died again, up to N times")
    parser.add_argument("--again", action="store_true", help="send the commit although the same job runs or is done")
    parser.add_argument("--allow-dirty", action="store_true", help="send HEAD although there are changes, which are not sent")
    parser.add_argument(
        "--timeout-minutes", type=float, help="stop the job when it is still running then; held by the command that follows it"
    )
    parser.add_argument("--dry-run", action="store_true", help="check all and print what would be sent, as JSON; send nothing")
    options = parser.parse_args(arguments)
    if options.fetch:
        options.verb, options.job = "fetch", options.fetch
    elif options.follow and options.verb in ("send", "logs"):
        options.verb, options.job = "logs", options.follow
    elif options.follow == "" and options.verb != "logs":
        parser.error("--follow: expected the name of a job")
    if (options.job is None) != (options.verb in ("send", "list")):
        parser.error(f"{options.verb}: " + ("expected the name of a job" if options.job is None else f"unexpected {options.job}"))
    if options.keep_days is not None and options.keep_days < 0:
        parser.error(f"--keep-days {options.keep_days}: expected a number of days from 0")
    if options.retry < 0 or (options.retry and options.detach):
        parser.error("--retry: expected a number from 1, and no --detach: whoever sends a job again must see how it ends")
    if options.timeout_minutes is not None and options.detach:
        parser.error(
            "--timeout-minutes: the command that follows a job holds this limit, so nobody would with --detach; leave one of them out"
        )
    if options.dry_run and options.verb != "send":
        parser.error(f"--dry-run: {options.verb} sends nothing")
    return options


def main(
    arguments: Sequence[str] | None = None, *, root: Path | None = None, validate: Callable[[dict[str, Any]], object] = preflight.parse
) -> int:
    """The command; returns its exit code. `root`: the clone whose commit is sent, the current one where none is given."""
    options = _arguments(arguments)
    try:
        if options.verb == "send":
            return _send(options, root, validate)
        if options.verb == "fetch":
            clone = root or params.clone()
            fetch(clone, options.job, lambda: target_at(options.address), workspace=options.workspace, force=options.force)
            return 0
        return _ask(options, root)
    except Unreachable as error:
        print(f"error: {error}", file=sys.stderr)
        return UNREACHABLE


def _ask(options: argparse.Namespace, root: Path | None) -> int:
    target = target_at(options.address)
    if options.verb == "list":
        print(table(target.jobs()))
        return 0
    job = known_job(target, options.job)
    if options.verb == "status":
        print(describe(job))
    elif options.verb == "stop":
        stop(target, job)
    elif options.follow is not None:
        outcome = follow(target, job.id, timeout_minutes=options.timeout_minutes)
        return _home(options, root, target, job.id, outcome)
    else:
        text = target.log(job.id)
        print(text, end="" if text.endswith("\n") else "\n")
        if job.outcome is not None:
            print(ending(job.id, job.outcome, printed=text))
    return 0


def _send(options: argparse.Namespace, root: Path | None, validate: Callable[[dict[str, Any]], object]) -> int:
    target = target_at(options.address)
    request = Request(
        root=root or params.clone(),
        overrides=options.set_param,
        stages=options.target,
        job_id=options.submission_id,
        workspace=options.workspace,
        results=options.results,
        credentials=options.credentials,
        keep_days=options.keep_days,
        allow_dirty=options.allow_dirty,
        again=options.again,
        is_dry=options.dry_run,
        validate=validate,
    )
    if options.dry_run:
        submit(request, target, say=lambda line: print(line, file=sys.stderr))
        return 0
    for attempt in range(options.retry + 1):
        sent = submit(request, target)
        if options.detach:
            return 0
        if sent.is_done:
            return _home(options, request.root, target, sent.job_id, Outcome(status="SUCCEEDED", exit_code=0))
        outcome = follow(target, sent.job_id, timeout_minutes=options.timeout_minutes)
        if not outcome.has_died or attempt == options.retry:
            break
        print(f"its driver died: sent again, try {attempt + 1} of {options.retry}")
    return _home(options, request.root, target, sent.job_id, outcome)


def _home(options: argparse.Namespace, root: Path | None, target: Target, job_id: str, outcome: Outcome) -> int:
    """Fetch what a job that succeeded left; the exit code for the shell."""
    if outcome.exit_code or options.no_fetch:
        return outcome.exit_code
    try:
        clone = root or params.clone()
    except ValueError as error:  # whoever follows a job need not stand in a clone
        print(f"its results are not fetched: {error}")
        return 0
    workspace = options.workspace or known_job(target, job_id).labels.get("workspace")
    if not results.has_remote(clone) and not results.is_seen(workspace):
        print(f"its results are on the cluster, in {workspace or options.results}: no DVC remote brings them here")
        return 0
    try:
        fetch(clone, job_id, lambda: target, workspace=workspace, force=options.force)
    except (ValueError, OSError) as error:
        print(
            f"the job succeeded, but its results are not here: {redacted(str(error))}\nlater: ganpipe submit fetch {job_id}",
            file=sys.stderr,
        )
        return NOT_HOME
    return 0
