"""A split as shards in a store (`data.store_uri`): content-addressed Arrow files of equal size, and a list of them beside the manifest.

A shard is an Arrow file as `ipc.py` writes it, of one record batch, called `shards/<first two digits>/<sha256>.arrow`; the list says how many rows
and bytes each has, and where in it a column begins. So row i is row `i % rows` of shard `i // rows`, at a known place: where a shard is not on
this machine, a row is one range of bytes of it.

In a folder the shards are memory-mapped where they lie. Those of an object store are kept whole in a cache on this machine's disk as far as it has
room (`ganlib/data/shard_cache.py`); rows of the others are read as ranges.
"""

import hashlib
import json
import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ganlib.data.ipc import RERUN, MappedColumns, TableWriter, header_of, read_header, row_bytes, rows_within
from ganlib.data.shard_cache import ShardCache
from ganlib.fields import CLASS, Field
from ganlib.files import sha256_file, write_json
from ganlib.storage import Storage, open_storage

SUFFIX = ".shards.json"
FORMAT = "ganlib-shards-1"
KEY = "data.store_uri"
REQUESTS_AT_ONCE = 16  # of one store: a batch of a random order lies in as many shards
SHARES_AHEAD = 256  # kept at most, each of one logical worker: far more than are asked for, so only what was given up is dropped


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of a split."""

    sha256: str
    bytes: int
    rows: int
    offsets: dict[str, int]  # where in the file each column begins, by name

    @property
    def name(self) -> str:
        """In the store."""
        return f"shards/{self.sha256[:2]}/{self.sha256}.arrow"


@dataclass(frozen=True, kw_only=True)
class ShardList:
    """`<split>.shards.json`: what a split consists of."""

    store: str
    rows: int  # of every shard but the last
    fields: tuple[Field, ...]
    shards: tuple[Shard, ...]

    def write(self, path: Path) -> None:
        form, header = header_of(self.fields)
        facts = {"format": FORMAT, "store": self.store, "rows": self.rows, "schema": {"format": form, "header": header}}
        write_json(path, facts | {"shards": [asdict(shard) for shard in self.shards]})

    @classmethod
    def read(cls, path: Path) -> "ShardList":
        """Raises ValueError where the file is missing, damaged or of another format; names the stage to rerun."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["format"] != FORMAT:
                raise ValueError(f"format {values['format']}, expected {FORMAT}")
            return cls(
                store=values["store"],
                rows=values["rows"],
                fields=read_header(values["schema"]["format"], values["schema"]["header"]),
                shards=tuple(Shard(**shard) for shard in values["shards"]),
            )
        except FileNotFoundError:
            raise ValueError(f"{path} does not exist; run the prepare stage first (dvc repro prepare)") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error}); {RERUN}") from None


def damaged(listed: ShardList) -> Iterator[str]:
    """What is wrong with a split's shards in their store, each read whole and hashed; one at a time is held.

    Raises:
        OSError: the store does not answer.
    """
    storage = open_storage(listed.store, key=KEY)
    for shard in listed.shards:
        try:
            found = hashlib.sha256(storage.read(shard.name)).hexdigest()
        except FileNotFoundError:
            yield f"{listed.store} has no {shard.name}"
            continue
        if found != shard.sha256:
            yield f"{shard.name} in {listed.store} has the sha256 {found}"


