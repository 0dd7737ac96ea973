"""Your own Parquet files in the layout of Hugging Face data sets."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ganlib.data.pack import PackWriter
from ganlib.data.raw import MAX_CLASSES, Fetched, numbered_classes
from ganlib.data.settings import DataConfig
from ganlib.data.sources import SOURCES
from ganlib.files import require_space

BATCH_ROWS = 32  # bounds memory: a row may be a large photograph


@SOURCES.register("parquet")
class Parquet:
    """Parquet files: an image column (struct {bytes, path} or encoded bytes) and, if data.label_column is set, integers or strings."""

    def fetch(self, config: DataConfig, raw: Path) -> Fetched:
        paths = _find(Path(config.path))
        for path in paths:
            _check(path, config)
        class_names = None if config.label_column is None else _class_names(paths, config.label_column)
        number = {name: index for index, name in enumerate(class_names or ())}
        require_space(raw, needed_bytes=sum(path.stat().st_size for path in paths))
        with PackWriter(raw) as pack:
            for path in paths:
                for row, (image, label) in enumerate(_rows(path, config)):
                    name, data = f"{path.name}#{row}", image
                    if isinstance(image, dict):
                        data = image["bytes"]
                        name += f" ({image['path']})" if image.get("path") else ""
                    pack.append(name, number[label] if isinstance(label, str) else label, data)
        if pack.num_rows == 0:
            raise ValueError(f"{config.path} holds {len(paths)} Parquet files without a row")
        return Fetched(layout="pack", class_names=class_names)


def _find(path: Path) -> list[Path]:
    paths = [path] if path.is_file() else sorted(path.rglob("*.parquet")) if path.is_dir() else []
    if not paths:
        raise ValueError(f"{path} is not a Parquet file and holds none (params.yaml: data.path)")
    return paths


def _check(path: Path, config: DataConfig) -> None:
    """Raise ValueError unless `path` can be opened and has the columns, of usable types."""
    schema = _open(path).schema_arrow
    for column, key in ((config.image_column, "image_column"), (config.label_column, "label_column")):
        if column is not None and column not in schema.names:
            hint = ", or null for none" if key == "label_column" else ""
            raise ValueError(f"{path} has no column {column!r}; it has: {', '.join(schema.names)} (params.yaml: data.{key}{hint})")
    kind = schema.field(config.image_column).type
    if not (_is_binary(kind) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)):
        raise ValueError(f"{path}: column {config.image_column!r} is {kind}, expected encoded bytes or a struct {{bytes, path}} of them")
    if config.label_column is not None:
        kind = schema.field(config.label_column).type
        if not (pa.types.is_integer(kind) or _is_text(kind)):
            raise ValueError(
                f"{path}: column {config.label_column!r} is {kind}, expected integers or strings (params.yaml: data.label_column)"
            )


def _open(path: Path) -> Any:
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a readable Parquet file: {error}") from None


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _rows(path: Path, config: DataConfig) -> Iterator[tuple[Any, int | str | None]]:
    columns = [config.image_column] + ([] if config.label_column is None else [config.label_column])
    for batch in _stream(path, columns, BATCH_ROWS):
        images = batch.column(config.image_column).to_pylist()
        labels = [None] * len(images) if config.label_column is None else batch.column(config.label_column).to_pylist()
        yield from zip(images, labels, strict=True)


def _stream(path: Path, columns: list[str], rows: int) -> Iterator[Any]:
    try:
        yield from _open(path).iter_batches(batch_size=rows, columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is a damaged Parquet file: {error}") from None


def _class_names(paths: list[Path], column: str) -> tuple[str, ...]:
    """Names from the files' Hugging Face metadata, else the sorted strings of the column, else its numbers."""
    schema = _open(paths[0]).schema_arrow
    if pa.types.is_integer(schema.field(column).type):
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        if features.get(column, {}).get("names"):
            return tuple(features[column]["names"])
    values: set[int | str] = set()
    for path in paths:
        for batch in _stream(path, [column], 1 << 16):
            values |= set(batch.column(column).unique().to_pylist()) - {None}
        if len(values) > MAX_CLASSES or len({type(value) for value in values}) > 1:
            raise ValueError(
                f"{path}: column {column!r} has {len(values):,} distinct values up to here, expected at most {MAX_CLASSES:,} classes "
                "of one type (params.yaml: data.label_column)"
            )
    if values and all(isinstance(value, str) for value in values):
        return tuple(sorted(str(value) for value in values))
    return numbered_classes(np.array(sorted(values), dtype=np.int64), where=f"column {column!r} of {paths[0].parent}")
