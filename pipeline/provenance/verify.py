"""`verify`: every hash of a version's lineage computed again, link by link, from the registry back to the data and the code.

A link that does not hold stops it: what comes after would be told of something else.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganlib.files import sha256_file
from pipeline import lineage, params
from pipeline.code_digest.names import PACKAGES
from pipeline.identity import TrainingParams, training_settings
from pipeline.lineage import UNKNOWN
from pipeline.params import ParamsError
from pipeline.provenance import repository
from pipeline.provenance.objects import MissingError, Objects, dvc_md5
from pipeline.provenance.record import SETTINGS, Lineage
from pipeline.provenance.source import Source
from pipeline.tracking import model_registry, versions
from pipeline.tracking.deciding import CONTENT
from pipeline.tracking.store import RUN_KEY

PREPARED, RAW = "data/prepared", "data/raw"
MADE_BY_OTHERS = frozenset({"register"})
DIGITS = 12  # of a hash, in words


class BrokenError(ValueError):
    """A link that does not hold."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A version, and where its links are looked up."""

    source: Source
    objects: Objects
    root: Path

    @property
    def lineage(self) -> Lineage:
        return self.source.lineage


def links() -> dict[str, Callable[[Case], str]]:
    """Name -> its check, in order: returns what was verified in words, raises BrokenError."""
    return {
        "weights": _weights,
        "served model": _served,
        "evaluation": _evaluation,
        "data digest": _data_digest,
        "stages": _stages,
        "DVC objects": _objects,
        "data set": _data_set,
        "raw data": _raw,
        "trained models": _models,
        "settings": _settings,
        "code": _code,
        "code of the stages": _code_of_stages,
        "run": _run,
        "parent training": _parent_training,
        "parent champion": _parent_champion,
    }


def verify(case: Case) -> Iterator[str]:
    """A line for each link that holds.

    Raises:
        BrokenError: names the first that does not.
    """
    for name, check in links().items():
        try:
            yield f"{name}: {check(case)}"
        except MissingError as problem:
            raise BrokenError(f"{name}: {problem}; `dvc fetch` brings what a remote has, `dvc repro` makes it anew") from None
        except BrokenError as problem:
            raise BrokenError(f"{name}: {problem}") from None


def _equal(what: str, got: object, expected: object, todo: str) -> None:
    if got != expected:
        raise BrokenError(f"{what} is {_short(got)}, expected {_short(expected)}; {todo}")


def _short(value: object) -> str:
    text = str(value)
    return text[:DIGITS] if len(text) in (32, 40, 64) and text.isalnum() else text


def _weights(case: Case) -> str:
    of, todo = case.lineage, "the artifacts of the run were changed after the registration: register it again, or take another version"
    for network, expected in of.weights.items():
        got = case.source.files.get(f"{network}.safetensors")
        _equal(f"sha256 of {network}.safetensors", got and sha256_file(got), expected, todo)
        _equal(f"tag {versions.weights_tag(network)}", case.source.tags.get(versions.weights_tag(network)), expected, todo)
    got = case.source.files.get(versions.DESCRIPTION)
    _equal(f"sha256 of {versions.DESCRIPTION}", got and sha256_file(got), of.description, todo)
    network = case.source.facts.get("network", "generator")
    _equal("the sha256 in generator.json", case.source.facts["sha256"], of.weights.get(network), todo)
    return f"{', '.join(of.weights)} and their description are as registered"


def _served(case: Case) -> str:
    expected, got = case.lineage.served or {}, case.source.served
    todo = "what `models:/` loads is not what was registered: delete the version and run `dvc repro -f register`"
    for path in sorted({*expected, *got}):
        _equal(f"sha256 of {path} of the logged model", got.get(path), expected.get(path), todo)
    return f"{len(expected)} files of the logged model are as registered"


def _evaluation(case: Case) -> str:
    of = case.lineage
    todo = "the evaluation was replaced without its lineage: run `dvc repro -f register`"
    _equal("sha256 of evaluation.json", case.source.tags.get(versions.sha256_tag(versions.MEASURED)), of.evaluation, todo)
    measured = case.source.evaluation
    numbers = {key: measured.get(key) for key in of.metrics}
    _equal("the numbers in evaluation.json", numbers, of.metrics, todo)
    network = case.source.facts.get("network", "generator")
    for key, expected in (("generator_sha256", of.weights.get(network)), ("data_digest", of.data_digest)):
        if key in measured.get("protocol", {}):
            _equal(
                f"{key} of the protocol", measured["protocol"][key], expected, "it was measured of something else: run `dvc repro evaluate`"
            )
    return f"{len(of.metrics)} numbers, of these weights and these data"


