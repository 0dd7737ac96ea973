"""What the labels in Parquet files mean: one list of classes for all files, and the number of each label's class."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ganlib.data.names import natural_key, twins
from ganlib.data.raw import MAX_CLASSES, numbered_classes
from ganlib.data.sources.parquet_files import Files, open_file, stream
from ganlib.data.sources.parquet_images import is_text

NO_LABEL = -1  # what Hugging Face writes where labels are withheld; such a row counts as broken, as does null
ClassNumbers = Mapping[Any, int]  # a label as it stands in a file -> number of its class; empty: it is the number
STRINGS, NUMBERS, NAMED = "strings", "numbers without names", "numbers with names (ClassLabel)"


class Kind(NamedTuple):
    """What the labels of one file are; `names` of a ClassLabel: label i is class `names[i]`."""

    what: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Classes:
    """What the labels of all files mean.

    Attributes:
        numbers: of each file whose labels are not the numbers of the classes themselves.
        unlabelled: files that are left out, for the lack of labels.
    """

    names: tuple[str, ...] | None = None
    numbers: Mapping[Path, ClassNumbers] = field(default_factory=dict)
    unlabelled: frozenset[Path] = frozenset()
    notes: tuple[str, ...] = ()


def read_classes(files: Files, column: str, splits: Mapping[Path, str | None]) -> Classes:
    """What the labels of the files mean.

    Files whose metadata name their classes are joined by name: label 0 of one may be what label 1 of another is. Else the classes are the
    strings of the column, sorted as people count, or its numbers. A label of null or -1 is none: a val or test split without any other is left
    out.

    Raises:
        ValueError: files that mean different things by a label, no label at all; so many values that the column cannot be one of classes.
    """
    kinds = {path: kind for path in files.paths if (kind := _kind(path, column)) is not None}
    first = next(iter(kinds), None)
    for path, kind in kinds.items():
        if first is not None and kind.what != kinds[first].what:
            raise ValueError(
                f"column {column!r} holds {kinds[first].what} in {first}, but {kind.what} in {path}: nothing says which number is which name; "
                "write it alike in all files, or move the others away (params.yaml: data.path)"
            )
    values = _values(files.paths, column)
    if first is None or not any(values.values()):
        raise ValueError(
            f"column {column!r} of {files.folder} holds no label, only null or {NO_LABEL}; set data.label_column: null (params.yaml)"
        )
    notes, unlabelled = _without_labels(splits, values)
    what = kinds[first].what
    distinct: set[Any] = set().union(*values.values())
    if what == NUMBERS:
        names = numbered_classes(np.array(sorted(distinct)), where=f"column {column!r} of {files.folder}")
        return Classes(names=names, unlabelled=unlabelled, notes=notes)
    lists = {kind.names for kind in kinds.values()} if what == NAMED else {tuple(sorted(map(str, distinct), key=natural_key))}
    names = tuple(dict.fromkeys(name for kind in kinds.values() for name in kind.names)) if what == NAMED else next(iter(lists))
    if len(lists) > 1:
        notes += (f"the files list their classes differently: they were joined by name, {len(names):,} classes",)
    for group in twins(names):
        raise ValueError(
            f"column {column!r} of {files.folder}: the classes {' and '.join(map(ascii, group))} look like one name; write them alike"
        )
    number = {name: index for index, name in enumerate(names)}
    numbers: dict[Path, ClassNumbers] = {
        path: {label: number[name] for label, name in enumerate(kind.names)} if what == NAMED else number for path, kind in kinds.items()
    }
    return Classes(names=names, numbers=numbers, unlabelled=unlabelled, notes=notes)


def _without_labels(splits: Mapping[Path, str | None], values: Mapping[Path, set[Any]]) -> tuple[tuple[str, ...], frozenset[Path]]:
    """Files of a val or test split whose labels are withheld, as the tests of competitions have it; and the words that say so."""
    notes: list[str] = []
    unlabelled: set[Path] = set()
    for split in ("val", "test"):
        paths = [path for path, given in splits.items() if given == split]
        if count := sum(open_file(path).metadata.num_rows for path in paths if not any(values[one] for one in paths)):
            notes.append(
                f"{count:,} images of the {split} split have no label: they were left out, as if there were no {split} split "
                "(data.label_column: null takes all images, without labels)"
            )
            unlabelled |= set(paths)
    return tuple(notes), frozenset(unlabelled)


def _kind(path: Path, column: str) -> Kind | None:
    """What the labels of a file are; None where it has none at all."""
    file = open_file(path)
    schema = file.schema_arrow
    kind = schema.field(column).type
    if file.metadata.num_rows == 0 or pa.types.is_null(kind):
        return None
    if is_text(kind):
        return Kind(STRINGS)
    feature: Any = None
    with suppress(ValueError):  # not JSON: it names nothing
        feature = json.loads((schema.metadata or {}).get(b"huggingface", b"null"))
    for key in ("info", "features", column):
        feature = feature.get(key) if isinstance(feature, dict) else None
    names = feature.get("names") if isinstance(feature, dict) else None
    if not names:
        return Kind(NUMBERS)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(
            f"{path}: the huggingface metadata name the classes of column {column!r} {names!r:.200}, expected different strings"
        )
    return Kind(NAMED, tuple(names))


def _values(paths: list[Path], column: str) -> dict[Path, set[Any]]:
    """The different labels of each file."""
    values: dict[Path, set[Any]] = {path: set() for path in paths}
    distinct: set[Any] = set()
    for path in paths:
        for batch in stream(path, [column], 1 << 16):
            values[path] |= set(batch.column(column).unique().to_pylist()) - {None, NO_LABEL}
            distinct |= values[path]
            if len(distinct) > MAX_CLASSES:
                raise ValueError(
                    f"{path}: column {column!r} has more than {MAX_CLASSES:,} distinct values up to here, expected classes "
                    "(params.yaml: data.label_column)"
                )
    return values


def class_number(label: Any, known: ClassNumbers, *, num_classes: int) -> int | None:
    """Number of the class; one that no class has is left as it is, for `prepare` to refuse."""
    if label is not None and label not in known and known and 0 <= label < num_classes:  # only another file has a name for it
        raise ValueError(f"label {label}, but the metadata of this file name the classes 0 to {len(known) - 1} only")
    number: int | None = known.get(label, label)
    return number
