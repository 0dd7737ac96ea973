"""Prepared data on disk: a `Table` a split, seen as what networks make and what they are told, and the manifest that pins the bytes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ganlib.data.ipc import BATCH_BYTES, LABEL, RERUN, TableWriter, fields_of_images
from ganlib.data.shards import SUFFIX
from ganlib.data.table import Table
from ganlib.fields import CLASS, IMAGE, Field
from ganlib.files import sha256_file, write_json

FORMAT = 1
SPLITS = ("train", "val", "test")


class ArrowImages(Table):
    """A split as a training sees it: its first column is what is learnt to be made, `label` is the class of it.

    Attributes:
        made: the field that is made.
        shape: of it; (C, H, W) of images.
        labels: [N] int64, or None for unlabelled data.
        class_names: a name for each class, or None for unlabelled data.
        num_classes: 0 for unlabelled data.
        class_counts: rows of each class; () for unlabelled data.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.made: Field = next(field for field in self.fields.values() if field.kind != CLASS)
        self.shape: tuple[int, int, int] = shape_of(self.made)
        told = self.fields.get(LABEL)
        self.class_names: list[str] | None = None if told is None or told.classes is None else list(told.classes)
        self.num_classes = len(self.class_names or ())
        self.labels: np.ndarray | None = None if self.class_names is None else self.numbers(LABEL)
        self.class_counts: tuple[int, ...] = ()
        if self.labels is not None:
            self.class_counts = tuple(np.bincount(self.labels, minlength=self.num_classes).tolist())

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """`read` of what is made: [n, C, H, W]."""
        return self.read(self.made.name, indices)

    def slice(self, start: int, stop: int) -> np.ndarray:
        """`rows` of what is made: [n, C, H, W]."""
        return self.rows(self.made.name, start, stop)


def split_path(folder: Path, split: str) -> Path:
    """Of a split in a prepared folder: the list of its shards where they are in a store, else its Arrow file, which need not exist."""
    stored = folder / f"{split}{SUFFIX}"
    return stored if stored.exists() else folder / f"{split}.arrow"


class ArrowWriter:
    """Writes a split of images with at most one class.

    Args:
        shape: (C, H, W).
        class_names: None for unlabelled data.
        batch_bytes: upper limit of a record batch.
    """

    def __init__(
        self, path: Path, *, shape: tuple[int, int, int], class_names: Sequence[str] | None, batch_bytes: int = BATCH_BYTES
    ) -> None:
        self._table = TableWriter(path, fields=fields_of_images(shape, class_names), batch_bytes=batch_bytes)

    @property
    def num_images(self) -> int:
        return self._table.num_rows

    def append(self, images: np.ndarray, labels: np.ndarray | None, chosen: np.ndarray | None = None) -> None:
        """Add `images` [n, C, H, W] uint8 with `labels` [n] int64, None for unlabelled data; only those at `chosen` ([k] integers), if given."""
        self._table.append({IMAGE: images, **({} if labels is None else {LABEL: labels})}, chosen)

    def __enter__(self) -> "ArrowWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._table.__exit__(kind, error, trace)


def shape_of(field: Field) -> tuple[int, int, int]:
    """Of a field that networks make, which lay everything out as [C, H, W].

    Raises:
        ValueError: another number of axes.
    """
    if len(field.shape) != 3:
        raise ValueError(f"column {field.name!r} holds {list(field.shape)}, and networks make [C, H, W]; {RERUN}")
    c, h, w = field.shape
    return c, h, w


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """One split in the manifest."""

    images: int
    sha256: str  # of the Arrow file, or of the list of its shards
    class_counts: tuple[int, ...] | None  # None for unlabelled data


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`manifest.json`: what the prepared folder holds."""

    shape: tuple[int, int, int]  # (C, H, W) of what networks make
    class_names: tuple[str, ...] | None
    fields: tuple[Field, ...]  # the columns of every split, what networks make first
    splits: Mapping[str, SplitInfo]  # train, val, test
    data_digest: str  # SHA-256 over the splits' file hashes: names the data set
    preparation: Mapping[str, Any]  # where the images came from and what was done to them; no part of the digest


def write_manifest(
    folder: Path,
    *,
    class_names: Sequence[str] | None,
    class_counts: Mapping[str, Sequence[int] | None],
    preparation: Mapping[str, Any] | None = None,
) -> Manifest:
    """Describe the three splits that lie in `folder`.

    Args:
        class_counts: images of each class, by split.
        preparation: JSON-able facts for whoever uses the data, or what was trained on them, elsewhere.
    """
    splits: dict[str, Any] = {}
    tables = {split: ArrowImages(split_path(folder, split)) for split in SPLITS}
    for split, table in tables.items():
        counts = class_counts[split]
        splits[split] = {"images": len(table), "sha256": sha256_file(table.path), "class_counts": None if counts is None else list(counts)}
    digest = hashlib.sha256("".join(f"{split} {splits[split]['sha256']}\n" for split in SPLITS).encode()).hexdigest()
    names = None if class_names is None else list(class_names)
    first = tables[SPLITS[0]]
    fields = [field.facts() for field in first.fields.values()]
    facts = {
        "format": FORMAT,
        "shape": list(first.shape),
        "class_names": names,
        "fields": fields,
        "splits": splits,
        "data_digest": digest,
    }
    write_json(folder / "manifest.json", facts | {"preparation": dict(preparation or {})})
    return read_manifest(folder)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared folder.

    Raises:
        ValueError: missing, damaged or of another format; names the stage to rerun.
    """
    path = Path(folder) / "manifest.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}, expected {FORMAT}")
        c, h, w = values["shape"]
        names = values["class_names"]
        splits = {
            split: SplitInfo(
                images=part["images"],
                sha256=part["sha256"],
                class_counts=None if part["class_counts"] is None else tuple(part["class_counts"]),
            )
            for split, part in values["splits"].items()
        }
        return Manifest(
            shape=(c, h, w),
            class_names=None if names is None else tuple(names),
            fields=tuple(map(Field.read, values["fields"])) if "fields" in values else fields_of_images((c, h, w), names),
            splits=splits,
            data_digest=values["data_digest"],
            preparation=dict(values["preparation"]),
        )
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; run the prepare stage first (dvc repro prepare)") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); {RERUN}") from None