def _data_digest(case: Case) -> str:
    expected, todo = case.lineage.data_digest, "the tags were changed by hand: set them back, or register it again"
    _equal("data_digest of generator.json", case.source.facts["data_digest"], expected, todo)
    _equal(f"tag {model_registry.DATA}", case.source.tags.get(model_registry.DATA), expected, todo)
    return f"{expected[:DIGITS]} in generator.json, tags and lineage"


def _stages(case: Case) -> str:
    stages = case.lineage.stages
    if not stages:
        raise BrokenError(
            "no dvc.lock was there when it was registered, so nothing says of which inputs it was made; run `dvc repro register`"
        )
    outs = {path: (name, md5) for name, stage in stages.items() for path, md5 in stage.outs.items() if name not in MADE_BY_OTHERS}
    asked = 0
    for name, stage in stages.items():
        for path, md5 in stage.deps.items() if name not in MADE_BY_OTHERS else ():
            if path in outs:
                asked += 1
                made_by, expected = outs[path]
                todo = f"{name} ran before {made_by} ran last: run `dvc repro`, and look at the version that it registers"
                _equal(f"the {path} that {name} read", md5, expected, todo)
    return f"{len(stages)} stages of dvc.lock, each of what the one before it made ({asked} joints)"


def _objects(case: Case) -> str:
    count = 0
    for name, stage in case.lineage.stages.items():
        for path, md5 in stage.outs.items() if name not in MADE_BY_OTHERS else ():
            try:
                for _, each in case.objects.listed(md5).items():
                    case.objects.path(each)
                    count += 1
            except MissingError as problem:
                raise MissingError(f"{path} of {name}: {problem}") from None
    return f"{count:,} files of all outs are there, with these bytes"


def _out(case: Case, path: str) -> str | None:
    return next((stage.outs[path] for stage in case.lineage.stages.values() if path in stage.outs), None)


def _data_set(case: Case) -> str:
    md5 = _out(case, PREPARED)
    if md5 is None:
        raise BrokenError(f"dvc.lock has no out {PREPARED}; run `dvc repro`, and look at the version that it registers")
    files = case.objects.listed(md5)
    manifest = json.loads(case.objects.path(files["manifest.json"]).read_bytes())
    todo = "data/prepared is not the data set that it says: run `dvc repro -f prepare`"
    lines = []
    for split, facts in manifest["splits"].items():
        found = sha256_file(case.objects.path(files[f"{split}.arrow"]))
        _equal(f"sha256 of {split}.arrow", found, facts["sha256"], todo)
        lines.append(f"{split} {found}\n")
    ordered = sorted(lines, key=lambda line: ("train", "val", "test").index(line.split()[0]))
    digest = hashlib.sha256("".join(ordered).encode()).hexdigest()
    _equal("the digest of the splits' bytes", digest, case.lineage.data_digest, todo)
    return f"the bytes of {', '.join(manifest['splits'])} have the digest {digest[:DIGITS]}"


def _raw(case: Case) -> str:
    md5, files = _out(case, RAW), case.lineage.data.files
    if md5 is None or files is None:
        return "not recorded: data/raw was not there when it was registered"
    stored = case.objects.listed(md5)
    for name, expected in files.items():
        found = sha256_file(case.objects.path(stored[name])) if name in stored else None
        _equal(f"sha256 of {name} of {RAW}", found, expected, "data/raw was changed after it was fetched: run `dvc repro -f fetch`")
    return f"{len(files)} files of {case.lineage.data.source}"


def _models(case: Case) -> str:
    todo = "what was registered is not what this dvc.lock made: run `dvc repro -f register` where its models/ is"
    md5 = _out(case, "models")
    if md5 is None:
        raise BrokenError(f"dvc.lock has no out models; {todo}")
    stored = case.objects.listed(md5)
    for name, expected in (
        (versions.DESCRIPTION, case.lineage.description),
        *((f"{n}.safetensors", s) for n, s in case.lineage.weights.items()),
    ):
        found = sha256_file(case.objects.path(stored[name])) if name in stored else None
        _equal(f"sha256 of models/{name} in DVC", found, expected, todo)
    measured = _out(case, "reports/evaluation.json")
    if measured is not None:
        found = json.loads(case.objects.path(measured).read_bytes())
        if found != case.source.evaluation:
            raise BrokenError(f"reports/evaluation.json in DVC is not the version's evaluation.json; {todo}")
    return "DVC's models/ and evaluation.json are the registered ones"


