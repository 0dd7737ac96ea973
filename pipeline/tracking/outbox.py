"""`tracking.json`: what MLflow still has to be told of a training, beside the training's state, so that it outlives the process."""

import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ganlib.config import Section
from ganlib.redact import redacted
from ganlib.storage import Storage, open_storage
from pipeline.driver import lock
from pipeline.lineage import UNKNOWN
from pipeline.params import ROOT
from pipeline.state_address import state_uri
from pipeline.tracking.card import Card

NAME = "tracking.json"
STALE_SECONDS = 15 * 60.0  # a training that cannot be watched and has said nothing for so long is dead


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """What a run says of a training before its first loss."""

    run_key: str
    params: Mapping[str, Any]  # nested settings that determine the result
    tags: Mapping[str, str]  # settings that do not, commit, digests
    data_digest: str
    data_source: str
    interval_images: int = 1  # of the history's lines that the run gets
    files: tuple[Path, ...] = ()
    family: str | None = None  # for the run's name and description, as the next; without both it is called by its key
    total_images: int | None = None
    parent: Mapping[str, Any] | None = None  # what it took over, as models/generator.json tells it

    @property
    def card(self) -> Card | None:
        """How the run shows; None where too little is known."""
        if self.family is None or self.total_images is None:
            return None
        commit = self.tags.get("git.commit", UNKNOWN)
        return Card.of(family=self.family, source=self.data_source, images=self.total_images, run_key=self.run_key, git_commit=commit)


class Checkpoint(Section):
    """A candidate for export (`ganlib.selection`), scored.

    Attributes:
        folder: in the state.
        sha256: of its weights' file.
        score: kernel distance to the validation images; lower is better.
    """

    folder: str
    images_seen: int
    sha256: str
    score: float


class Outbox(Section):
    """The content of `tracking.json`. Losses, events and grids are not in it: they are in the state already.

    Attributes:
        attempt: new at every start of the training; the run has it as a tag.
        files: texts the run keeps, by name.
        name: of the run, for a person.
        checkpoints: kept ones, of a training that is finished.
        started, heartbeat, ended: seconds since 1970.
        status: how it ended; None while it runs, and for ever where it died.
        delivered: the run has everything, its status too.
    """

    attempt: str
    run_key: str
    params: dict[str, Any]
    tags: dict[str, str]
    data_digest: str
    data_source: str
    interval_images: int = 1
    files: dict[str, str]
    name: str | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    started: float
    heartbeat: float
    ended: float | None = None
    status: Literal["FINISHED", "FAILED", "KILLED"] | None = None
    delivered: bool = False

    @classmethod
    def of(cls, facts: TrainingFacts) -> "Outbox":
        """The outbox of an attempt that begins now."""
        now, card = time.time(), facts.card
        own = {} if card is None else card.tags
        return cls(
            attempt=uuid.uuid4().hex,
            run_key=facts.run_key,
            params=dict(facts.params),
            tags={name: redacted(value) for name, value in {**own, **facts.tags}.items()},
            data_digest=facts.data_digest,
            data_source=facts.data_source,
            interval_images=facts.interval_images,
            files={path.name: redacted(path.read_text(encoding="utf-8", errors="replace")) for path in facts.files},
            name=None if card is None else card.name,
            started=now,
            heartbeat=now,
        )

    def write(self, storage: Storage) -> None:
        storage.write(NAME, self.model_dump_json(indent=1).encode())

    def is_over(self, storage: Storage) -> bool:
        """Whether nobody runs this training any more, as far as can be told from here."""
        holder = lock.holder(storage)
        is_alive = False if holder is None else holder.is_alive()
        return not is_alive if is_alive is not None else time.time() - self.heartbeat > STALE_SECONDS


def read(storage: Storage) -> Outbox | None:
    """The outbox in a state; None where there is none, or none that can be read."""
    try:
        return Outbox.model_validate_json(storage.read(NAME))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def states(base: str, root: Path = ROOT) -> Iterator[tuple[Storage, Outbox]]:
    """Every state below `base` (`train.state_uri`) that has an outbox."""
    for name in open_storage(state_uri(base, "", root)).names(""):
        storage = open_storage(state_uri(base, name, root))
        if (outbox := read(storage)) is not None:
            yield storage, outbox


def pending(base: str, root: Path = ROOT) -> list[tuple[Storage, Outbox]]:
    """Trainings that have ended, and of which MLflow does not know everything."""
    return [(storage, outbox) for storage, outbox in states(base, root) if not outbox.delivered and outbox.is_over(storage)]
