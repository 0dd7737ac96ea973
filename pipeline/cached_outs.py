"""A finished training out of DVC's cache, found by its run key.

DVC reruns the train stage when the bytes of its code change, and looks its own run cache up by them too. What a result depends on moves the run key
alone: so a training whose key is that of outs which DVC has had before is restored from them, where its state is gone or never was on this machine.
The cache is read by its layout on disk (`runs/` holds a dvc.lock entry for each run, `files/md5/` the objects), and every byte is verified.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ganlib.files import atomic_folder
from pipeline import artifacts
from pipeline.cli import say

COMMAND = "python -m pipeline.stages.train"  # of the stage in dvc.yaml, and of its entries in the cache
FOLDERS = ("models", "reports/training")  # where all of `artifacts.OUTS` lie
OFF = "GANPIPE_CACHED_OUTS"  # 0 in the environment: a training that is asked for is run
DVC_SECONDS = 60.0


class _MissingError(ValueError):
    """An object that the cache has no more, or not as it was."""


def restore(run_key: str, choice: str | None, root: Path) -> bool:
    """Write the stage's outs as a training of `run_key` left them, where DVC's cache has all of them; whether it has.

    Args:
        choice: digest of what chose among its candidates (`pipeline.selection`); None: nothing did.

    Raises:
        OSError: they cannot be written.
    """
    cache = cache_folder(root) if os.environ.get(OFF) != "0" else None
    for outs in _entries(root, cache) if cache is not None else ():
        assert cache is not None
        try:
            files = _files(cache, outs)
            facts = json.loads(_object(cache, files["models/generator.json"]))
        except (_MissingError, KeyError, ValueError):  # nobody knows which training that was
            continue
        if (facts.get("run_key"), facts.get("format"), facts.get("selection", {}).get("choice")) != (run_key, artifacts.FORMAT, choice):
            continue
        try:
            _write(cache, files, root)
        except _MissingError as problem:
            say(f"training {run_key[:16]} was finished before, but DVC's cache has not all of it: {problem}")
            continue
        return True
    return False


def cache_folder(root: Path) -> Path | None:
    """DVC's cache, asked of DVC; None where DVC does not say."""
    if not (root / ".dvc").is_dir():
        return None
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    try:
        said = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True, timeout=DVC_SECONDS).stdout
    except (OSError, subprocess.SubprocessError) as problem:
        say(f"warning: DVC's cache is not looked at: {problem}")
        return None
    return root / said.strip()


def _entries(root: Path, cache: Path) -> Iterator[dict[str, str]]:
    """Outs, path -> md5, of every run of the stage that DVC knows: the one in dvc.lock, then the others, newest first."""
    parse = YAML(typ="safe").load
    paths = sorted(cache.glob("runs/*/*/*"), key=lambda path: -path.stat().st_mtime)
    for path in (root / "dvc.lock", *paths):
        try:
            text = path.read_text(encoding="utf-8")
            if COMMAND not in text:  # another stage's, without parsing it
                continue
            entry = parse(text)
            entry = entry["stages"]["train"] if path.name == "dvc.lock" else entry
            if entry["cmd"] == COMMAND:
                yield {out["path"]: out["md5"] for out in entry["outs"] if out.get("hash") == "md5"}
        except (OSError, YAMLError, KeyError, TypeError, AttributeError):  # no dvc.lock yet; half-written; another DVC's
            continue


def _files(cache: Path, outs: Mapping[str, str]) -> dict[str, str]:
    """Path -> md5 of every file below the stage's outs.

    Raises:
        KeyError: an out that today's stage has, and that run had not.
        _MissingError: the list of a folder is not in the cache.
    """
    files: dict[str, str] = {}
    for out in artifacts.OUTS:
        md5 = outs[out]
        if not md5.endswith(".dir"):
            files[out] = md5
            continue
        listed: list[dict[str, Any]] = json.loads(_object(cache, md5))
        files |= {f"{out}/{entry['relpath']}": entry["md5"] for entry in listed}
    return files


def _object(cache: Path, md5: str) -> bytes:
    path = cache / "files" / "md5" / md5[:2] / md5[2:]
    try:
        data = path.read_bytes()
    except OSError:
        raise _MissingError(f"{path} is missing") from None
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5.removesuffix(".dir"):
        raise _MissingError(f"{path} does not match its checksum")
    return data


def _write(cache: Path, files: Mapping[str, str], root: Path) -> None:
    """All files, or none of them."""
    with ExitStack() as stack:
        folders = {name: stack.enter_context(atomic_folder(root / name)) for name in FOLDERS}
        for path, md5 in files.items():
            name = next(name for name in FOLDERS if path.startswith(f"{name}/"))
            target = folders[name] / path.removeprefix(f"{name}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_object(cache, md5))
