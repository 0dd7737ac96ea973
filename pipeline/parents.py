"""`train.continue_from` and `train.start_from`: what they name is found, checked, and copied into the training's own state, before any worker starts.

The copy (`parent/` in the state) has a record of what it is. A training that has begun is found again by it and never looks at its parent again: the
parent may train on, an alias may move, a folder or a registry may go, and the key, and with it the result, stays.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ganlib import tasks
from ganlib.config import Section
from ganlib.files import sha256_file
from ganlib.models import ImageSpec
from ganlib.storage import Storage, open_storage
from ganlib.train_settings import is_key
from ganlib.training import parent
from ganlib.training.parent import FOLDER, Parent
from ganlib.training.state import SEAL, Bundle, BundleError, BundleStore, bundle_files, sealed
from pipeline import continuing
from pipeline.generator import weights_file
from pipeline.identity import TrainingParams
from pipeline.params import ROOT
from pipeline.state_address import state_uri
from pipeline.states import record as records
from pipeline.tracking import versions

RECORD = "parent.json"


class ParentRecord(Section):
    """What a training took over.

    Attributes:
        asked: what params.yaml had.
        training: key of the training that takes it, without it: settings, data and code (`identity.identity`).
        run_key: of the training it comes from.
        version: of the registry, `models:/NAME/VERSION`; None where it comes from a state or a folder.
        step, images_seen: of its bundle; a version or a folder knows the images alone.
        digest: sha256 of what is taken.
    """

    kind: Literal["continue", "start"]
    asked: str
    training: str
    run_key: str
    version: str | None = None
    step: int | None = None
    images_seen: int
    digest: str

    @property
    def identity(self) -> dict[str, Any]:
        """What the child's key depends on: the content, wherever it came from."""
        return {"kind": self.kind, "digest": self.digest}

    @property
    def lineage(self) -> dict[str, Any]:
        """What models/generator.json says of it."""
        return self.model_dump(mode="json", exclude={"asked", "training"}, exclude_none=True)

    @property
    def tags(self) -> dict[str, str]:
        """What the MLflow run says of it."""
        return versions.parent_tags(self.lineage)


@dataclass(frozen=True, kw_only=True)
class Inheritance:
    """What a training takes over.

    Attributes:
        files: to be pinned; None where the training has begun and has them.
        lines: for a person.
    """

    record: ParentRecord
    files: Mapping[str, bytes] | None
    lines: Sequence[str] = field(default=())

    @property
    def spec(self) -> Parent:
        return Parent(kind=self.record.kind)

    def pin(self, storage: Storage) -> None:
        """Copy it into the state of the training that takes it, whole or not at all."""
        if SEAL not in storage.names(FOLDER):
            assert self.files is not None
            storage.write_folder(FOLDER, sealed({**self.files, RECORD: self.record.model_dump_json(indent=1).encode()}))


def resolve(config: TrainingParams, key: str, *, image: ImageSpec, data_digest: str, root: Path = ROOT) -> Inheritance | None:
    """What `config` says is taken over; None where it says nothing.

    Args:
        key: of the training without its parent (`identity.identity`).
        image: of the prepared data.

    Raises:
        ValueError: it is not there, it is not enough, or the training cannot go on from it under these settings.
        OSError: a store does not answer.
    """
    train = config.train
    continuing.check_start(train)
    asked = train.continue_from or train.start_from
    if asked is None:
        return None
    kind: Literal["continue", "start"] = "continue" if train.continue_from is not None else "start"
    pinned = _pinned(kind, asked, key, train.state_uri, root)
    if pinned is not None:
        return Inheritance(record=pinned, files=None, lines=[f"parent: {_named(pinned)}, as it was when this training began"])
    if kind == "continue":
        return _continued(config, asked, key, image, data_digest, root)
    return _started(config, asked, key, image, root)


def _named(record: ParentRecord) -> str:
    step = f", step {record.step}" if record.step is not None else ""
    return f"{record.version or 'training ' + record.run_key[:16]}{step}, {record.images_seen:,} images, sha256 {record.digest[:12]}"


def _states(base: str, root: Path) -> Iterator[tuple[str, Storage]]:
    for name in open_storage(state_uri(base, "", root)).names(""):
        if is_key(name):
            yield name, open_storage(state_uri(base, name, root))


def _pinned(kind: str, asked: str, key: str, base: str, root: Path) -> ParentRecord | None:
    """The record of a training of this key that has begun with what `asked` names."""
    found = []
    for _, storage in _states(base, root):
        try:
            record = ParentRecord.model_validate_json(storage.read(f"{FOLDER}/{RECORD}"))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            continue
        is_same_key = is_key(asked) and is_key(record.asked) and record.run_key.startswith(asked)
        if record.kind == kind and record.training == key and (record.asked == asked or is_same_key) and SEAL in storage.names(FOLDER):
            found.append(record)
    if len({record.run_key for record in found}) > 1:
        raise ValueError(
            f"train.{_setting(kind)}={asked} is the beginning of more than one run key: {', '.join(sorted(record.run_key for record in found))}"
        )
    return min(found, key=lambda record: (record.step or 0, record.digest), default=None)


