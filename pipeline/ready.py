"""`python -m pipeline.ready`: what has to be so before DVC begins, because DVC itself would stop without a useful word. `make repro` calls it."""

import argparse
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ganlib.data.settings import DataConfig
from pipeline import cli, lineage, params

MOST_NAMES = 5
LOCAL = Path(".dvc") / "config.local"


def without_git(root: Path) -> str:
    """Tell DVC that the project has no git where it has none; a line for a person, "" where git has it.

    A zip has no repository, or lies in somebody else's, which is none of ours.
    """
    if lineage.has_repository(root):
        return ""
    if not (root / LOCAL).is_file() or "no_scm" not in (root / LOCAL).read_text():
        subprocess.run(["dvc", "config", "--quiet", "--local", "core.no_scm", "true"], cwd=root, check=True, timeout=60)
    return f"no git repository; no commit recorded (`dvc exp` needs one: git init, git add, git commit, and remove {LOCAL})"


def check_names(root: Path, path: str) -> None:
    """Raise ValueError where a name below `data.path` is not UTF-8: DVC, which hashes the folder, would die of it without saying which."""
    found = []
    for name in _undecodable(os.fsencode(root / path)):
        found.append(ascii(os.fsdecode(name))[1:-1])
        if len(found) > MOST_NAMES:
            break
    if found:
        more = " and more" if len(found) > MOST_NAMES else ""
        raise ValueError(
            f"names below data.path={path} that are not UTF-8, which DVC cannot hash: {', '.join(found[:MOST_NAMES])}{more}; rename them, "
            f"for example all at once with: convmv -f latin1 -t utf8 -r --notest {path}"
        )


def _undecodable(folder: bytes) -> Iterator[bytes]:
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            try:
                name.decode()
            except UnicodeDecodeError:
                yield os.path.relpath(os.path.join(where, name), folder)


def main() -> None:
    argparse.ArgumentParser(prog="python -m pipeline.ready", description=__doc__).parse_args()
    root = params.project()
    check_names(root, params.section("data", DataConfig).path)
    if line := without_git(root):
        print(line, flush=True)


if __name__ == "__main__":
    cli.run(main)
