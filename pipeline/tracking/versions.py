"""A version of the MLflow registry as the files a training can start from."""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ganlib.files import sha256_file
from ganlib.redact import redacted
from pipeline.params import ROOT
from pipeline.tracking.settings import TrackingConfig
from pipeline.tracking.store import Store, answering, open_store

DESCRIPTION = "generator.json"
WEIGHTS = ".weights_sha256"
FOLDER = "generator"  # of the run's artifacts: where `registration` puts the files of a version
SETTING = "train.start_from"  # the key of params.yaml that names a version, unless somebody else does
EVALUATION = "evaluation/evaluation.json"  # where `tracking.evaluation` puts it
# beside the model of a version: `models:/NAME/VERSION/evaluation.json`
MEASURED, PROMOTION, LINEAGE = "evaluation.json", "promotion.json", "lineage.json"
BESIDE = frozenset({MEASURED, PROMOTION, LINEAGE, "registered_model_meta"})  # the last is MLflow's, of whoever downloads
_NAMED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")


def weights_tag(network: str) -> str:
    """The tag of a version that has the sha256 of a network's weights."""
    return f"{network}{WEIGHTS}"


def parent_tags(parent: Mapping[str, Any] | None) -> dict[str, str]:
    """What a run and a version say of the training that theirs took over from (`parent` of models/generator.json)."""
    if parent is None:
        return {}
    return {"gan.parent": parent.get("version", parent["run_key"]), "gan.parent_digest": parent["digest"]}


def files(models: Path) -> list[Path]:
    """What of models/ a version holds: the description and the weights of every network."""
    return [models / DESCRIPTION, *sorted(models.glob("*.safetensors"))]


def weights_tags(models: Path) -> dict[str, str]:
    """The tags of a version for the weights in models/."""
    return {weights_tag(path.stem): sha256_file(path) for path in files(models) if path.suffix == ".safetensors"}


def check(source: str, *, named: str = SETTING) -> None:
    """Raise ValueError unless `source` is `models:/NAME@ALIAS` or `models:/NAME/VERSION`; `named` is what the error calls it."""
    if _NAMED.fullmatch(source) is None:
        raise ValueError(f"{named}={source!r} names no version; expected models:/NAME@ALIAS or models:/NAME/VERSION")


def fetch(
    source: str, networks: Iterable[str] | None, folder: Path, tracking: TrackingConfig, root: Path = ROOT, *, named: str = SETTING
) -> str:
    """Bring generator.json and the weights of `networks` of a version into `folder`; the version, its alias resolved: `models:/NAME/VERSION`.

    Args:
        networks: None: the one that it was registered for (`network` of generator.json).

    Raises:
        ValueError: there is no such version, it lacks a network, or its files are not what was registered.
        tracking.Unanswered: the store does not answer.
    """
    check(source, named=named)
    store = open_store(tracking, root)
    with answering(store.uri):
        version = find(store, source, named=named)
        where = f"models:/{version.name}/{version.version}"
        stored = [tag.removesuffix(WEIGHTS) for tag in version.tags if tag.endswith(WEIGHTS)]
        asked = None if networks is None else list(networks)
        lacking = [network for network in asked or () if network not in stored] or ([] if stored else ["weights"])
        if lacking:
            raise ValueError(
                f"{named}={source}: {where} holds no {' and no '.join(lacking)}, so no training can start from it; run "
                "`dvc repro -f register` where its models/ is, which adds what a version lacks, or start from a run key or a folder like models/"
            )
        got = store.client.download_artifacts(version.run_id, f"{FOLDER}/{DESCRIPTION}", str(folder))
        facts = json.loads(Path(got).rename(folder / DESCRIPTION).read_text(encoding="utf-8"))
        asked = [facts.get("network", "generator")] if asked is None else asked
        for file in (f"{network}.safetensors" for network in asked):
            got = store.client.download_artifacts(version.run_id, f"{FOLDER}/{file}", str(folder))
            Path(got).rename(folder / file)
    for network in asked:
        found, expected = sha256_file(folder / f"{network}.safetensors"), version.tags[weights_tag(network)]
        if found != expected:
            raise ValueError(
                f"{where}: {network}.safetensors has sha256 {found[:12]}, registered was {expected[:12]}; the artifacts of run "
                f"{version.run_id} were changed after the registration: register it again, or take another version"
            )
    return where


def sha256_tag(file: str) -> str:
    """The tag of a version that has the sha256 of a file beside its model."""
    return f"{Path(file).stem}.sha256"


