"""The states of trainings below `train.state_uri`: what each is of, how far it came, and how it differs from the training that is asked for."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ganlib.storage import Storage, open_storage
from ganlib.training.state import SEAL, BundleStore
from pipeline.driver import lock
from pipeline.driver.lock import Holder
from pipeline.identity import Identity, code_of_settings
from pipeline.params import ROOT
from pipeline.state_address import state_uri
from pipeline.states import record
from pipeline.states.record import Record
from pipeline.tracking import outbox
from pipeline.tracking.training_run import flatten

NAME = re.compile(r"[0-9a-f]{16}")  # `state_address.state_uri`: nothing else below the address is a state
SIGNS = frozenset({record.NAME, outbox.NAME, lock.LOCK, lock.GUARD, "checkpoints"})  # one of which every state has
MOST_STATES, MOST_DIFFERENCES = 3, 6  # that the train stage tells; `python -m pipeline.states` has all


@dataclass(frozen=True, kw_only=True)
class State:
    """One state as it is found.

    Attributes:
        name: the first 16 digits of its run key.
        record: None where it has none that can be read.
        images_seen, is_over: of its newest whole checkpoint; the latter where `train.stop` ended it.
        active: its last sign of life, in seconds since 1970; 0 where it gave none.
        owes_mlflow: MLflow has not been told everything of it.
        holder: who runs it, as far as can be told from here.
    """

    name: str
    storage: Storage
    record: Record | None
    images_seen: int
    is_over: bool
    size_bytes: int
    active: float
    owes_mlflow: bool
    holder: Holder | None

    @property
    def total_images(self) -> int:
        """0 where nobody knows."""
        return int(self.record.settings["train"]["total_images"]) if self.record is not None else 0

    @property
    def is_finished(self) -> bool:
        return self.is_over or 0 < self.total_images <= self.images_seen

    @property
    def is_held(self) -> bool:
        """By a process that lives, or that may."""
        return self.holder is not None and self.holder.is_alive() is not False

    @property
    def progress(self) -> str:
        return f"{self.images_seen:,} of {self.total_images:,} images" if self.total_images else f"{self.images_seen:,} images"


def look(base: str, root: Path = ROOT, *, data_digest: str | None = None) -> list[State]:
    """Every state below `base` (`train.state_uri`), or those of one data set: the newest first."""
    return sorted(_look(base, root, data_digest), key=lambda state: (-state.active, state.name))


def _look(base: str, root: Path, data_digest: str | None) -> Iterator[State]:
    for name in open_storage(state_uri(base, "", root)).names(""):
        if NAME.fullmatch(name):
            storage = open_storage(state_uri(base, name, root))
            if data_digest is not None and ((found := record.read(storage)) is None or found.data_digest != data_digest):
                continue  # without measuring it
            if not SIGNS.isdisjoint(storage.names("")) and (size_bytes := storage.size_bytes("")):  # some stores keep empty folders
                yield _state(name, storage, size_bytes)


def _state(name: str, storage: Storage, size_bytes: int) -> State:
    found, waiting, holder = record.read(storage), outbox.read(storage), lock.holder(storage)
    newest = _newest(storage)
    began = datetime.fromisoformat(found.began).timestamp() if found is not None else 0.0
    return State(
        name=name,
        storage=storage,
        record=found,
        images_seen=int(newest.get("images_seen", 0)),
        is_over=bool(newest.get("is_over")),
        size_bytes=size_bytes,
        active=max(began, (waiting.ended or waiting.heartbeat) if waiting is not None else 0.0),
        owes_mlflow=waiting is not None and not waiting.delivered,
        holder=holder,
    )


def images_seen(storage: Storage) -> int:
    """Of the newest whole checkpoint, which is not verified; 0 without one."""
    return int(_newest(storage).get("images_seen", 0))


def _newest(storage: Storage) -> dict[str, Any]:
    """Numbers of the newest whole checkpoint, not verified; {} without one."""
    store = BundleStore(storage, keep=1)
    for step in reversed(store.steps()):
        if SEAL in storage.names(store.name(step)):
            try:
                numbers = json.loads(storage.read(f"{store.name(step)}/state.json"))
                return {"images_seen": int(numbers["images_seen"]), "is_over": numbers.get("is_over", False)}
            except (FileNotFoundError, ValueError, KeyError, TypeError):  # damaged
                continue
    return {}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What makes two trainings two.

    Attributes:
        settings: (key, value then, value now); None where it is not set.
        code: definitions that read differently now, of those that the training of then runs.
    """

    then: Record
    settings: list[tuple[str, Any, Any]]
    code: list[str]
    has_same_data: bool
    has_same_parent: bool

    @classmethod
    def between(cls, then: Record, now: Identity, root: Path = ROOT) -> "Difference":
        """A setting that names another loss makes other code count: so the code of then is compared with today's for the settings of then."""
        code = now.code
        if then.settings != now.settings:
            with suppress(ValueError):  # settings that today's code does not take: what it has for today's tells enough
                code = code_of_settings(then.settings, root)
        return cls(
            then=then,
            settings=list(_changed(flatten(then.settings), flatten(now.settings))),
            code=[
                f"{part} {'is new' if old is None else 'is gone' if new is None else 'changed'}"
                for part, old, new in _changed(then.code, code)
            ],
            has_same_data=then.data_digest == now.data_digest,
            has_same_parent=then.parent == (None if now.parent is None else dict(now.parent)),
        )

    def lines(self) -> list[str]:
        """`optim.discriminator.lr: 0.0002 -> 0.0001`, `code: ganlib.losses:Hinge changed`."""
        lines = [f"{key}: {_text(old)} -> {_text(new)}" for key, old, new in self.settings]
        lines += [] if self.has_same_data else ["data: others now"]
        lines += [] if self.has_same_parent else ["what it takes over from another training: something else now"]
        return lines + [f"code: {text}" for text in self.code]

    def way_back(self) -> str:
        """What leads to the training of then."""
        commit, dash, _ = self.then.git_commit.partition("-")
        steps = []
        if self.code and commit == "unknown":
            steps.append("the code it was trained with, whose commit is not known")
        elif self.code:
            steps.append(f"git checkout {commit}" + (" with the changes that were not committed then" if dash else ""))
        if len(self.settings) > MOST_DIFFERENCES:
            steps.append(f"{len(self.settings)} settings in params.yaml (python -m pipeline.states show {self.then.run_key[:16]})")
        elif self.settings:
            steps.append("in params.yaml " + ", ".join(f"{key}: {_text(old)}" for key, old, _ in self.settings))
        if not self.has_same_parent:
            parent = self.then.parent
            key = (
                f"train.{parent['kind']}_from as `asked` in its parent.json" if parent else "train.continue_from and train.start_from: null"
            )
            steps.append(f"in params.yaml {key}")
        if not self.has_same_data:
            steps.append(f"the data of then ({self.then.data_source}, digest {self.then.data_digest[:12]})")
        return "; ".join([*steps, "dvc repro"])


