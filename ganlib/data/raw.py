"""What `data/raw` looks like to whoever reads it: rows of undecoded images behind one protocol, described by `source.json`."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from ganlib.files import sha256_file, write_json

MAX_CLASSES = 100_000  # more is a column of ids, not of classes


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRecord:
    """One image as it arrived."""

    name: str  # what a message calls it: a path, or file and row
    image: bytes | np.ndarray | None  # an encoded file, or numbers [H, W] or [H, W, C]; None where the source has a null
    label: int | None
    split: str | None = None  # train, val or test, where the source says so
    others: Mapping[str, bytes | None] = field(default_factory=dict)  # further columns, encoded


class RawImages(Protocol):
    """Random access to the rows of `data/raw`; picklable and light, so that any process can read any range."""

    @property
    def class_names(self) -> tuple[str, ...] | None: ...  # None: the source has no labels

    @property
    def is_encoded(self) -> bool: ...  # rows are image files, not arrays

    def __len__(self) -> int: ...

    def sizes_bytes(self) -> np.ndarray: ...  # [n] int64, stored bytes of each row

    def given_splits(self) -> dict[str | None, int]: ...  # rows of each split that the source gave, None for those without

    def name(self, row: int) -> str: ...

    def read(self, start: int, stop: int) -> Iterator[RawRecord]: ...  # rows start..stop-1


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a source has to say about the files it wrote."""

    layout: Literal["idx", "pack"]
    class_names: tuple[str, ...] | None
    ignored_files: tuple[str, ...] = ()  # not images, left out
    notes: tuple[str, ...] = ()  # what was decided about folders and files, and the key that decides otherwise
    columns: tuple[str, ...] = ()  # further columns that it brought, of those in data.columns


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What was read from an object store.

    Attributes:
        sha256: over name and SHA-256 of every object, in the order of the names: another one where anything is another.
    """

    uri: str
    num_files: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """`source.json`: where the bytes came from."""

    source: str
    layout: Literal["idx", "pack"]
    class_names: tuple[str, ...] | None
    ignored_count: int
    ignored_examples: tuple[str, ...]  # the first 20
    notes: tuple[str, ...]
    num_files: int
    size_bytes: int
    stored: Stored | None = None  # where they came from an object store


def write_source(raw: Path, source: str, fetched: Fetched, stored: Stored | None = None) -> SourceInfo:
    """Describe the files of `raw` in `source.json`, each with its size and SHA-256, and what of a store they were made of."""
    files = [
        {"name": path.name, "size_bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(raw.iterdir())
        if path.name != "source.json"
    ]
    write_json(
        raw / "source.json",
        {
            "source": source,
            "layout": fetched.layout,
            "class_names": None if fetched.class_names is None else list(fetched.class_names),
            "ignored_files": {"count": len(fetched.ignored_files), "first": list(fetched.ignored_files[:20])},
            "notes": list(fetched.notes),
            "files": files,
            **({} if stored is None else {"stored": asdict(stored)}),
        },
    )
    return read_source(raw)


def read_source(raw: Path) -> SourceInfo:
    """`source.json` of a fetched folder.

    Raises:
        ValueError: it is missing or damaged, or a file it lists is missing or has another size; names the stage to rerun.
    """
    try:
        values = json.loads((raw / "source.json").read_text(encoding="utf-8"))
        names = values["class_names"]
        info = SourceInfo(
            source=values["source"],
            layout=values["layout"],
            class_names=None if names is None else tuple(names),
            ignored_count=values["ignored_files"]["count"],
            ignored_examples=tuple(values["ignored_files"]["first"]),
            notes=tuple(values["notes"]),
            num_files=len(values["files"]),
            size_bytes=sum(file["size_bytes"] for file in values["files"]),
            stored=Stored(**values["stored"]) if "stored" in values else None,
        )
        sizes = {file["name"]: file["size_bytes"] for file in values["files"]}
    except FileNotFoundError:
        raise ValueError(f"{raw / 'source.json'} does not exist; run the fetch stage first (dvc repro fetch)") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{raw / 'source.json'} is damaged ({error!r}); rerun the fetch stage (dvc repro --force fetch)") from None
    for name, size_bytes in sizes.items():
        found = (raw / name).stat().st_size if (raw / name).exists() else None
        if found != size_bytes:
            state = "is missing" if found is None else f"has {found:,} bytes, expected {size_bytes:,}"
            raise ValueError(f"{raw / name} {state}; rerun the fetch stage (dvc repro --force fetch)")
    return info


def numbered_classes(labels: np.ndarray, *, where: str) -> tuple[str, ...]:
    """Names "0", "1", ... up to the largest of `labels` ([n] integers), for labels that came without names.

    Raises:
        ValueError: no labels, negative ones, or so many classes that the column cannot be one of classes.
    """
    if labels.size == 0:
        raise ValueError(f"{where}: there are no labels")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= MAX_CLASSES:
        raise ValueError(f"{where}: labels run from {low} to {high}, expected class numbers from 0 to at most {MAX_CLASSES - 1:,}")
    return tuple(str(number) for number in range(high + 1))
