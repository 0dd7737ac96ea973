"""`replay`: the commit in a clean folder, the data, the training once more; are the weights the same bytes?"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ganlib.data.arrow import read_manifest
from ganlib.files import sha256_file
from ganlib.storage import open_storage
from ganlib.training.parent import FOLDER
from ganlib.training.state import SEAL
from pipeline import cached_outs, edit
from pipeline.provenance import repository
from pipeline.provenance.case import DIGITS, Case
from pipeline.provenance.environment import environment
from pipeline.provenance.objects import MissingError
from pipeline.provenance.record import DESCRIPTION, SETTINGS
from pipeline.state_address import state_uri
from pipeline.tracking import versions
from pipeline.tracking.settings import TrackingConfig

SECTIONS = ("data", "reference", "model", "task", "optim", "train", "cluster")  # what a training reads
NOT_KEPT = ("MLFLOW_", "GANPIPE_", "RAY_ADDRESS")  # of the environment
KEY = 16  # digits of a run key that name its state
STATE = "state"
TOLD = 3_000  # characters of a stage that failed


def told(case: Case, tracking: TrackingConfig, scratch: Path, *, workers: int | None = None) -> Iterator[str]:
    """Lines while it works, and the verdict.

    Raises:
        ValueError: it cannot be replayed, or the weights are other ones.
    """
    of = case.lineage
    commit = _commit(case)
    yield from _differences(case)
    project = repository.check_out(commit, case.root, scratch / "clone")
    yield f"commit {commit[:DIGITS]} in a clean folder"
    # an older commit may not know all keys of when it was registered
    _write_settings(case, project, of.settings if commit == of.code.commit else SECTIONS, workers)
    yield from _parent(case, project, tracking)
    yield from _bring_data(case, project)
    start = time.monotonic()
    _stage("train", project)
    yield f"trained again in {time.monotonic() - start:.0f} s"
    _require_parent(case, project)
    others = []
    for network, expected in of.weights.items():
        found = sha256_file(project / "models" / f"{network}.safetensors")
        is_same = found == expected
        yield f"{network}: {'the same bytes' if is_same else 'OTHER BYTES'}, sha256 {found[:12]}{'' if is_same else f', registered {expected[:12]}'}"
        others += [] if is_same else [network]
    if others:
        raise ValueError(
            f"{case.source.name}: {', '.join(others)} came out as other bytes; bytes are promised on one kind of device with the locked packages "
            f"(registered with {of.environment.words})"
        )
    yield f"{case.source.name} was made again, byte for byte"


def _commit(case: Case) -> str:
    """The commit to check out: which one registered, else which one trained.

    Raises:
        ValueError: neither ran as it is, or it is not here.
    """
    code = case.lineage.code
    of_both = ((code.commit, code.changed), (code.trained_commit, code.trained_changed))
    whole = [commit for commit, changed in of_both if not {*changed} - {SETTINGS}]  # settings are recorded whole
    if not whole:
        lost = ", ".join(sorted({*code.changed} - {SETTINGS}))
        raise ValueError(f"{case.source.name} ran {lost} as no commit has it, so there is no commit to check out")
    here = [commit for commit in whole if repository.has(commit, case.root)]
    if not here:
        raise ValueError(
            f"the commit {whole[0][:DIGITS]} of {case.source.name} is not in a repository of {case.root}; `git fetch --all --tags` may bring it, "
            "or replay in the clone that registered it"
        )
    return here[0]


def _differences(case: Case) -> Iterator[str]:
    then, now = case.lineage.environment, environment(case.root)
    for name, before, today in (("lock", then.lock, now.lock), ("environment", then.words, now.words)):
        if before != today:
            yield f"note: the {name} is not as it was: {today}, then {before}"


def _write_settings(case: Case, project: Path, sections: Iterable[str], workers: int | None) -> None:
    values, then = edit.document(project / SETTINGS), case.lineage.settings
    for section in sections:
        if section in then:
            values[section] = then[section]
    values["train"]["state_uri"] = STATE
    values["tracking"]["uri"] = None
    values["cluster"]["address"] = None  # other machines do not see this folder
    if (path := then.get("data", {}).get("path")) is not None and "://" not in path:
        values["data"]["path"] = str(case.root / path)
    if workers is not None:
        values["cluster"]["workers"] = workers
    edit.write(values, project / SETTINGS)


def _parent(case: Case, project: Path, tracking: TrackingConfig) -> Iterator[str]:
    """What the training took over: as it was pinned in its own state, else out of the registry, else from its parent's state of today."""
    of, values = case.lineage, edit.document(project / SETTINGS)
    if (parent := of.parent_training) is None:
        return
    base = of.settings["train"]["state_uri"]
    pinned = open_storage(state_uri(base, of.run_key, case.root))
    if SEAL in (names := pinned.names(FOLDER)):
        files = {name: pinned.read(f"{FOLDER}/{name}") for name in names}
        open_storage(state_uri(STATE, of.run_key, project)).write_folder(FOLDER, files)
        yield f"parent: as it was pinned in the state of training {of.run_key[:KEY]}"
        return
    if (version := parent.get("version")) is not None:
        tags = case.source.tags_of(version) or {}
        folder = project / "parent"
        folder.mkdir()
        networks = [tag.removesuffix(versions.WEIGHTS) for tag in tags if tag.endswith(versions.WEIGHTS)]
        versions.fetch(version, networks, folder, tracking, case.root, named="its parent")
        values["train"]["start_from"] = str(folder)
        yield f"parent: {version}"
    else:
        name = parent["run_key"][:KEY]
        there = Path(state_uri(base, name, case.root))
        if not there.is_dir():
            raise ValueError(
                f"it took over from training {name}, and neither the state that pinned it ({pinned.uri}) nor that training's ({there}) is there; "
                "bring one of them back, or replay that training first"
            )
        shutil.copytree(there, project / STATE / name)
        values["train"]["continue_from" if parent["kind"] == "continue" else "start_from"] = parent["run_key"]
        yield f"parent: training {name}, as it is today"
    edit.write(values, project / SETTINGS)