def told(base: str, now: Identity, root: Path = ROOT) -> list[str]:
    """What the train stage says of the other states before it begins a new one: the unfinished ones of the same data, and how to go back to one."""
    try:
        others = [state for state in look(base, root, data_digest=now.data_digest) if state.name != now.key[:16]]
    except OSError as problem:  # of a neighbour's state: no reason not to begin
        return [f"warning: other states below {base} cannot be looked at: {problem}"]
    unfinished = [state for state in others if not state.is_finished]
    lines = []
    for state in unfinished[:MOST_STATES]:
        assert state.record is not None
        held = f", held by {state.holder}" if state.is_held else ""
        lines.append(f"  {state.name}  {state.progress}, {age(state.active)}, {size(state.size_bytes)}{held}")
        difference = Difference.between(state.record, now, root)
        changed = difference.lines()
        lines += [f"    {line}" for line in changed[:MOST_DIFFERENCES]]
        if len(changed) > MOST_DIFFERENCES:
            lines.append(f"    and {len(changed) - MOST_DIFFERENCES} more: python -m pipeline.states show {state.name}")
        lines.append(f"    to go on with it: {difference.way_back()}")
    if not lines:
        return []
    beside = [f"{len(unfinished) - MOST_STATES} more unfinished"] if len(unfinished) > MOST_STATES else []
    finished = len(others) - len(unfinished)
    beside += [f"{finished} finished"] if finished else []
    end = [f"  ({' and '.join(beside)}: python -m pipeline.states list)"] if beside else []
    return [f"this training ({now.key[:16]}) is new; unfinished ones of the same data are kept:", *lines, *end]


def size(size_bytes: int) -> str:
    """`310 MB`: powers of 1000, two or three digits."""
    value, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if value < 9.95 and unit != "B" else f"{value:.0f} {unit}"


def age(when: float, now: float | None = None) -> str:
    """`3 hours ago`; `at an unknown time` for 0."""
    if not when:
        return "at an unknown time"
    seconds = max(0.0, (time.time() if now is None else now) - when)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if (count := int(seconds // length)) >= 1:
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"


def _changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(key, then, now) of what differs, None for what is not there."""
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key) or (key in then) != (key in now):
            yield key, then.get(key), now.get(key)


def _text(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value
