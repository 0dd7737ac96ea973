"""The project's git repository as lineage asks it: which bytes a commit has, and whether the working tree's are the same."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from pipeline.lineage import UNKNOWN, has_repository

GIT_SECONDS = 120


def same(files: Sequence[str], commit: str, root: Path) -> dict[str, bool | None]:
    """Whether each file of the working tree is as `commit` has it; None where nobody can tell: no repository, or no such commit in it.

    Args:
        files: relative to `root`, which may be a folder of a larger repository.
    """
    if not has(commit, root):
        return dict.fromkeys(files)
    listed = _git("ls-tree", "-r", "-z", commit, "--", ".", root=root).decode(errors="surrogateescape").split("\0")
    committed = {path: facts.split()[2] for facts, _, path in (entry.partition("\t") for entry in listed if entry)}
    names = "\n".join(files).encode(errors="surrogateescape")
    found = _git("hash-object", "--stdin-paths", root=root, given=names).decode().split()
    return {path: committed.get(path) == blob for path, blob in zip(files, found, strict=True)}


def has(commit: str, root: Path) -> bool:
    """Whether the repository of `root` has the commit."""
    if commit == UNKNOWN or not has_repository(root):
        return False
    done = subprocess.run(["git", "cat-file", "-e", f"{commit}^{{commit}}"], cwd=root, capture_output=True, timeout=GIT_SECONDS)
    return done.returncode == 0


def files(commit: str, folders: Sequence[str], root: Path) -> dict[str, bytes]:
    """Path, relative to `root` -> bytes, of what a commit has below `folders`.

    Raises:
        OSError: git says no.
    """
    listed = _git("ls-tree", "-r", "-z", commit, "--", *folders, root=root).decode(errors="surrogateescape").split("\0")
    blobs = {path: facts.split()[2] for facts, _, path in (entry.partition("\t") for entry in listed if entry)}
    told = _git("cat-file", "--batch", root=root, given="".join(f"{blob}\n" for blob in blobs.values()).encode())
    found, place = {}, 0
    for path in blobs:  # `BLOB blob SIZE`, the bytes, a line's end
        start = told.index(b"\n", place) + 1
        place = start + int(told[place:start].split()[2])
        found[path] = told[start:place]
        place += 1
    return found


def content(commit: str, path: str, root: Path) -> bytes | None:
    """The bytes that a commit has of a file (relative to `root`); None where it has none."""
    done = subprocess.run(["git", "show", f"{commit}:./{path}"], cwd=root, capture_output=True, timeout=GIT_SECONDS)
    return done.stdout if done.returncode == 0 else None


def check_out(commit: str, root: Path, folder: Path) -> Path:
    """Clone the repository of `root` into `folder`, which is not there yet, at `commit`; the project in the clone.

    Raises:
        OSError: git says no.
    """
    inside = _git("rev-parse", "--show-prefix", root=root).decode(errors="surrogateescape").strip()
    top = _git("rev-parse", "--show-toplevel", root=root).decode(errors="surrogateescape").strip()
    _git("clone", "--quiet", "--shared", "--no-checkout", top, str(folder), root=root)
    _git("checkout", "--quiet", "--detach", commit, root=folder)
    return folder / inside


def _git(*arguments: str, root: Path, given: bytes | None = None) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=root, input=given, capture_output=True, timeout=GIT_SECONDS)
    if done.returncode:
        raise OSError(f"git {arguments[0]} in {root}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
