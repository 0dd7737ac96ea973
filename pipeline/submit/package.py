"""The commit as a package: what a cluster gets is what git holds, with the overrides written into its params.yaml."""

import io
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import edit

MAX_PACKAGE_BYTES = 100 * 2**20  # Ray's dashboard refuses a larger request body (DASHBOARD_CLIENT_MAX_SIZE)
JOB_SCRIPT = "infra/job.sh"
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # one commit with one set of overrides is one package, byte for byte: Ray uploads it once


@dataclass(frozen=True, kw_only=True)
class Package:
    """One zipped commit."""

    path: Path
    commit: str
    size_bytes: int
    params: dict[str, Any]


def head_commit(root: Path) -> str:
    """The commit that would be sent.

    Raises:
        ValueError: `root` is no git repository, or has no commit.
    """
    return _git(root, "rev-parse", "--verify", "HEAD").decode().strip()


def uncommitted(root: Path) -> list[str]:
    """Changed, staged and untracked files below `root`, ignored ones left out: none of these is sent."""
    return _git(root, "status", "--porcelain", "--untracked-files=all", "--", ".").decode().splitlines()


def package_commit(
    root: Path,
    folder: Path,
    *,
    overrides: Sequence[str] = (),
    validate: Callable[[dict[str, Any]], object],
    max_bytes: int = MAX_PACKAGE_BYTES,
) -> Package:
    """Zip the tracked files of HEAD below `root` into `folder`, with `key=value` overrides applied to params.yaml.

    Raises:
        ValueError: no commit, no job script in it, bad overrides or params, or a package of `max_bytes` or more.
    """
    commit = head_commit(root)
    tree = folder / "tree"
    with tarfile.open(fileobj=io.BytesIO(_git(root, "archive", "--format=tar", "HEAD"))) as archive:
        archive.extractall(tree, filter="data")
    for name in (JOB_SCRIPT, "params.yaml", "dvc.yaml", ".dvc/config"):
        if not (tree / name).is_file():
            raise ValueError(f"commit {commit[:12]} holds no {name}, which the job needs: commit it, then submit again")
    params = edit.override(tree / "params.yaml", overrides)
    validate(params)
    path = folder / f"{commit[:12]}.zip"
    _zip(tree, path)
    size_bytes = path.stat().st_size
    if size_bytes >= max_bytes:
        raise ValueError(_too_large(tree, size_bytes, max_bytes))
    return Package(path=path, commit=commit, size_bytes=size_bytes, params=params)


def _zip(tree: Path, path: Path) -> None:
    """Zip a folder: files sorted, times fixed, permissions kept, links to files followed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(tree.rglob("*")):
            if file.is_symlink() and not file.is_file():
                raise ValueError(f"{file.relative_to(tree)} is a link to a folder or to nothing: commit the files themselves")
            if file.is_file():
                entry = zipfile.ZipInfo(file.relative_to(tree).as_posix(), ZIP_TIME)
                entry.external_attr = (file.stat().st_mode & 0xFFFF) << 16
                archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)


def _too_large(tree: Path, size_bytes: int, max_bytes: int) -> str:
    files = sorted(((file.stat().st_size, file.relative_to(tree).as_posix()) for file in tree.rglob("*") if file.is_file()), reverse=True)
    largest = "\n".join(f"  {_mib(size):>12}  {name}" for size, name in files[:5])
    return (
        f"the commit is {_mib(size_bytes)} zipped; a job package must be smaller than {_mib(max_bytes)}. Largest files:\n{largest}\n"
        "Take data and models out of git (`dvc add`, a DVC remote), then commit and submit again"
    )


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.2f} MiB"


def _git(root: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)
    except FileNotFoundError:
        raise ValueError(f"git is not installed, or {root} is no folder: a job is sent from a git commit") from None
    if done.returncode:
        raise ValueError(f"git {arguments[0]} failed in {root}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
