"""Where a result comes from: the commit, the files a stage runs, and values as one hash."""

import ast
import hashlib
import json
import os
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.code_digest.names import PACKAGES
from pipeline.params import ROOT

# Imports that cannot change a result, left out of every closure: they refuse bad settings, say how a stage starts and ends, or have other machines
# run a stage's own functions, in an order that the stage checks.
INERT = frozenset({"pipeline.preflight", "pipeline.cli", "pipeline.driver.ray_data"})


UNKNOWN = "unknown"  # a commit that nobody can tell
RAN = ("ganlib", "pipeline", "params.yaml", "dvc.yaml")  # what of a commit a stage runs, and by which settings
MOST_CHANGED = 20


def git_commit(root: Path = ROOT) -> str:
    """The commit of the working tree, with `-dirty` where what runs is not what it holds, settings of `dvc exp run -S` included.

    GANPIPE_GIT_COMMIT in an export without .git; else "unknown".
    """
    if os.environ.get("GANPIPE_GIT_COMMIT"):
        return os.environ["GANPIPE_GIT_COMMIT"]
    if not has_repository(root):
        return UNKNOWN
    try:
        return _git("rev-parse", "--verify", "HEAD", root=root) + ("-dirty" if changed_files(root) else "")
    except (OSError, subprocess.SubprocessError):  # nothing is committed yet
        return UNKNOWN


def has_repository(root: Path = ROOT) -> bool:
    """Whether git has this project: as a repository of its own, or as files of a larger one. A repository that merely lies above is another's."""
    try:
        top = _git("rev-parse", "--show-toplevel", root=root)
        return Path(top).resolve() == root.resolve() or bool(_git("ls-files", "--", "dvc.yaml", root=root))
    except (OSError, subprocess.SubprocessError):
        return False


def changed_files(root: Path = ROOT) -> list[str]:
    """Files of RAN that differ from the commit or are not in it, sorted."""
    if os.environ.get("GANPIPE_GIT_COMMIT") or not has_repository(root):
        return []
    listed = _git("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", *RAN, root=root, strip=False)
    top = Path(_git("rev-parse", "--show-toplevel", root=root))
    return sorted(os.path.relpath(top / line[3:], root.resolve()) for line in listed.split("\0") if line)


def in_words(commit: str, changed: Iterable[str]) -> str:
    """A line on what is recorded."""
    if commit == UNKNOWN:
        return "no git repository; no commit recorded"
    names = list(changed)
    return f"commit {commit.removesuffix('-dirty')[:12]}" + (f", and changes in {', '.join(names)}" if names else "")


def _git(*arguments: str, root: Path, strip: bool = True) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True, errors="surrogateescape", timeout=60)
    return done.stdout.strip() if strip else done.stdout


def digest(value: Any) -> str:
    """sha256 of a JSON-able value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def import_closure(module: str, *, root: Path = ROOT) -> list[Path]:
    """Files of this project that `module` can run, itself included, relative to `root`.

    Follows every import statement, inside functions too, and the package of every `Registry(..., package=...)`, which imports all below it.
    """
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen or name in INERT or _file_of(name, root) is None:
            continue
        seen.add(name)
        parent = name.rpartition(".")[0]
        waiting += [parent] if parent else []
        waiting += _imports(name, root)
    return sorted({path for name in seen if (path := _file_of(name, root)) is not None})


@cache
def _file_of(name: str, root: Path) -> Path | None:
    if name.split(".")[0] not in PACKAGES:
        return None
    base = Path(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if (root / path).is_file():
            return path
    return None


@cache
def _imports(name: str, root: Path) -> tuple[str, ...]:
    path = _file_of(name, root)
    assert path is not None
    found: list[str] = []
    for node in ast.walk(ast.parse((root / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Registry":
            found += [
                module
                for keyword in node.keywords
                if keyword.arg == "package" and isinstance(keyword.value, ast.Constant)
                for module in _below(str(keyword.value.value), root)
            ]
    return tuple(found)


def _below(package: str, root: Path) -> Iterable[str]:
    folder = root / Path(*package.split("."))
    yield package
    for path in folder.rglob("*.py"):
        relative = path.relative_to(root).with_suffix("")
        yield ".".join(relative.parts).removesuffix(".__init__")
