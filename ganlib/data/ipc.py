"""Columns of aligned rows in one Arrow IPC file, memory-mapped, and its writer: row i of every column belongs together.

A column of arrays is fixed_size_binary, the numbers of a row in C order; a column of classes is int64. Every record batch but the last has the same
number of rows, so row i is row `i % rows` of batch `i // rows`. There is no timestamp in it: the same rows give the same bytes.

The fields stand in the metadata of the schema. A table of one uint8 image [C, H, W], called `image`, and at most one class, `label`, has the
header that such files always had, and a `label` that is null throughout where there is no class: its bytes, and so the data's digest, are what
they were.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa

from ganlib.fields import CLASS, IMAGE, Field, class_field

IMAGES_FORMAT, TABLE_FORMAT = "ganlib-images-1", "ganlib-table-1"
LABEL = "label"
BATCH_BYTES = 64 << 20
RERUN = "rerun the prepare stage (dvc repro --force prepare)"


class Columns(Protocol):
    """Where the rows of a `Table` are."""

    @property
    def fields(self) -> Mapping[str, Field]:
        """By name, in the order of the columns."""
        ...

    @property
    def length(self) -> int:
        """Rows, N."""
        ...

    @property
    def classes(self) -> Mapping[str, np.ndarray]:
        """Columns of classes, [N] int64 each."""
        ...

    @property
    def is_far(self) -> bool:
        """Whether some rows are not on this machine."""
        ...

    def take(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Rows at `indices` ([n] integers within 0..N-1) of a column of arrays, copied: [n, numbers of a row]."""
        ...

    def part(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start..stop-1, which exist, of a column of arrays, copied: [stop - start, numbers of a row]."""
        ...

    def ahead(self, indices: np.ndarray) -> None:
        """These rows will be taken soon, in one call: bring them here meanwhile, where that takes time."""
        ...


class MappedColumns:
    """Columns of one file; nothing is copied until it is asked for.

    Raises:
        ValueError: the file is missing, truncated or of another format; names the stage to rerun.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._map = pa.memory_map(str(path))
            self._file = pa.ipc.open_file(self._map)
        except FileNotFoundError:
            raise ValueError(f"{path} does not exist; run the prepare stage first (dvc repro prepare)") from None
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} is truncated or not an Arrow file ({error}); {RERUN}") from None
        metadata = self._file.schema.metadata or {}
        found = metadata.get(b"format", b"none").decode()
        if found not in (IMAGES_FORMAT, TABLE_FORMAT):
            raise ValueError(f"{path} has format {found}, expected {IMAGES_FORMAT} or {TABLE_FORMAT}; {RERUN}")
        self.fields = {field.name: field for field in read_header(found, json.loads(metadata[b"header"]))}
        self._batches = [self._file.get_batch(index) for index in range(self._file.num_record_batches)]
        self._rows = self._batches[0].num_rows if self._batches else 1
        self.length = sum(batch.num_rows for batch in self._batches)
        self._views: dict[str, list[np.ndarray]] = {}  # of columns of arrays: [rows, numbers] a batch, not copied
        self.classes: dict[str, np.ndarray] = {}
        for name, field in self.fields.items():
            columns = [self._column(batch, name) for batch in self._batches]
            if field.kind == CLASS:
                numbers = [column.to_numpy() for column in columns]
                self.classes[name] = np.concatenate(numbers).astype(np.int64) if numbers else np.empty(0, np.int64)
            else:
                self._views[name] = [_view(column, field) for column in columns]

    def _column(self, batch: Any, name: str) -> Any:
        return batch.column(self._file.schema.get_field_index(name))

    def take(self, name: str, indices: np.ndarray) -> np.ndarray:
        views = self._views[name]
        if len(views) == 1:
            return views[0].take(indices, axis=0)
        field = self.fields[name]
        values = np.empty((len(indices), field.numbers), field.dtype)
        batches, rows = np.divmod(indices, self._rows)
        for position, (batch, row) in enumerate(zip(batches.tolist(), rows.tolist(), strict=True)):
            values[position] = views[batch][row]
        return values

    def part(self, name: str, start: int, stop: int) -> np.ndarray:
        field, views = self.fields[name], self._views[name]
        values = np.empty((stop - start, field.numbers), field.dtype)
        position = start
        while position < stop:
            batch, row = divmod(position, self._rows)
            part = views[batch][row : row + stop - position]
            values[position - start : position - start + len(part)] = part
            position += len(part)
        return values

    @property
    def is_far(self) -> bool:
        return False

    def ahead(self, indices: np.ndarray) -> None:
        """Nothing: the rows are here."""

    def offsets(self) -> dict[str, int]:
        """Where in the file the first byte of each column is, of a file with one record batch."""
        (batch,) = self._batches
        self._map.seek(0)
        start = self._map.read_buffer(1).address
        return {name: self._column(batch, name).buffers()[1].address - start for name in self.fields}