class ShardWriter:
    """Writes a split into a store, one shard at a time, and its list last. A shard that is there already is not sent again.

    Args:
        path: of the list; the shard that is being filled lies beside it.
        shard_bytes: upper limit of the arrays in a shard, which are held in memory.

    Raises:
        OSError: the store does not take it; shards that were written stay, and are found by the next try.
    """

    def __init__(self, path: Path, *, fields: Sequence[Field], store: str, shard_bytes: int) -> None:
        self.num_rows = 0
        self._path, self._fields, self._store = path, tuple(fields), store
        self._storage = open_storage(store, key=KEY)
        self._shard_bytes = shard_bytes
        self._rows = rows_within(shard_bytes, self._fields)
        self._filling: TableWriter | None = None
        self._shards: list[Shard] = []

    @property
    def _partial(self) -> Path:
        return self._path.with_suffix(".arrow")

    def append(self, columns: Mapping[str, np.ndarray], chosen: np.ndarray | None = None) -> None:
        """As `TableWriter.append`."""
        indices = np.arange(len(next(iter(columns.values())))) if chosen is None else chosen
        while len(indices):
            if self._filling is None:
                self._filling = TableWriter(self._partial, fields=self._fields, batch_bytes=self._shard_bytes)
            part, indices = np.split(indices, [self._rows - self._filling.num_rows])
            self._filling.append(columns, part)
            self.num_rows += len(part)
            if self._filling.num_rows == self._rows:
                self._seal(self._filling)

    def _seal(self, filled: TableWriter) -> None:
        filled.__exit__(None, None, None)
        self._filling = None
        shard = Shard(
            sha256=sha256_file(self._partial),
            bytes=self._partial.stat().st_size,
            rows=filled.num_rows,
            offsets=MappedColumns(self._partial).offsets(),
        )
        if _size(self._storage, shard) != shard.bytes:
            self._storage.write(shard.name, self._partial.read_bytes())
        self._partial.unlink()
        self._shards.append(shard)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            return  # the half-written shard goes with its folder
        if self._filling is not None:
            self._seal(self._filling)
        ShardList(store=self._store, rows=self._rows, fields=self._fields, shards=tuple(self._shards)).write(self._path)


def _size(storage: Storage, shard: Shard) -> int | None:
    try:
        return storage.size(shard.name)
    except FileNotFoundError:
        return None


