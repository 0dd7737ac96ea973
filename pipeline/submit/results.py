"""The way home: what a job keeps of its run beside its outs, and how that is applied to a working tree.

A job writes one object, `ganpipe/jobs/JOB.json`, beside what `dvc push` wrote: its dvc.lock and its params.yaml. Where it has no DVC remote, its
storage is the DVC cache of its workspace, which has the layout of a remote and is one to whoever sees that folder. `python -m
pipeline.submit.results` is the job's side (infra/job.sh), `ganpipe submit fetch JOB` the other.
"""

import argparse
import logging
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ganlib.config import Section
from ganlib.files import atomic_write
from ganlib.redact import redacted
from pipeline import cli
from pipeline.submit.package import git
from pipeline.submit.targets import check_name

FOLDER = ("ganpipe", "jobs")  # below the address of a DVC remote
APPLIED = ("params.yaml", "dvc.lock")
RESTORED = "fetched"  # name of the remote that stands for a workspace
MOST_NAMES = 5


class Record(Section):
    """What a job that succeeded leaves in its storage; `stages` are those of its dvc.lock."""

    job: str
    commit: str
    stages: list[str]
    params_yaml: str
    dvc_lock: str


def has_remote(root: Path) -> bool:
    """Whether the project in `root` has a default DVC remote, in any of its settings."""
    from dvc.config import Config

    return bool(Config(dvc_dir=str(root / ".dvc"))["core"].get("remote"))


def is_seen(workspace: str | None) -> bool:
    """Whether this machine sees the DVC cache of a workspace."""
    return bool(workspace) and (Path(workspace or "") / "cache").is_dir()


class Storage:
    """Where results travel: the default DVC remote of a project, else the DVC cache of a workspace."""

    def __init__(self, root: Path, *, workspace: str | None = None) -> None:
        """Open it.

        Raises:
            ValueError: there is none, or this machine does not see it.
        """
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        logging.getLogger("dvc").setLevel(logging.ERROR)
        try:
            repo = Repo(str(root))
            if not repo.config["core"].get("remote"):
                repo = Repo(str(root), config=_as_remote(root, workspace))
            remote = repo.cloud.get_remote()
        except (DvcException, OSError) as error:
            raise ValueError(f"the storage of results cannot be used: {_line(error)}") from None
        self.repo: Any = repo
        self.address = f"{remote.fs.protocol}:{remote.path}" if remote.fs.protocol != "local" else str(remote.path)
        self._fs, self._folder = remote.fs, remote.fs.join(remote.path, *FOLDER)

    def names(self) -> list[str]:
        """The jobs that left results, sorted.

        Raises:
            OSError: the storage cannot be reached.
        """
        try:
            with _asking(self.address):
                listed = self._fs.ls(self._folder, detail=False)
        except FileNotFoundError:
            return []
        return sorted(name.removesuffix(".json") for name in (path.rpartition("/")[2] for path in listed) if name.endswith(".json"))

    def read(self, job: str) -> Record:
        """What `job` left.

        Raises:
            ValueError: nothing.
            OSError: the storage cannot be reached.
        """
        try:
            with _asking(self.address):
                return Record.model_validate_json(self._fs.cat_file(self._fs.join(self._folder, f"{check_name(job)}.json")))
        except FileNotFoundError:
            raise ValueError(f"job {job} left no results in {self.address}: it has not succeeded, or pushed to another place") from None

    def write(self, record: Record) -> None:
        """Raises OSError where the storage cannot be reached."""
        with _asking(self.address):
            self._fs.makedirs(self._folder, exist_ok=True)
            self._fs.pipe_file(self._fs.join(self._folder, f"{check_name(record.job)}.json"), record.model_dump_json().encode())


@contextmanager
def _asking(address: str) -> Iterator[None]:
    """Turn what a store's client raises into OSError: those of S3, GCS and Azure each have exceptions of their own, which are none."""
    try:
        yield
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise OSError(f"{address} cannot be reached: {redacted(_line(error))}") from None


def fetch(root: Path, storage: Storage, record: Record, *, force: bool = False, say: Callable[[str], object] = print) -> None:
    """Apply what a job left to `root`: its params.yaml and dvc.lock, its run cache, and the outs of its stages.

    Nothing that would be lost is overwritten: all is looked at before anything is written, and a failure puts both files back.

    Args:
        force: overwrite all the same.

    Raises:
        ValueError: local changes, another commit's params.yaml or dvc.lock, or outs that the storage has not.
    """
    ours = {name: (root / name).read_bytes() if (root / name).is_file() else None for name in APPLIED}
    theirs = {"params.yaml": record.params_yaml.encode(), "dvc.lock": record.dvc_lock.encode()}
    if not force:
        _refuse_local_changes(root, record, storage.repo, ours, theirs)
    try:
        for name in APPLIED:
            atomic_write(root / name, theirs[name])
        with _asking(storage.address):
            storage.repo.stage_cache.pull(None)
            storage.repo.pull(targets=[f"{root / 'dvc.yaml'}:{stage}" for stage in record.stages], force=force)
    except BaseException as error:
        for name, data in ours.items():
            if data is None:
                (root / name).unlink(missing_ok=True)
            else:
                atomic_write(root / name, data)
        if isinstance(error, OSError):
            raise ValueError(f"the results of {record.job} could not be fetched from {storage.address}: {_line(error)}") from None
        raise
    changed = [name for name in APPLIED if ours[name] != theirs[name]]
    say(f"results of {record.job} are here: {', '.join(record.stages)}" + (f"; {' and '.join(changed)} changed" if changed else ""))
    if others := _other_files(root, record.commit):
        say(
            f"note: {_names(others)} differ from commit {record.commit[:12]}, which the job ran: `dvc status` names the stages that depend on them"
        )


