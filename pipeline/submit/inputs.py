"""What a job needs and its package has not: said before it is sent, because on the cluster it would fail an hour later, or train on other data."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganlib.redact import redacted
from pipeline.submit.package import git

OWN_FOLDER = "or put it into a folder that every node has, and name that by its absolute path"
SHOWN = 3  # names in a message


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is not in the package, a line each.

    Attributes:
        lacking: nobody on the cluster can have it.
        expected: on the nodes, or in a store that they reach.
    """

    lacking: Sequence[str]
    expected: Sequence[str]


def look(root: Path, tree: Path, params: Mapping[str, Any]) -> Inputs:
    """Compare the clone `root` with what is sent of it.

    Args:
        tree: the files of the commit, with the overrides in params.yaml.
        params: of that params.yaml.

    Raises:
        ValueError: DVC cannot read the pipeline of the commit.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        repo = Repo(str(tree), config={"core": {"no_scm": True}, "cache": {"dir": str(root / ".dvc" / "cache")}})
        stages = repo.index.stages
    except DvcException as error:
        raise ValueError(f"DVC cannot read the pipeline of the commit: {' '.join(str(error).split())}") from None
    outs = [Path(out.fs_path) for stage in stages for out in stage.outs if out.fs.protocol == "local"]
    paths = sorted({Path(dep.fs_path) for stage in stages for dep in stage.deps if dep.fs.protocol == "local"})
    there = [path for path in paths if not any(path == out or out in path.parents for out in outs)]
    inside = [path.relative_to(tree) for path in there if tree in path.parents]
    untracked = git(root, "ls-files", "--others", "-z", "--", *map(str, inside)).decode().split("\0") if inside else []
    held = [out.relative_to(tree) for out in outs if tree in out.parents]  # by DVC
    files = [
        name
        for name in untracked
        if name
        and not any(Path(name) == out or out in Path(name).parents for out in held)
        and not repo.dvcignore.is_ignored_file(str(tree / name))
    ]
    lacking = [line for path in inside if (line := _not_sent(path, files))]
    lacking += _not_pushed(repo, stages, tree)
    expected = [f"on the nodes, under the same path: {path}" for path in there if tree not in path.parents]
    expected += _in_a_store(params)
    weights = _weights(root, tree, params)
    lacking += [line for line, is_lost in weights if is_lost]
    expected += [line for line, is_lost in weights if not is_lost]
    return Inputs(lacking=lacking, expected=expected)


def _not_sent(path: Path, files: Sequence[str]) -> str:
    found = sorted(name for name in files if Path(name) == path or path in Path(name).parents)
    if not found:
        return ""
    names = ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else "")
    return (
        f"{path}: {names}: a stage reads it, and neither git nor DVC has it. `dvc add` it, commit the .dvc file and `dvc push` (needs a DVC remote), "
        f"{OWN_FOLDER} (params.yaml: data.path)"
    )


def _not_pushed(repo: Any, stages: Sequence[Any], tree: Path) -> list[str]:
    """Data that .dvc files of the commit name by their hash, and that the nodes cannot get."""
    tracked = [stage for stage in stages if stage.is_data_source]
    if not tracked:
        return []
    names = ", ".join(Path(stage.path).relative_to(tree).as_posix() for stage in tracked[:SHOWN])
    if not repo.config["core"].get("remote"):
        return [
            f"{names}: names data by their hash, and there is no DVC remote to get them from: `dvc remote add -d NAME URL`, `dvc push`, commit"
        ]
    from dvc.exceptions import DvcException

    try:
        missing = repo.status(targets=[stage.path for stage in tracked], cloud=True)
    except (DvcException, OSError) as error:
        return [f"{names}: whether the DVC remote has the data cannot be told from here: {redacted(' '.join(str(error).split()))}"]
    lost = sorted(name for name, state in missing.items() if state in ("new", "missing"))
    if not lost:
        return []
    return [
        f"the DVC remote lacks {', '.join(lost[:SHOWN])}{' and more' if len(lost) > SHOWN else ''}: `dvc push {names.replace(',', '')}` first"
    ]


def _in_a_store(params: Mapping[str, Any]) -> list[str]:
    data = params.get("data")
    uri = data.get("source_uri") if isinstance(data, Mapping) else None
    return (
        [f"in a store that the nodes reach, with credentials that they have: data.source_uri={redacted(uri)}"]
        if isinstance(uri, str)
        else []
    )


def _weights(root: Path, tree: Path, params: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """What `train.start_from` and `train.continue_from` name: (a line, whether nobody on the cluster can have it)."""
    from ganlib.train_settings import is_key

    train = params.get("train")
    train = train if isinstance(train, Mapping) else {}
    found: list[tuple[str, bool]] = []
    state = str(train.get("state_uri", "state"))
    for key in ("start_from", "continue_from"):
        asked = train.get(key)
        if not isinstance(asked, str):
            continue
        name = f"train.{key}={asked}"
        if key == "continue_from" or is_key(asked):
            if "://" not in state and not os.path.isabs(state):
                found.append((f"{name} is looked for in the state folder of the workspace, not in {state}/ of this clone", False))
        elif asked.startswith("models:/"):
            continue  # of the MLflow server that the job is told
        elif os.path.isabs(asked):
            found.append((f"on the nodes, under the same path: {name}", False))
        elif not (tree / asked).exists():
            has = "is not in the commit" if (root / asked).exists() else "is not there"
            found.append((f"{name} {has}: commit it, register it (models:/NAME/VERSION), {OWN_FOLDER}", True))
    return found
