"""Aligned rows of fields in one Arrow IPC file, memory-mapped: row i of every column belongs together.

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
from typing import Any, Self

import numpy as np
import pyarrow as pa

from ganlib.fields import CLASS, IMAGE, Field, class_field

IMAGES_FORMAT, TABLE_FORMAT = "ganlib-images-1", "ganlib-table-1"
LABEL = "label"
BATCH_BYTES = 64 << 20
RERUN = "rerun the prepare stage (dvc repro --force prepare)"


class Table:
    """A split, memory-mapped; nothing is copied until it is asked for. Pickles as its path.

    Attributes:
        fields: by name, in the order of the columns.

    Raises:
        ValueError: the file is missing, truncated or of another format; names the stage to rerun.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self._file = pa.ipc.open_file(pa.memory_map(str(path)))
        except FileNotFoundError:
            raise ValueError(f"{path} does not exist; run the prepare stage first (dvc repro prepare)") from None
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} is truncated or not an Arrow file ({error}); {RERUN}") from None
        metadata = self._file.schema.metadata or {}
        found = metadata.get(b"format", b"none").decode()
        if found not in (IMAGES_FORMAT, TABLE_FORMAT):
            raise ValueError(f"{path} has format {found}, expected {IMAGES_FORMAT} or {TABLE_FORMAT}; {RERUN}")
        header = json.loads(metadata[b"header"])
        self.fields: dict[str, Field] = {field.name: field for field in _fields(found, header)}
        batches = [self._file.get_batch(index) for index in range(self._file.num_record_batches)]
        self._rows = batches[0].num_rows if batches else 1
        self._length: int = sum(batch.num_rows for batch in batches)
        self._views: dict[str, list[np.ndarray]] = {}  # of columns of arrays: [rows, numbers] a batch, not copied
        self._classes: dict[str, np.ndarray] = {}
        for name, field in self.fields.items():
            columns = [batch.column(self._file.schema.get_field_index(name)) for batch in batches]
            if field.kind == CLASS:
                numbers = [column.to_numpy() for column in columns]
                self._classes[name] = np.concatenate(numbers).astype(np.int64) if numbers else np.empty(0, np.int64)
            else:
                self._views[name] = [_view(column, field) for column in columns]

    def __len__(self) -> int:
        return self._length

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        return type(self), (self.path,)

    def field(self, name: str) -> Field:
        """Raises ValueError where there is no such column; names those there are."""
        if name not in self.fields:
            raise ValueError(f"{self.path} has no column {name!r}; it has: {', '.join(self.fields)} (params.yaml: data)")
        return self.fields[name]

    def numbers(self, name: str) -> np.ndarray:
        """A whole column of classes: [N] int64."""
        return self._classes[self.field(name).name]

    def read(self, name: str, indices: np.ndarray) -> np.ndarray:
        """The rows at `indices` ([n] integers) of a column, in that order, copied: [n, *shape]; of classes [n] int64.

        Raises:
            IndexError: an index outside 0..N-1; negative ones too, which are a mistake here.
        """
        n, field = len(indices), self.field(name)
        if n and (indices.min() < 0 or indices.max() >= self._length):
            raise IndexError(f"{self.path}: indices from {indices.min()} to {indices.max()}, expected 0..{self._length - 1}")
        if field.kind == CLASS:
            chosen: np.ndarray = self._classes[name][indices]
            return chosen
        views = self._views[name]
        if len(views) == 1:
            return views[0].take(indices, axis=0).reshape(n, *field.shape)
        values = np.empty((n, field.numbers), field.dtype)
        batches, rows = np.divmod(indices, self._rows)
        for position, (batch, row) in enumerate(zip(batches.tolist(), rows.tolist(), strict=True)):
            values[position] = views[batch][row]
        return values.reshape(n, *field.shape)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start..stop-1 of a column of arrays, cut at the end as a list is, copied: [n, *shape]."""
        field, views = self.field(name), self._views[name]
        start, stop, _ = slice(start, stop).indices(self._length)
        values = np.empty((max(stop - start, 0), field.numbers), field.dtype)
        position = start
        while position < stop:
            batch, row = divmod(position, self._rows)
            part = views[batch][row : row + stop - position]
            values[position - start : position - start + len(part)] = part
            position += len(part)
        return values.reshape(len(values), *field.shape)


class TableWriter:
    """Writes a split; holds one record batch in memory.

    Args:
        fields: the columns in their order; a column of arrays at least.
        batch_bytes: upper limit of the arrays in a record batch.
    """

    def __init__(self, path: Path, *, fields: Sequence[Field], batch_bytes: int = BATCH_BYTES) -> None:
        self.num_rows = 0
        self.fields = tuple(fields)
        row_bytes = sum(field.numbers * np.dtype(field.dtype).itemsize for field in self.fields if field.kind != CLASS)
        capacity = max(1, batch_bytes // row_bytes)
        self._held = {
            field.name: np.empty((capacity, *field.shape), field.dtype) for field in self.fields
        }  # pages are taken as they are filled
        self._capacity, self._filled = capacity, 0
        form, header = _header(self.fields)
        columns = [(field.name, _arrow_type(field)) for field in self.fields]
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
            else pa.FixedSizeBinaryArray.from_buffers(_arrow_type(field), n, [None, pa.py_buffer(self._held[field.name][:n])])
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


def image_field(name: str, shape: tuple[int, ...]) -> Field:
    """A column of uint8 images [C, H, W]."""
    return Field(name=name, kind=IMAGE, shape=shape, dtype="uint8")


def fields_of_images(shape: tuple[int, ...], classes: Sequence[str] | None) -> tuple[Field, ...]:
    """The columns of images with at most one class."""
    labels = () if classes is None else (class_field(LABEL, tuple(classes)),)
    return (image_field(IMAGE, shape), *labels)


def _header(fields: tuple[Field, ...]) -> tuple[str, dict[str, Any]]:
    """(format, header) of the schema's metadata."""
    shape, classes = fields[0].shape, next((field.classes for field in fields if field.name == LABEL), None)
    if fields == fields_of_images(shape, classes):
        return IMAGES_FORMAT, {"shape": list(shape), "class_names": None if classes is None else list(classes)}
    return TABLE_FORMAT, {"fields": [field.facts() for field in fields]}


def _fields(form: str, header: Mapping[str, Any]) -> tuple[Field, ...]:
    if form == IMAGES_FORMAT:
        return fields_of_images(tuple(header["shape"]), header["class_names"])
    return tuple(map(Field.read, header["fields"]))


def _arrow_type(field: Field) -> Any:
    return pa.int64() if field.kind == CLASS else pa.binary(field.numbers * np.dtype(field.dtype).itemsize)


def _view(column: Any, field: Field) -> np.ndarray:
    values = np.frombuffer(column.buffers()[1], field.dtype, count=len(column) * field.numbers)
    return values.reshape(len(column), field.numbers)
