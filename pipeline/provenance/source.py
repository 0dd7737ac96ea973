"""A registered version with all that the registry holds of it, fetched once."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.provenance.record import Lineage
from pipeline.tracking import versions
from pipeline.tracking.store import Store, answering, is_unseen

NO_LINEAGE = "run `dvc repro -f register` where its models/ is: what is registered there again gets its lineage"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A version.

    Attributes:
        name: `models:/NAME/VERSION`.
        files: of the run's artifacts (generator.json, weights), in a folder that goes when whoever opened it is done.
        facts: generator.json.
        served: path -> sha256 of the model that is loaded.
        run_tags: of its run; None where that is gone.
        tags_of: of another version, by `models:/NAME/VERSION`; None where it is gone.
    """

    name: str
    lineage: Lineage
    tags: Mapping[str, str]
    files: Mapping[str, Path]
    facts: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    served: Mapping[str, str]
    run_tags: Mapping[str, str] | None
    tags_of: Callable[[str], Mapping[str, str] | None] = field(repr=False)


def lineage_of(store: Store, source: str) -> tuple[str, Lineage]:
    """(`models:/NAME/VERSION`, what it says of itself).

    Raises:
        ValueError: there is no such version, it has no lineage, or that was changed.
    """
    versions.check(source, named="version")
    version = versions.find(store, source, named="version")
    where = f"models:/{version.name}/{version.version}"
    told = versions.kept(store, version.name, int(version.version), versions.LINEAGE, NO_LINEAGE)
    if told is None:
        raise ValueError(f"{where} has no {versions.LINEAGE}: it was registered before lineage was written down; {NO_LINEAGE}")
    try:
        return where, Lineage.model_validate_json(json.dumps(told))
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: its {versions.LINEAGE} is of another version of this program: {key}: {first['msg']}") from None


def fetch(store: Store, source: str, folder: Path) -> Source:
    """The version with its files in `folder`.

    Raises:
        ValueError: as `lineage_of`; its description cannot be read.
    """
    where, lineage = lineage_of(store, source)
    version = versions.find(store, where, named="version")
    names = [versions.DESCRIPTION, *(f"{network}.safetensors" for network in lineage.weights)]
    files = {name: path for name in names if (path := _artifact(store, version.run_id, name, folder)) is not None}
    if versions.DESCRIPTION not in files:
        raise ValueError(f"{where}: the artifacts of run {version.run_id} hold no {versions.DESCRIPTION}; {NO_LINEAGE}")
    return Source(
        name=where,
        lineage=lineage,
        tags=dict(version.tags),
        files=files,
        facts=json.loads(files[versions.DESCRIPTION].read_text(encoding="utf-8")),
        evaluation=versions.kept_evaluation(store, version.name, int(version.version)) or {},
        served=versions.served(store, version.name, int(version.version)),
        run_tags=_run_tags(store, lineage.run_id),
        tags_of=partial(_tags_of, store),
    )


def _artifact(store: Store, run_id: str, name: str, folder: Path) -> Path | None:
    try:
        return Path(store.client.download_artifacts(run_id, f"{versions.FOLDER}/{name}", str(folder)))
    except (OSError, store.mlflow.exceptions.MlflowException) as error:
        versions.require_missing(error)
        return None


@contextmanager
def _unless_gone(store: Store) -> Iterator[None]:
    try:
        yield
    except store.mlflow.exceptions.MlflowException as error:
        if not is_unseen(error):
            raise


def _run_tags(store: Store, run_id: str | None) -> Mapping[str, str] | None:
    with _unless_gone(store):
        run = store.client.get_run(run_id)
        return dict(run.data.tags) if run.info.lifecycle_stage == "active" else None
    return None


def _tags_of(store: Store, name: str) -> Mapping[str, str] | None:
    model, _, number = name.removeprefix("models:/").rpartition("/")
    with answering(store.uri), _unless_gone(store):
        return dict(store.client.get_model_version(model, number).tags)
    return None
