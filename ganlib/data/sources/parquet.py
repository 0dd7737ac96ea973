"""Your own Parquet files in the layout of Hugging Face data sets."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ganlib.data.pack import PackWriter
from ganlib.data.raw import MAX_CLASSES, Fetched, numbered_classes
from ganlib.data.settings import DataConfig
from ganlib.data.sources import SOURCES, parquet_images
from ganlib.data.sources.image_folder import printable
from ganlib.files import require_space

BATCH_ROWS = 32  # bounds memory: a row may be a large photograph
NO_LABEL = -1  # what Hugging Face writes where labels are withheld; such a row is none of a labelled set, as is null: `prepare` refuses it
HIDDEN = (".", "_")  # .cache/, .huggingface/, _SUCCESS, _metadata: as Spark and Arrow have it

ClassNumbers = Mapping[Any, int]  # a label as it stands in a file -> number of its class; empty: it is the number


STRINGS, NUMBERS, NAMED = "strings", "numbers without names", "numbers with names (ClassLabel)"


class Kind(NamedTuple):
    """What the labels of one file are; `names` of a ClassLabel: label i is class `names[i]`."""

    what: str
    names: tuple[str, ...] = ()


class Row(NamedTuple):
    """One row of a file: an encoded image, the path beside it, the file that path led to where there were no bytes, and the class."""

    image: bytes | None
    path: str | None
    file: Path | None
    label: int | None


@SOURCES.register("parquet")
class Parquet:
    """Parquet files: an image column (encoded bytes, struct {bytes, path}, arrays) and, if data.label_column is set, integers or strings."""

    def fetch(self, config: DataConfig, raw: Path) -> Fetched:
        root = Path(config.path)
        folder = root if root.is_dir() else root.parent
        paths, others = find_files(root)
        for path in paths:
            _check(path, config)
        class_names, numbers = (None, {}) if config.label_column is None else _classes(paths, config.label_column, folder)
        require_space(raw, needed_bytes=sum(path.stat().st_size for path in paths))
        used: set[Path] = set()
        with PackWriter(raw) as pack:
            for path in paths:
                name = printable(path.relative_to(folder).as_posix())
                for index, row in enumerate(_rows(path, config, numbers.get(path, {}), num_classes=len(class_names or ()))):
                    pack.append(f"{name}#{index} ({row.path})" if row.path else f"{name}#{index}", row.label, row.image)
                    if row.file is not None:
                        used.add(row.file)
        if pack.num_rows == 0:
            raise ValueError(f"{config.path} holds {len(paths)} Parquet files without a row")
        ignored = tuple(printable(name) for name in others if folder / name not in used)
        return Fetched(layout="pack", class_names=class_names, ignored_files=ignored)


def find_files(root: Path) -> tuple[list[Path], list[str]]:
    """Parquet files at or below `root`; and what was left out, as sorted paths relative to it: other files, and what is hidden.

    A hidden folder counts once, with all it holds.

    Raises:
        ValueError: there is none.
    """
    if root.is_file():
        return [root], []
    paths: list[Path] = []
    others: list[str] = []
    for place, folders, files in os.walk(root):
        hidden = [name for name in folders if name.startswith(HIDDEN)]
        folders[:] = [name for name in folders if name not in hidden]
        for path in (Path(place, name) for name in (*hidden, *files)):
            if path.suffix.lower() == ".parquet" and not path.name.startswith(HIDDEN):
                paths.append(path)
            else:
                others.append(path.relative_to(root).as_posix())
    if not paths:
        found = f", but {len(others):,} other files, the first {printable(min(others))}" if others else ""
        raise ValueError(f"{root} is not a Parquet file and holds none{found} (params.yaml: data.path)")
    return sorted(paths), sorted(others)


def _check(path: Path, config: DataConfig) -> None:
    """Raise ValueError unless `path` can be opened and has the columns, of usable types."""
    schema = _open(path).schema_arrow
    for column, key in ((config.image_column, "image_column"), (config.label_column, "label_column")):
        if column is None:
            continue
        if column not in schema.names:
            hint = ", or null for none" if key == "label_column" else ""
            raise ValueError(f"{path} has no column {column!r}; it has: {', '.join(schema.names)} (params.yaml: data.{key}{hint})")
        if (times := schema.names.count(column)) > 1:
            raise ValueError(f"{path} has {times} columns {column!r}, expected one; rename the others (params.yaml: data.{key})")
    try:
        parquet_images.reader(schema, config.image_column)
    except ValueError as error:
        raise ValueError(f"{path}: {error} (params.yaml: data.image_column)") from None
    if config.label_column is not None:
        kind = schema.field(config.label_column).type
        if not (pa.types.is_integer(kind) or pa.types.is_null(kind) or parquet_images.is_text(kind)):
            raise ValueError(
                f"{path}: column {config.label_column!r} is {kind}, expected integers or strings (params.yaml: data.label_column)"
            )


def _open(path: Path) -> Any:
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a readable Parquet file: {error}") from None


def _rows(path: Path, config: DataConfig, known: ClassNumbers, *, num_classes: int) -> Iterator[Row]:
    columns = [config.image_column] + ([] if config.label_column is None else [config.label_column])
    read = parquet_images.reader(_open(path).schema_arrow, config.image_column)
    row = 0
    for batch in _stream(path, columns, BATCH_ROWS):
        images = read(batch.column(config.image_column))
        labels = [None] * batch.num_rows if config.label_column is None else batch.column(config.label_column).to_pylist()
        for label in labels:
            try:
                image, beside = next(images)
                file = parquet_images.file_beside(path, beside, root=Path(config.path)) if image is None and beside else None
                number = _class_number(label, known, num_classes=num_classes)
            except ValueError as error:
                raise ValueError(f"{path}, row {row}: {error}") from None
            yield Row(image if file is None else file.read_bytes(), beside, file, number)
            row += 1


def _stream(path: Path, columns: list[str], rows: int) -> Iterator[Any]:
    try:
        yield from _open(path).iter_batches(batch_size=rows, columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is a damaged Parquet file, or holds what pyarrow cannot read: {error}") from None


def _classes(paths: list[Path], column: str, folder: Path) -> tuple[tuple[str, ...], dict[Path, ClassNumbers]]:
    """Names of the classes, and for each file what its labels mean.

    Files whose metadata name their classes are joined by name: label 0 of one may be what label 1 of another is. Else the classes are the
    strings of the column, sorted, or its numbers. A label of null or -1 is none.

    Raises:
        ValueError: files that mean different things by a label; so many values that the column cannot be one of classes.
    """
    kinds = {path: kind for path in paths if (kind := _kind(path, column)) is not None}
    first = next(iter(kinds), None)
    for path, kind in kinds.items():
        if first is not None and kind.what != kinds[first].what:
            raise ValueError(
                f"column {column!r} holds {kinds[first].what} in {first}, but {kind.what} in {path}: nothing says which number is which name; "
                "write it alike in all files, or move the others away (params.yaml: data.path)"
            )
    what = None if first is None else kinds[first].what
    names: tuple[str, ...]
    if what == NAMED:
        names = tuple(dict.fromkeys(name for kind in kinds.values() for name in kind.names))
        number = {name: index for index, name in enumerate(names)}
        return names, {path: {label: number[name] for label, name in enumerate(kind.names)} for path, kind in kinds.items()}
    values = _values(paths, column) - {None, NO_LABEL}
    if not values:
        raise ValueError(
            f"column {column!r} of {folder} holds no label, only null or {NO_LABEL}; set data.label_column: null (params.yaml)"
        )
    if what == STRINGS:
        names = tuple(sorted(str(value) for value in values))
        number = {name: index for index, name in enumerate(names)}
        return names, dict.fromkeys(kinds, number)
    return numbered_classes(np.array(sorted(values)), where=f"column {column!r} of {folder}"), {}


def _kind(path: Path, column: str) -> Kind | None:
    """What the labels of a file are; None where it has none at all."""
    file = _open(path)
    schema = file.schema_arrow
    kind = schema.field(column).type
    if file.metadata.num_rows == 0 or pa.types.is_null(kind):
        return None
    if parquet_images.is_text(kind):
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


def _values(paths: list[Path], column: str) -> set[Any]:
    values: set[Any] = set()
    for path in paths:
        for batch in _stream(path, [column], 1 << 16):
            values |= set(batch.column(column).unique().to_pylist())
            if len(values) > MAX_CLASSES:
                raise ValueError(
                    f"{path}: column {column!r} has more than {MAX_CLASSES:,} distinct values up to here, expected classes "
                    "(params.yaml: data.label_column)"
                )
    return values


def _class_number(label: Any, known: ClassNumbers, *, num_classes: int) -> int | None:
    """Number of the class; one that no class has is left as it is, for `prepare` to refuse."""
    if label is not None and label not in known and known and 0 <= label < num_classes:  # only another file has a name for it
        raise ValueError(f"label {label}, but the metadata of this file name the classes 0 to {len(known) - 1} only")
    number: int | None = known.get(label, label)
    return number