class StoredColumns:
    """Columns of a split in shards. Classes are read when it is opened, all else when it is asked for.

    Args:
        path: of the list.

    Raises:
        ValueError: the list or a shard is missing or damaged; names the stage to rerun.
        OSError: the store does not answer.
    """

    def __init__(self, path: Path) -> None:
        self._list = ShardList.read(path)
        self.fields = {field.name: field for field in self._list.fields}
        self.length = sum(shard.rows for shard in self._list.shards)
        self._storage = open_storage(self._list.store, key=KEY)
        self._here: dict[int, MappedColumns] = {}  # shards on a file system of this machine
        self._cache = ShardCache.of_environment()
        self._requests = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="shards")
        self._reading_ahead = ThreadPoolExecutor(1, thread_name_prefix="shards ahead")
        self._coming: OrderedDict[tuple[str, bytes], Future[np.ndarray]] = OrderedDict()
        self._taken: set[str] = set()  # columns that somebody has taken, which are read ahead
        self._bringing: _Bringing | None = None
        self._require_all(path)
        self.classes = {name: self._classes(name) for name, field in self.fields.items() if field.kind == CLASS}

    def take(self, name: str, indices: np.ndarray) -> np.ndarray:
        self._taken.add(name)
        coming = self._coming.pop((name, indices.tobytes()), None)
        return self._take(name, indices) if coming is None else coming.result()

    @property
    def is_far(self) -> bool:
        return len(self._here) < len(self._list.shards)

    def ahead(self, indices: np.ndarray) -> None:
        if self._bringing is None and self._cache.limit_bytes:
            self._bringing = _Bringing(self._list, self._storage, self._here, self._cache)
            self._bringing.start()
            weakref.finalize(self, self._bringing.is_over.set)
        for name in self._taken:
            key = (name, indices.tobytes())
            if key not in self._coming:
                self._coming[key] = self._reading_ahead.submit(self._take, name, indices)
                if len(self._coming) > SHARES_AHEAD * len(self._taken):
                    self._coming.popitem(last=False)[1].cancel()

    def part(self, name: str, start: int, stop: int) -> np.ndarray:
        field = self.fields[name]
        values = np.empty((stop - start, field.numbers), field.dtype)
        position = start
        while position < stop:
            number, row = divmod(position, self._list.rows)
            count = min(stop - position, self._list.shards[number].rows - row)
            if number in self._here:
                part = self._here[number].part(name, row, row + count)
            else:
                (found,) = self._ranges(name, number, np.array([row]), count)
                part = np.frombuffer(found, field.dtype).reshape(count, field.numbers)
            values[position - start : position - start + count] = part
            position += count
        return values

    def _take(self, name: str, indices: np.ndarray) -> np.ndarray:
        field = self.fields[name]
        values = np.empty((len(indices), field.numbers), field.dtype)
        numbers, rows = np.divmod(indices, self._list.rows)

        def fill(number: int) -> None:
            at = np.flatnonzero(numbers == number)
            if number in self._here:
                values[at] = self._here[number].take(name, rows[at])
                return
            for place, found in zip(at.tolist(), self._ranges(name, number, rows[at], 1), strict=True):
                values[place] = np.frombuffer(found, field.dtype)

        touched = np.unique(numbers).tolist()
        far = [number for number in touched if number not in self._here]
        waiting = [self._requests.submit(fill, number) for number in far]
        for number in touched:
            if number not in far:
                fill(number)
        for each in waiting:
            each.result()
        return values

    def _ranges(self, name: str, number: int, rows: np.ndarray, count: int) -> list[bytes]:
        """`count` rows of a column from each of `rows` on, out of the store."""
        shard, size = self._list.shards[number], row_bytes(self.fields[name])
        starts = shard.offsets[name] + rows * size
        try:
            found = self._storage.read_ranges(shard.name, starts.tolist(), (starts + count * size).tolist())
        except FileNotFoundError:
            raise ValueError(self._missing(shard)) from None
        if any(len(part) != count * size for part in found):
            raise ValueError(f"{shard.name} in {self._list.store} is shorter than it was; {RERUN}")
        return found

    def _missing(self, shard: Shard) -> str:
        return f"{self._list.store} has no {shard.name} of {shard.bytes:,} bytes: shards are missing or {KEY} is another store's; {RERUN}"

    def _require_all(self, path: Path) -> None:
        """Every shard is there, in its full size; those in a folder are opened."""
        sizes = self._requests.map(lambda shard: _size(self._storage, shard), self._list.shards)
        for number, (shard, size) in enumerate(zip(self._list.shards, sizes, strict=True)):
            if size != shard.bytes:
                raise ValueError(f"{path.name}: {self._missing(shard)}")
            if (local := self._storage.where(shard.name)) is not None:
                self._here[number] = MappedColumns(local)

    def _classes(self, name: str) -> np.ndarray:
        def read(number: int) -> np.ndarray:
            if number in self._here:
                return self._here[number].classes[name]
            (found,) = self._ranges(name, number, np.zeros(1, np.int64), self._list.shards[number].rows)
            return np.frombuffer(found, np.int64)

        parts = list(self._requests.map(read, range(len(self._list.shards))))
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


class _Bringing(threading.Thread):
    """Brings shards into the cache while a training reads ranges of them, one after another, as long as there is room.

    One process of a machine does it at a time; the others take up what it has brought.
    """

    POLL_SECONDS = 1.0

    def __init__(self, listed: ShardList, storage: Storage, here: dict[int, MappedColumns], cache: ShardCache) -> None:
        super().__init__(name="shard cache", daemon=True)
        self._list, self._storage, self._here, self._cache = listed, storage, here, cache
        self.is_over = threading.Event()

    def run(self) -> None:
        try:
            while not self._take_up() and not self.is_over.wait(self.POLL_SECONDS):
                pass
        except (OSError, ValueError) as problem:
            logging.getLogger(__name__).warning("the cache of shards takes no more of them, which are read as ranges instead: %s", problem)

    def _take_up(self) -> bool:
        """Open what the cache has, and bring the rest where that is this process's task; whether there is no more to come."""
        wanted = {shard.sha256 for shard in self._list.shards}
        with self._cache.bringing() as may_bring:
            for number, shard in enumerate(self._list.shards):
                if self.is_over.is_set():
                    return True
                if number in self._here:
                    continue
                path = self._cache.find(shard.sha256)
                if path is None and may_bring:
                    path = self._cache.bring(shard.sha256, shard.bytes, partial(self._storage.read, shard.name), keep=wanted)
                if path is not None:
                    self._here[number] = MappedColumns(path)
        return may_bring or len(self._here) == len(self._list.shards)
