"""`training.json`: what a state is of, written into it when its training starts first, and never again.

A state is named by a hash, which tells nobody what was hashed. The record does: two trainings can be compared key by key, an old one can be found
again, and the commit that trained stays known whichever commit exports the result.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ganlib.config import Section
from ganlib.storage import Storage
from pipeline import lineage
from pipeline.identity import Identity
from pipeline.params import ROOT

NAME = "training.json"


class Record(Section):
    """The content of `training.json`.

    Attributes:
        settings, data_digest, code, parent: what the key was made from (`identity.Identity`).
        data_source: `data.source` then; the digest alone counts.
        git_commit: that trains, with `-dirty` where code or settings were not committed.
        git_changed: the files that were not.
        began: when, ISO 8601 in UTC.
    """

    run_key: str
    settings: dict[str, Any]
    data_digest: str
    code: dict[str, str]
    parent: dict[str, Any] | None = None
    data_source: str
    git_commit: str
    git_changed: tuple[str, ...] = ()
    began: str


def read(storage: Storage) -> Record | None:
    """The record in a state; None where there is none that can be read."""
    try:
        return Record.model_validate_json(storage.read(NAME))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def keep(storage: Storage, identity: Identity, *, data_source: str, root: Path = ROOT) -> Record:
    """The record of this training: the one in its state, else one of now, which is written. Whoever calls holds the state's lock.

    Raises:
        ValueError: the state is another training's.
        OSError: it cannot be written.
    """
    found = read(storage)
    if found is None:
        found = Record(
            run_key=identity.key,
            settings=identity.settings,
            data_digest=identity.data_digest,
            code=identity.code,
            parent=None if identity.parent is None else dict(identity.parent),
            data_source=data_source,
            git_commit=lineage.git_commit(root),
            git_changed=tuple(lineage.changed_files(root)[: lineage.MOST_CHANGED]),
            began=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        storage.write(NAME, found.model_dump_json(indent=1).encode())
    elif found.run_key != identity.key:
        raise ValueError(
            f"{storage.uri} is the state of training {found.run_key}, expected {identity.key}; "
            "remove it, or set another train.state_uri in params.yaml"
        )
    return found