class TableWriter:
    """Writes a split; holds one record batch in memory.

    Args:
        fields: the columns in their order; a column of arrays at least.
        batch_bytes: upper limit of the arrays in a record batch.
    """

    def __init__(self, path: Path, *, fields: Sequence[Field], batch_bytes: int = BATCH_BYTES) -> None:
        self.num_rows = 0
        self.fields = tuple(fields)
        capacity = rows_within(batch_bytes, self.fields)
        self._held = {
            field.name: np.empty((capacity, *field.shape), field.dtype) for field in self.fields
        }  # pages are taken as they are filled
        self._capacity, self._filled = capacity, 0
        form, header = header_of(self.fields)
        columns = [(field.name, arrow_type(field)) for field in self.fields]
        if form == IMAGES_FORMAT and LABEL not in self._held:
            columns.append((LABEL, pa.int64()))
        self._schema = pa.schema(columns, metadata={"format": form, "header": json.dumps(header, sort_keys=True)})
        self._sink = pa.OSFile(str(path), "wb")
        self._file = pa.ipc.new_file(self._sink, self._schema)

    def append(self, columns: Mapping[str, np.ndarray], chosen: np.ndarray | None = None) -> None:
        """Add rows: name -> [n, *shape] of the field's dtype, for every field; only those at `chosen` ([k] integers), if given."""
        assert columns.keys() == self._held.keys(), (columns.keys(), self._held.keys())
        for field in self.fields:
            assert field.kind == CLASS or columns[field.name].dtype == field.dtype, (field.name, columns[field.name].dtype)
        indices = np.arange(len(next(iter(columns.values())))) if chosen is None else chosen
        done = 0
        while done < len(indices):
            part = indices[done : done + self._capacity - self._filled]
            place = slice(self._filled, self._filled + len(part))
            for name, held in self._held.items():
                np.take(columns[name], part, axis=0, out=held[place], mode="clip")  # which indices are not: it buffers in its other modes
            self._filled += len(part)
            done += len(part)
            if self._filled == self._capacity:
                self._flush()
        self.num_rows += len(indices)

    def _flush(self) -> None:
        n = self._filled
        if n == 0:
            return
        arrays = [
            pa.array(self._held[field.name][:n])
            if field.kind == CLASS
            else pa.FixedSizeBinaryArray.from_buffers(arrow_type(field), n, [None, pa.py_buffer(self._held[field.name][:n])])
            for field in self.fields
        ]
        if len(self._schema) > len(arrays):
            arrays.append(pa.nulls(n, pa.int64()))
        self._file.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._filled = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._flush()
            self._file.close()
        self._sink.close()  # after an error the half-written file goes with its folder


def rows_within(batch_bytes: int, fields: Sequence[Field]) -> int:
    """Rows whose arrays need no more than `batch_bytes`; one at least."""
    return max(1, batch_bytes // sum(row_bytes(field) for field in fields if field.kind != CLASS))


def row_bytes(field: Field) -> int:
    """Of one row of its column."""
    return 8 if field.kind == CLASS else field.numbers * np.dtype(field.dtype).itemsize


def image_field(name: str, shape: tuple[int, ...]) -> Field:
    """A column of uint8 images [C, H, W]."""
    return Field(name=name, kind=IMAGE, shape=shape, dtype="uint8")


def fields_of_images(shape: tuple[int, ...], classes: Sequence[str] | None) -> tuple[Field, ...]:
    """The columns of images with at most one class."""
    labels = () if classes is None else (class_field(LABEL, tuple(classes)),)
    return (image_field(IMAGE, shape), *labels)


def header_of(fields: tuple[Field, ...]) -> tuple[str, dict[str, Any]]:
    """(format, header) of the schema's metadata."""
    shape, classes = fields[0].shape, next((field.classes for field in fields if field.name == LABEL), None)
    if fields == fields_of_images(shape, classes):
        return IMAGES_FORMAT, {"shape": list(shape), "class_names": None if classes is None else list(classes)}
    return TABLE_FORMAT, {"fields": [field.facts() for field in fields]}


def read_header(form: str, header: Mapping[str, Any]) -> tuple[Field, ...]:
    """The fields that `header_of` wrote."""
    if form == IMAGES_FORMAT:
        return fields_of_images(tuple(header["shape"]), header["class_names"])
    return tuple(map(Field.read, header["fields"]))


def arrow_type(field: Field) -> Any:
    """Of its column."""
    return pa.int64() if field.kind == CLASS else pa.binary(row_bytes(field))


def _view(column: Any, field: Field) -> np.ndarray:
    values = np.frombuffer(column.buffers()[1], field.dtype, count=len(column) * field.numbers)
    return values.reshape(len(column), field.numbers)
