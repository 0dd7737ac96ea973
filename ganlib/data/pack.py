"""Many small files in a few big ones: Arrow IPC shards with the columns path, label, bytes and split.

DVC then sees a handful of files instead of one a image, and the original folder may go away.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from ganlib.data.raw import RawRecord

SCHEMA = pa.schema([("path", pa.string()), ("label", pa.int64()), ("bytes", pa.large_binary()), ("split", pa.string())])
SHARD_BYTES = 512 << 20
BATCH_BYTES = 16 << 20
BATCH_ROWS = 4096


class PackWriter:
    """Writes `files-00000.arrow`, `files-00001.arrow`, ... into `folder`; holds at most one record batch in memory.

    Args:
        columns: names of further encoded values of each row.
    """

    def __init__(
        self, folder: Path, *, columns: Sequence[str] = (), shard_bytes: int = SHARD_BYTES, batch_bytes: int = BATCH_BYTES
    ) -> None:
        self.folder = folder
        self.columns = tuple(columns)
        self._schema = pa.schema([*SCHEMA, *((name, pa.large_binary()) for name in columns)])
        self.num_rows = 0
        self._shard_limit_bytes, self._batch_limit_bytes = shard_bytes, batch_bytes
        self._shard: Any = None
        self._sink: Any = None
        self._num_shards = self._shard_bytes = self._batch_bytes = 0
        self._rows: list[tuple[str | int | bytes | None, ...]] = []

    def append(
        self, path: str, label: int | None, data: bytes | None, split: str | None = None, others: Mapping[str, bytes | None] | None = None
    ) -> None:
        """Add one file; `data` is None where the source holds a null, `split` (train, val, test) where it does not say.

        Args:
            others: of every further column its value, None for a null.
        """
        assert split in (None, "train", "val", "test"), split
        further = [(others or {})[name] for name in self.columns]
        self._rows.append((path, label, data, split, *further))
        self._batch_bytes += sum(len(value or b"") for value in (data, *further))
        self.num_rows += 1
        if self._batch_bytes >= self._batch_limit_bytes or len(self._rows) >= BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._shard is not None and self._shard_bytes + self._batch_bytes > self._shard_limit_bytes:
            self._close_shard()
        if self._shard is None:
            self._sink = pa.OSFile(str(self.folder / f"files-{self._num_shards:05d}.arrow"), "wb")
            self._shard = pa.ipc.new_file(self._sink, self._schema)
            self._num_shards += 1
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._shard.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._shard_bytes += self._batch_bytes
        self._batch_bytes = 0
        self._rows = []

    def _close_shard(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._sink.close()
        self._shard, self._shard_bytes = None, 0

    def __enter__(self) -> "PackWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._flush()
            self._close_shard()
        elif self._sink is not None:
            self._sink.close()  # the half-written shard goes with its folder


@dataclass(frozen=True)
class PackImages:
    """Rows of the shards in `folder`, in the order they were packed."""

    folder: Path
    class_names: tuple[str, ...] | None
    stamp: int = 0  # of this fetch: the same folder fetched again is opened again
    is_encoded: bool = True

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in _batches(self.folder, self.stamp))

    def sizes_bytes(self) -> np.ndarray:
        sizes = [np.diff(_offsets(batch)) for batch in _batches(self.folder, self.stamp)]
        return np.concatenate(sizes) if sizes else np.empty(0, np.int64)

    def given_splits(self) -> dict[str | None, int]:
        counts: Counter[str | None] = Counter()
        for batch in _batches(self.folder, self.stamp):
            counts.update({pair["values"]: pair["counts"] for pair in batch.column(3).value_counts().to_pylist()})
        return dict(counts)

    def name(self, row: int) -> str:
        return next(self.read(row, row + 1)).name

    def read(self, start: int, stop: int) -> Iterator[RawRecord]:
        first = 0
        for batch in _batches(self.folder, self.stamp):
            low, high = max(start - first, 0), min(stop - first, batch.num_rows)
            if low < high:
                paths, labels, data, splits, *others = (column.slice(low, high - low) for column in batch.columns)
                names = batch.schema.names[len(SCHEMA) :]
                rows = zip(paths.to_pylist(), labels.to_pylist(), data, splits.to_pylist(), *others, strict=True)
                for path, label, image, split, *further in rows:
                    named = {name: value.as_py() for name, value in zip(names, further, strict=True)}
                    yield RawRecord(name=path, image=image.as_py(), label=label, split=split, others=named)
            first += batch.num_rows


@lru_cache(maxsize=2)
def _batches(folder: Path, stamp: int) -> tuple[Any, ...]:
    batches: list[Any] = []
    for path in sorted(folder.glob("files-*.arrow")):
        try:
            shard = pa.ipc.open_file(pa.memory_map(str(path)))
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is damaged or truncated ({error}); rerun the fetch stage (dvc repro --force fetch)") from None
        batches += [shard.get_batch(index) for index in range(shard.num_record_batches)]  # zero-copy: nothing is read yet
    return tuple(batches)


def _offsets(batch: Any) -> np.ndarray:
    column = batch.column(2)
    return np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