def _as_remote(root: Path, workspace: str | None) -> dict[str, Any]:
    """DVC settings in which the cache of a workspace is the default remote."""
    if not workspace:
        raise ValueError(
            "there is no DVC remote (`dvc remote add -d NAME URL`, committed), and no --workspace whose cache could be read instead: "
            "results have no way home"
        )
    if not is_seen(workspace):
        raise ValueError(f"--workspace {workspace} is not to be seen from this machine: fetch where it is, or use a DVC remote")
    return {"core": {"remote": RESTORED}, "remote": {RESTORED: {"url": str(Path(workspace) / "cache")}}}


def _refuse_local_changes(root: Path, record: Record, repo: Any, ours: dict[str, bytes | None], theirs: dict[str, bytes]) -> None:
    lost = []
    for name in APPLIED:
        committed = _committed(root, record.commit, name)
        if ours[name] not in (None, committed, theirs[name]):
            lost.append(name)
    if lost:
        raise ValueError(
            f"{' and '.join(lost)} would be overwritten, and the job's commit {record.commit[:12]} has not what stands there now: commit or stash "
            f"it (git stash push {' '.join(lost)}), then fetch again; --force overwrites"
        )
    changed = repo.data_status(untracked_files="no").get("uncommitted", {})
    outs = [path for kind in ("added", "modified") for path in changed.get(kind, [])]
    if lost := sorted(path for path in outs if not _is_saved(repo, root / path)):
        raise ValueError(
            f"{_names(lost)} would be overwritten, and DVC's cache has not what is there now: keep a copy, or `dvc commit`; --force overwrites"
        )


def _is_saved(repo: Any, path: Path) -> bool:
    """Whether every byte of an out lies in DVC's cache."""
    from dvc.fs import LocalFileSystem
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.tree import Tree

    cache = repo.cache.local
    _, _, made = build(cache, str(path), LocalFileSystem(), "md5", dry_run=True)
    files = [info for _, _, info in made] if isinstance(made, Tree) else [made.hash_info]
    return all(cache.exists(info.value) for info in files)


def _committed(root: Path, commit: str, name: str) -> bytes | None:
    try:
        return git(root, "show", f"{commit}:./{name}")
    except ValueError:
        return None


def _other_files(root: Path, commit: str) -> list[str]:
    """Tracked files that differ from `commit`, what was applied left out."""
    try:
        listed = git(root, "diff", "--name-only", "--relative", commit, "--", ".").decode().splitlines()
    except ValueError:  # the commit is not in this clone
        return [f"files unknown: this clone has no commit {commit[:12]}, so some"]
    return [name for name in listed if name not in APPLIED]


def _names(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def keep(root: Path, *, job: str, commit: str, workspace: str) -> None:
    """The job's side: push outs and run cache, then write the record, which says that all is there.

    Raises:
        ValueError: the push failed.
    """
    from ruamel.yaml import YAML

    lock = (root / "dvc.lock").read_text(encoding="utf-8")
    stages = list(YAML(typ="safe", pure=True).load(lock)["stages"])
    storage = Storage(root, workspace=workspace)
    if storage.repo.config["core"]["remote"] != RESTORED:
        done = subprocess.run(["dvc", "push", "--run-cache", *stages], cwd=root, check=False)
        if done.returncode:
            raise ValueError(f"dvc push failed (the lines above say why); the outs are in {root}")
    params = (root / "params.yaml").read_text(encoding="utf-8")
    storage.write(Record(job=job, commit=commit, stages=stages, params_yaml=params, dvc_lock=lock))
    print(f"results are in {storage.address}: ganpipe submit fetch {job}", flush=True)


def main() -> None:
    argparse.ArgumentParser(prog="python -m pipeline.submit.results", description="The end of infra/job.sh.").parse_args()
    names = {"job": "GANPIPE_JOB", "commit": "GANPIPE_GIT_COMMIT", "workspace": "GANPIPE_WORKSPACE"}
    keep(Path.cwd(), **{option: os.environ.get(name, "") for option, name in names.items()})


if __name__ == "__main__":
    cli.run(main)