def _settings(case: Case) -> str:
    of = case.lineage
    if of.params_digest == UNKNOWN:
        return "not recorded"
    sections = {name: values for name, values in of.settings.items() if name in TrainingParams.model_fields}
    if (sections.get("train") or {}).get("stop"):
        return "not computed: who judges the candidates is part of a training that stops by itself (train.stop)"
    try:
        found = lineage.digest(training_settings(params.validated(sections, TrainingParams)))
    except ParamsError as problem:
        return f"not computed: today's code does not take them ({str(problem).splitlines()[-1]}); check out {of.code.commit[:DIGITS]}"
    todo = f"the recorded settings are not the ones that trained, and cannot be replayed; see params.yaml of {of.code.commit[:DIGITS]}"
    _equal("the digest of the settings", found, of.params_digest, todo)
    return f"digest {found[:DIGITS]}; overrides: {', '.join(of.overrides) or 'none'}"


def _code(case: Case) -> str:
    code = case.lineage.code
    for commit, what in ((code.commit, "registered"), (code.trained_commit, "trained")):
        if not repository.has(commit, case.root):
            raise BrokenError(
                f"the commit that {what} it, {_short(commit)}, is not in this repository; fetch it (`git fetch --all`, `git fetch --unshallow`), or "
                "look in the clone that made it"
            )
    if lost := sorted({*code.changed} - {SETTINGS}):  # settings are recorded whole
        raise BrokenError(
            f"{', '.join(lost)} ran as no commit has it; commit what runs, then `dvc repro`: the version that it registers can be rebuilt"
        )
    committed = repository.files(code.commit, ["."], case.root)
    for path, file in code.files.items():
        if path == SETTINGS and not file.is_of_commit:
            continue
        stored = committed.get(path)
        found = None if stored is None else hashlib.sha256(stored).hexdigest()
        _equal(
            f"sha256 of {path} at {_short(code.commit)}",
            found,
            file.sha256,
            "one of both was changed; compare with another clone",
        )
    return f"{len(code.files)} files are those of {code.commit[:DIGITS]}"


def _code_of_stages(case: Case) -> str:
    """What DVC saw when a stage ran, which may be days before it was registered, and before anything was committed."""
    commit, count = case.lineage.code.commit, 0
    committed = repository.files(commit, [*PACKAGES], case.root)
    for name, stage in case.lineage.stages.items():
        for path, md5 in stage.deps.items() if name not in MADE_BY_OTHERS else ():
            if path.partition("/")[0] not in PACKAGES:
                continue
            todo = f"{name} ran it otherwise: commit what runs, then `dvc repro`: the version that it registers can be rebuilt"
            _equal(f"DVC's md5 of {path} at {_short(commit)}", dvc_md5(path, committed), md5, todo)
            count += 1
    return f"{count} files and folders that the stages ran are those of {_short(commit)}"


def _run(case: Case) -> str:
    tags, of = case.source.run_tags, case.lineage
    if tags is None:
        raise BrokenError(f"run {of.run_id} is gone; restore it (`mlflow gc` deletes for good), or register it again")
    _equal(
        f"tag {RUN_KEY} of run {of.run_id}", tags.get(RUN_KEY), of.run_key, "the version names another training's run: register it again"
    )
    return f"{of.run_id} of training {of.run_key[:16]}"


def _parent_training(case: Case) -> str:
    parent = case.lineage.parent_training
    if parent is None:
        return "none, it began alone"
    _equal("the parent in generator.json", case.source.facts.get("parent"), parent, "one of both was changed: register it again")
    if "version" not in parent:
        return f"training {parent['run_key'][:16]}, sha256 {parent['digest'][:DIGITS]}"
    if case.source.tags_of(parent["version"]) is None:
        raise BrokenError(f"{parent['version']} is gone from the registry; without it this training cannot begin again: restore it")
    return f"{parent['version']}, sha256 {parent['digest'][:DIGITS]}"


def _parent_champion(case: Case) -> str:
    champion = case.lineage.parent_champion
    if champion is None:
        return "none, nobody was champion"
    tags: Mapping[str, Any] | None = case.source.tags_of(champion.version)
    if tags is None:
        raise BrokenError(f"{champion.version} is gone from the registry, so the decision cannot be repeated; restore it, or decide anew")
    _equal(f"content of {champion.version}", tags.get(CONTENT), champion.content, "its tags were changed; look at its history")
    return champion.version