def _setting(kind: str) -> str:
    return "continue_from" if kind == "continue" else "start_from"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The state of another training at its newest bundle."""

    run_key: str
    settings: Mapping[str, Any]
    data_digest: str
    bundle: Bundle
    problems: list[str]


def trained(where: str, asked: str, base: str, root: Path) -> Trained:
    """The training whose key begins with `asked`, at its newest bundle; `where` is how an error names it.

    Raises:
        ValueError: there is none below `base` (`train.state_uri`), or more than one, or nothing of it can be used.
    """
    names = dict(_states(base, root))
    found = {name: storage for name, storage in names.items() if name.startswith(asked[:16])}
    read = {name: records.read(storage) for name, storage in found.items()}
    if silent := [name for name, record in read.items() if record is None]:
        raise ValueError(
            f"{where}: the state at {found[silent[0]].uri} does not say which training it is of ({records.NAME} cannot be read)"
        )
    told = {name: record for name, record in read.items() if record is not None and record.run_key.startswith(asked)}
    if not told:
        raise ValueError(
            f"{where}: no training of that key has its state at train.state_uri={base}; there are: {', '.join(names) or 'none'}"
        )
    if len(told) > 1:
        raise ValueError(f"{where} is the beginning of more than one run key: {', '.join(record.run_key for record in told.values())}")
    ((name, record),) = told.items()
    try:
        bundle, problems = BundleStore(found[name], keep=1).newest()
    except BundleError as error:
        raise ValueError(f"{where}: nothing of that training can be used; {str(error).rpartition(chr(10))[0]}") from None
    if bundle is None:
        raise ValueError(f"{where}: that training has no checkpoint yet ({found[name].uri})")
    return Trained(run_key=record.run_key, settings=record.settings, data_digest=record.data_digest, bundle=bundle, problems=problems)


def _continued(config: TrainingParams, asked: str, key: str, image: ImageSpec, data_digest: str, root: Path) -> Inheritance:
    found = trained(f"train.continue_from={asked}", asked, config.train.state_uri, root)
    bundle = found.bundle
    continuing.check(config, image, before=found.settings, data=(found.data_digest, data_digest), bundle=bundle)
    record = ParentRecord(
        kind="continue",
        asked=asked,
        training=key,
        run_key=found.run_key,
        step=bundle.numbers["step"],
        images_seen=bundle.images_seen,
        digest=parent.bundle_digest(bundle),
    )
    lines = [*(f"checkpoint refused, the one before is used: {line}" for line in found.problems), f"continues {_named(record)}"]
    return Inheritance(record=record, files=bundle_files(bundle.tensors, bundle.numbers, bundle.history), lines=lines)


def _started(config: TrainingParams, asked: str, key: str, image: ImageSpec, root: Path) -> Inheritance:
    networks = tasks.of(config.task).meta_networks(config.model, config.task, image, stage=0)
    facts: dict[str, Any]
    if is_key(asked):
        found = trained(f"train.start_from={asked}", asked, config.train.state_uri, root)
        weights = parent.weights_of(found.bundle)
        facts = {"run_key": found.run_key, "step": found.bundle.numbers["step"], "images_seen": found.bundle.images_seen}
    elif asked.startswith(continuing.REGISTRY):
        with tempfile.TemporaryDirectory(prefix="version-") as scratch:
            version = versions.fetch(asked, networks, Path(scratch), config.tracking, root)
            weights, facts = _read_folder(Path(scratch), list(networks), asked)
            facts |= {"version": version}
    else:
        weights, facts = _read_folder(root / asked, list(networks), asked)
    record = ParentRecord(kind="start", asked=asked, training=key, digest=parent.weights_digest(weights), **facts)
    fits = parent.fits(weights, networks)
    lines = [f"starts from {_named(record)}"]
    for network, fit in fits.items():
        lines.append(f"  {network}: {len(fit.taken)} of {len(fit.taken) + len(fit.fresh)} tensors taken")
        lines += [f"    fresh: {name} ({why})" for name, why in fit.fresh.items()]
        lines += [f"    left: {name}" for name in fit.left]
    if not any(weights[f"{network}.{name}"].ndim > 1 for network, fit in fits.items() for name in fit.taken):  # a bias fits anywhere
        problem = f"train.start_from={asked}: no layer fits these networks; set model as it was trained, or train without it"
        raise ValueError("\n".join([problem, *lines]))
    return Inheritance(record=record, files=parent.packed(weights), lines=lines)


def _read_folder(folder: Path, networks: Sequence[str], asked: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(`NETWORK.NAME` -> tensor, what generator.json knows of the training) of a folder like models/."""
    needed = ["generator.json", *(f"{network}.safetensors" for network in networks)]
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        what = f"has no {', no '.join(missing)}" if folder.is_dir() else "is no folder"
        raise ValueError(
            f"train.start_from={asked!r}: {folder} {what}; expected a folder like models/ ({', '.join(needed)}), models:/NAME@ALIAS, "
            "models:/NAME/VERSION, or a run key (8 to 64 hex digits)"
        )
    try:
        described = json.loads((folder / "generator.json").read_text())
        facts = {"run_key": described["run_key"], "images_seen": described["images_seen"]}
        expected = described["sha256"]
        weights = {
            f"{network}.{name}": value for network in networks for name, value in load_file(folder / f"{network}.safetensors").items()
        }
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"train.start_from={asked!r}: {folder} cannot be read: {error!r}") from None
    if sha256_file(folder / weights_file(described)) != expected:
        raise ValueError(
            f"train.start_from={asked!r}: {weights_file(described)} in {folder} is not the one that its generator.json describes"
        )
    return weights, facts
