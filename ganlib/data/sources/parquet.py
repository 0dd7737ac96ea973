"""Your own Parquet files in the layout of Hugging Face data sets."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from ganlib.data.pack import PackWriter
from ganlib.data.raw import Fetched
from ganlib.data.settings import DataConfig
from ganlib.data.sources import SOURCES, parquet_columns, parquet_images
from ganlib.data.sources.parquet_files import Files, file_beside, find_files, open_file, split_of, stream
from ganlib.data.sources.parquet_labels import Classes, class_number, read_classes
from ganlib.data.tree import printable
from ganlib.fields import IMAGE
from ganlib.files import require_space

BATCH_ROWS = 32  # bounds memory: a row may be a large photograph


class Row(NamedTuple):
    """One row of a file: an encoded image, the path beside it, the file that path led to where there were no bytes, and the class."""

    image: bytes | None
    path: str | None
    file: str | None
    label: int | None
    others: dict[str, bytes | None]


@SOURCES.register("parquet")
class Parquet:
    """Parquet files: an image column (encoded bytes, struct {bytes, path}, arrays) and, if data.label_column is set, integers or strings."""

    def fetch(self, config: DataConfig, raw: Path) -> Fetched:
        files = find_files(Path(config.path))
        for path in files.paths:
            _check(path, config)
        splits = {} if config.splits == "content" else {path: split_of(path.relative_to(files.folder)) for path in files.paths}
        classes = Classes() if config.label_column is None else read_classes(files, config.label_column, splits)
        notes = [*_split_notes(splits), *classes.notes]
        require_space(raw, needed_bytes=sum(path.stat().st_size for path in files.paths))
        used: set[str] = set()
        with PackWriter(raw, columns=tuple(config.columns)) as pack:
            for path in files.paths:
                if path in classes.unlabelled:
                    continue
                name = printable(path.relative_to(files.folder).as_posix())
                for index, row in enumerate(_rows(path, config, files, classes)):
                    shown = f"{name}#{index} ({row.path})" if row.path else f"{name}#{index}"
                    pack.append(shown, row.label, row.image, splits.get(path), row.others)
                    if row.file:
                        used.add(row.file)
        if pack.num_rows == 0:
            raise ValueError(f"{config.path} holds {len(files.paths)} Parquet files without a row")
        ignored = tuple(printable(name) for name in files.others if name not in used)
        return Fetched(layout="pack", class_names=classes.names, ignored_files=ignored, notes=tuple(notes), columns=tuple(config.columns))


def _check(path: Path, config: DataConfig) -> None:
    """Raise ValueError unless `path` can be opened and has the columns, of usable types."""
    schema = open_file(path).schema_arrow
    further = [(chosen.column or name, f"columns.{name}.column") for name, chosen in config.columns.items()]
    for column, key in ((config.image_column, "image_column"), (config.label_column, "label_column"), *further):
        if column is None:
            continue
        if column not in schema.names:
            hint = ", or null for none" if key == "label_column" else ""
            raise ValueError(f"{path} has no column {column!r}; it has: {', '.join(schema.names)} (params.yaml: data.{key}{hint})")
        if (times := schema.names.count(column)) > 1:
            raise ValueError(f"{path} has {times} columns {column!r}, expected one; rename the others (params.yaml: data.{key})")
    kinds = [(config.image_column, IMAGE, "image_column")]
    kinds += [(chosen.column or name, chosen.modality, f"columns.{name}") for name, chosen in config.columns.items()]
    for column, modality, key in kinds:
        try:
            parquet_columns.reader(schema, column, modality=modality)
        except ValueError as error:
            raise ValueError(f"{path}: {error} (params.yaml: data.{key})") from None
    if config.label_column is not None:
        kind = schema.field(config.label_column).type
        if not (pa.types.is_integer(kind) or pa.types.is_null(kind) or parquet_images.is_text(kind)):
            raise ValueError(
                f"{path}: column {config.label_column!r} is {kind}, expected integers or strings (params.yaml: data.label_column)"
            )


def _rows(path: Path, config: DataConfig, files: Files, classes: Classes) -> Iterator[Row]:
    further = {name: chosen.column or name for name, chosen in config.columns.items()}
    columns = [*dict.fromkeys((config.image_column, *([] if config.label_column is None else [config.label_column]), *further.values()))]
    schema = open_file(path).schema_arrow
    read = parquet_images.reader(schema, config.image_column)
    readers = {name: parquet_columns.reader(schema, column, modality=config.columns[name].modality) for name, column in further.items()}
    known, row = classes.numbers.get(path, {}), 0
    for batch in stream(path, columns, BATCH_ROWS):
        images = read(batch.column(config.image_column))
        others = {name: readers[name](batch.column(column)) for name, column in further.items()}
        labels = [None] * batch.num_rows if config.label_column is None else batch.column(config.label_column).to_pylist()
        for label in labels:
            try:
                image, beside = next(images)
                file = file_beside(path, beside, files) if image is None and beside else None
                named = {name: _whole(next(values), path, files) for name, values in others.items()}
                number = class_number(label, known, num_classes=len(classes.names or ()))
            except ValueError as error:
                raise ValueError(f"{path}, row {row}: {error}") from None
            yield Row(image if file is None else (files.folder / file).read_bytes(), beside, file, number, named)
            row += 1


def _whole(found: parquet_images.Found, path: Path, files: Files) -> bytes | None:
    """A value of a further column, read from beside the Parquet file where only its path is given."""
    value, beside = found
    return value if value is not None or not beside else (files.folder / file_beside(path, beside, files)).read_bytes()


def _split_notes(splits: Mapping[Path, str | None]) -> list[str]:
    counts = Counter(split for split in splits.values() if split)
    named = ", ".join(f"{split} {count:,}" for split, count in sorted(counts.items()))
    return [f"splits by the names of the files: {named} (data.splits: content splits all rows by their pixels)"] if named else []
