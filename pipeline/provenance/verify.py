"""`verify`: every hash of a version's lineage computed again, link by link, from the registry back to the data and the code.

A link that does not hold stops it: what comes after would be told of something else.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ganlib.files import sha256_file
from pipeline import lineage, params
from pipeline.identity import TrainingParams, training_settings
from pipeline.lineage import UNKNOWN
from pipeline.params import ParamsError
from pipeline.provenance import stored
from pipeline.provenance.case import DIGITS, BrokenError, Case, require_equal
from pipeline.provenance.objects import MissingError
from pipeline.tracking import model_registry, versions
from pipeline.tracking.deciding import CONTENT
from pipeline.tracking.store import RUN_KEY


def links() -> dict[str, Callable[[Case], str]]:
    """Name -> its check, in order: returns what was verified in words, raises BrokenError."""
    return {
        "weights": _weights,
        "served model": _served,
        "evaluation": _evaluation,
        "data digest": _data_digest,
        "stages": stored.stages,
        "DVC objects": stored.objects,
        "data set": stored.data_set,
        "raw data": stored.raw,
        "trained models": stored.models,
        "settings": _settings,
        "code": stored.code,
        "code of the stages": stored.code_of_stages,
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


def _weights(case: Case) -> str:
    of, todo = case.lineage, "the artifacts of the run were changed after the registration: register it again, or take another version"
    for network, expected in of.weights.items():
        got = case.source.files.get(f"{network}.safetensors")
        require_equal(f"sha256 of {network}.safetensors", got and sha256_file(got), expected, todo)
        require_equal(f"tag {versions.weights_tag(network)}", case.source.tags.get(versions.weights_tag(network)), expected, todo)
    got = case.source.files.get(versions.DESCRIPTION)
    require_equal(f"sha256 of {versions.DESCRIPTION}", got and sha256_file(got), of.description, todo)
    network = case.source.facts.get("network", "generator")
    require_equal("the sha256 in generator.json", case.source.facts["sha256"], of.weights.get(network), todo)
    return f"{', '.join(of.weights)} and their description are as registered"


def _served(case: Case) -> str:
    expected, got = case.lineage.served or {}, case.source.served
    todo = "what `models:/` loads is not what was registered: delete the version and run `dvc repro -f register`"
    for path in sorted({*expected, *got}):
        require_equal(f"sha256 of {path} of the logged model", got.get(path), expected.get(path), todo)
    return f"{len(expected)} files of the logged model are as registered"


def _evaluation(case: Case) -> str:
    of = case.lineage
    todo = "the evaluation was replaced without its lineage: run `dvc repro -f register`"
    require_equal("sha256 of evaluation.json", case.source.tags.get(versions.sha256_tag(versions.MEASURED)), of.evaluation, todo)
    measured = case.source.evaluation
    numbers = {key: measured.get(key) for key in of.metrics}
    require_equal("the numbers in evaluation.json", numbers, of.metrics, todo)
    network = case.source.facts.get("network", "generator")
    for key, expected in (("generator_sha256", of.weights.get(network)), ("data_digest", of.data_digest)):
        if key in measured.get("protocol", {}):
            require_equal(
                f"{key} of the protocol", measured["protocol"][key], expected, "it was measured of something else: run `dvc repro evaluate`"
            )
    return f"{len(of.metrics)} numbers, of these weights and these data"


def _data_digest(case: Case) -> str:
    expected, todo = case.lineage.data_digest, "the tags were changed by hand: set them back, or register it again"
    require_equal("data_digest of generator.json", case.source.facts["data_digest"], expected, todo)
    require_equal(f"tag {model_registry.DATA}", case.source.tags.get(model_registry.DATA), expected, todo)
    return f"{expected[:DIGITS]} in generator.json, tags and lineage"


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
    require_equal("the digest of the settings", found, of.params_digest, todo)
    return f"digest {found[:DIGITS]}; overrides: {', '.join(of.overrides) or 'none'}"


def _run(case: Case) -> str:
    tags, of = case.source.run_tags, case.lineage
    if tags is None:
        raise BrokenError(f"run {of.run_id} is gone; restore it (`mlflow gc` deletes for good), or register it again")
    require_equal(
        f"tag {RUN_KEY} of run {of.run_id}", tags.get(RUN_KEY), of.run_key, "the version names another training's run: register it again"
    )
    return f"{of.run_id} of training {of.run_key[:16]}"


def _parent_training(case: Case) -> str:
    parent = case.lineage.parent_training
    if parent is None:
        return "none, it began alone"
    require_equal("the parent in generator.json", case.source.facts.get("parent"), parent, "one of both was changed: register it again")
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
    require_equal(f"content of {champion.version}", tags.get(CONTENT), champion.content, "its tags were changed; look at its history")
    return champion.version