def keep(store: Store, name: str, version: int, file: str, value: Mapping[str, Any]) -> None:
    """Put a JSON file (MEASURED, PROMOTION or LINEAGE) beside the model of a version, unless the very same is there."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    found, sha256 = store.client.get_model_version(name, str(version)), hashlib.sha256(text.encode()).hexdigest()
    if found.tags.get(sha256_tag(file)) == sha256 and _kept(store, name, version, file) == text.encode():
        return
    with tempfile.TemporaryDirectory(prefix="register-") as folder:
        path = Path(folder) / file
        path.write_text(text, encoding="utf-8")
        store.client.log_model_artifact(found.source.removeprefix("models:/"), str(path))
    store.client.set_model_version_tag(name, str(version), sha256_tag(file), sha256)


def kept_evaluation(store: Store, name: str, version: int) -> dict[str, Any] | None:
    """The evaluation.json that `keep` put there; None where a version has none, as those that were registered before.

    Raises:
        ValueError: it was changed since.
    """
    return kept(store, name, version, MEASURED, "measure and register that generator again")


def kept(store: Store, name: str, version: int, file: str, todo: str) -> dict[str, Any] | None:
    """A file that `keep` put there; None where a version has none.

    Args:
        todo: what to do where it was changed.

    Raises:
        ValueError: it was changed since.
    """
    found = store.client.get_model_version(name, str(version))
    if (registered := found.tags.get(sha256_tag(file))) is None:
        return None
    text = _kept(store, name, version, file)
    if text is None or (got := hashlib.sha256(text).hexdigest()) != registered:
        state = "gone" if text is None else f"not the one that was registered (sha256 {got[:12]}, expected {registered[:12]})"
        raise ValueError(f"models:/{name}/{version}: its {file} is {state}; {todo}")
    value: dict[str, Any] = json.loads(text)
    return value


def served(store: Store, name: str, version: int) -> dict[str, str]:
    """The files of the model that `models:/NAME/VERSION` loads, path -> sha256; none where its artifacts are gone."""
    with tempfile.TemporaryDirectory(prefix="register-") as folder:
        try:
            got = Path(store.mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=folder))
        except (OSError, store.mlflow.exceptions.MlflowException) as error:
            require_missing(error)
            return {}
        paths = (path for path in sorted(got.rglob("*")) if path.is_file())
        return {path.relative_to(got).as_posix(): sha256_file(path) for path in paths if path.name not in BESIDE}


def tags(facts: Mapping[str, Any], truncation: float, models: Path) -> dict[str, str]:
    """The tags of a version that say what was trained, on what and by what.

    Args:
        facts: models/generator.json.
        models: its folder.
    """
    return {
        "git.commit": facts["git_commit"],
        **({"git.changed": ", ".join(facts["git_changed"])} if "git_changed" in facts else {}),
        "data.digest": facts["data_digest"],
        "params.digest": facts["params_digest"],
        **({"truncation": repr(truncation)} if truncation != 1.0 else {}),
        "gan.run_key": facts["run_key"],
        **parent_tags(facts.get("parent")),
        **weights_tags(models),
    }


def _kept(store: Store, name: str, version: int, file: str) -> bytes | None:
    with tempfile.TemporaryDirectory(prefix="register-") as folder:
        try:
            return Path(store.mlflow.artifacts.download_artifacts(f"models:/{name}/{version}/{file}", dst_path=folder)).read_bytes()
        except (OSError, store.mlflow.exceptions.MlflowException) as error:
            require_missing(error)
            return None


def require_missing(error: Exception) -> None:
    """Raise what does not say that a file is not there."""
    gone = isinstance(error, FileNotFoundError | NotADirectoryError) or "No such file" in str(error) or "404" in str(error)
    if not gone and getattr(error, "error_code", "") not in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
        raise error


def evaluation(version: str, folder: Path, tracking: TrackingConfig, root: Path = ROOT) -> None:
    """Bring the evaluation.json of a version, else that of its run, into `folder`, where there is one.

    Raises:
        ValueError: there is no such version.
        tracking.Unanswered: the store does not answer.
    """
    store = open_store(tracking, root)
    with answering(store.uri):
        found = find(store, version)
        if (kept := kept_evaluation(store, found.name, int(found.version))) is not None:
            (folder / Path(EVALUATION).name).write_text(json.dumps(kept), encoding="utf-8")
            return
        run_id = found.run_id
        if EVALUATION in {entry.path for entry in store.client.list_artifacts(run_id, str(Path(EVALUATION).parent))}:
            Path(store.client.download_artifacts(run_id, EVALUATION, str(folder))).replace(folder / Path(EVALUATION).name)


def find(store: Store, source: str, *, named: str = SETTING) -> Any:
    """MLflow's version that `source` names, which `check` has seen.

    Raises:
        ValueError: there is none; says what there is.
    """
    parts = _NAMED.fullmatch(source)
    assert parts is not None
    missing = store.mlflow.exceptions.MlflowException
    try:
        if parts["alias"] is not None:
            return store.client.get_model_version_by_alias(parts["name"], parts["alias"])
        return store.client.get_model_version(parts["name"], parts["version"])
    except missing as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"):
            raise
    try:
        registered = store.client.get_registered_model(parts["name"])
    except missing:
        names = sorted(model.name for model in store.client.search_registered_models())
        raise ValueError(
            f"{named}={source}: {redacted(store.uri)} has no model {parts['name']!r}; it has: {', '.join(names) or 'none'}"
        ) from None
    numbers = sorted(int(version.version) for version in store.client.search_model_versions(f"name = '{parts['name']}'"))
    aliases = ", ".join(f"@{alias} (version {number})" for alias, number in sorted(registered.aliases.items()))
    there = f"there are {', '.join(map(str, numbers)) or 'none'}; aliases: {aliases or 'none'}"
    raise ValueError(f"{named}={source}: {redacted(store.uri)} has no such version; {there}")