def _require_parent(case: Case, project: Path) -> None:
    described = json.loads((project / "models" / DESCRIPTION).read_text(encoding="utf-8"))
    found, expected = ((each or {}).get("digest", "none") for each in (described.get("parent"), case.lineage.parent_training))
    if found != expected:
        raise ValueError(
            f"{case.source.name}: what it took over has the digest {found[:DIGITS]} today, expected {expected[:DIGITS]}: it has trained on since, "
            "or was changed, so this says nothing about the weights"
        )


def _bring_data(case: Case, project: Path) -> Iterator[str]:
    is_judged = case.lineage.settings["train"].get("select") is not None  # by KID, in the reference's features
    needed = ("prepared", "reference") if is_judged else ("prepared",)
    try:
        for name in needed:
            _lay(case, f"data/{name}", project)
        yield "data: out of DVC"
    except MissingError as problem:
        yield f"data: made again, as {problem}"
        yield f"data: {_fetched(case, project)}"
        for stage in ("prepare", "reference")[: len(needed)]:
            _stage(stage, project)
    found, expected = read_manifest(project / "data" / "prepared").data_digest, case.lineage.data_digest
    if found != expected:
        raise ValueError(
            f"the data have the digest {found[:12]}, expected {expected[:12]}: {case.lineage.data.source} gives other data today"
        )


def _lay(case: Case, path: str, project: Path) -> None:
    """An out of DVC, whole or not at all.

    Raises:
        MissingError: it is not there.
    """
    outs = {path: md5 for stage in case.lineage.stages.values() for path, md5 in stage.outs.items()}
    if path not in outs:
        raise MissingError(f"dvc.lock had no {path}")
    try:
        case.objects.lay(outs[path], project / path)
    except MissingError:
        shutil.rmtree(project / path, ignore_errors=True)
        raise


def _fetched(case: Case, project: Path) -> str:
    try:
        _lay(case, "data/raw", project)
    except MissingError:
        _stage("fetch", project)
        return f"fetched from {case.lineage.data.source}"
    return "data/raw out of DVC"


def _stage(name: str, project: Path) -> None:
    keep = {key: value for key, value in os.environ.items() if not key.startswith(NOT_KEPT)}
    given = keep | {"PYTHONPATH": str(project), cached_outs.OFF: "0"}
    command = [sys.executable, "-P", "-m", f"pipeline.stages.{name}"]
    done = subprocess.run(command, cwd=project, env=given, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{name} failed with exit code {done.returncode}:\n{(done.stdout + done.stderr)[-TOLD:]}")
