"""`make deps`: the code among the deps of every stage in dvc.yaml, from what the stage imports; a folder where the whole folder is meant.

The rest of dvc.yaml, comments too, stays as it is.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline import cli, edit
from pipeline.code_digest.names import PACKAGES
from pipeline.lineage import import_closure
from pipeline.params import ROOT, clone


def code_deps(stage: str, root: Path = ROOT) -> list[str]:
    """What stage `stage` can run, as dvc.yaml lists it: sorted files, and folders of which it can run every file."""
    closure = set(import_closure(f"pipeline.stages.{stage}", root=root))
    folders = {folder for path in closure for folder in path.parents if len(folder.parts) > 1 and _is_whole(folder, closure, root)}
    largest = {folder for folder in folders if folder.parent not in folders}
    single = {path for path in closure if not any(folder in path.parents for folder in largest)}
    return sorted(str(path) for path in largest | single)


def _is_whole(folder: Path, closure: Iterable[Path], root: Path) -> bool:
    """Every module of it is meant; one alone stands for its folder where that holds more than code (templates)."""
    files = {path.relative_to(root) for path in (root / folder).rglob("*.py")}
    others = [path for path in (root / folder).iterdir() if path.is_file() and path.suffix not in (".py", ".pyc")]
    return files <= set(closure) and (len(files) > 1 or bool(files and others))


def is_code(dep: str) -> bool:
    return Path(dep).parts[0] in PACKAGES


def stale(stages: Any, root: Path = ROOT) -> dict[str, list[str]]:
    """Stage -> its code deps, for the stages of a parsed dvc.yaml that list others."""
    wanted = {stage: code_deps(stage, root) for stage in stages}
    return {stage: deps for stage, deps in wanted.items() if [dep for dep in stages[stage]["deps"] if is_code(dep)] != deps}


def main() -> None:
    argparse.ArgumentParser(prog="python -m pipeline.deps", description=__doc__).parse_args()
    path = clone() / "dvc.yaml"
    values = edit.document(path)
    changed = stale(values["stages"])
    for stage, code in changed.items():
        deps = values["stages"][stage]["deps"]
        deps[:] = [*(dep for dep in deps if not is_code(dep)), *code]
    if changed:
        edit.write(values, path)
    print(f"dvc.yaml: deps of {', '.join(changed)} are written anew" if changed else "dvc.yaml: every stage's deps are as its imports are")


if __name__ == "__main__":
    cli.run(main)
