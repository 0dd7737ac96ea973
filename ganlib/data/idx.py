"""The IDX format of MNIST: a big-endian header (two zero bytes, element type, number of dimensions, the dimensions), then the values.

Description: the foot of http://yann.lecun.com/exdb/mnist/
"""

import gzip
import math
import re
import shutil
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ganlib.data.given import split_of_file
from ganlib.data.inflation import allowed_bytes, refusal
from ganlib.data.raw import RawRecord
from ganlib.data.settings import MAX_INFLATION

DTYPES: dict[int, np.dtype[Any]] = {
    code: np.dtype(f">{kind}") for code, kind in {0x08: "u1", 0x09: "i1", 0x0B: "i2", 0x0C: "i4", 0x0D: "f4", 0x0E: "f8"}.items()
}
IMAGES = re.compile(r"(?P<stem>.*)images(?P<dot>[-.])idx[34]-(?:u?byte|short|int|float|double)(?:\.gz)?")
LABELS = re.compile(r"(?P<stem>.*)labels(?P<dot>[-.])idx1-ubyte(?:\.gz)?")


def read_idx(path: Path) -> np.ndarray:
    """Memory-map an uncompressed IDX file.

    Raises:
        ValueError: not IDX, an unknown element type, or another number of bytes than its header promises.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in DTYPES or not 1 <= head[3] <= 4:
            raise ValueError(f"{path} is not an IDX file: it begins with {head.hex(' ') or 'nothing'}, expected 00 00 08 and 1..4")
        dims_bytes = file.read(4 * head[3])
    offset = 4 + 4 * head[3]
    dtype = DTYPES[head[2]]
    shape = struct.unpack(f">{head[3]}I", dims_bytes) if len(dims_bytes) == 4 * head[3] else (0,)
    expected = offset + math.prod(shape) * dtype.itemsize
    if size_bytes != expected or len(dims_bytes) != 4 * head[3]:
        raise ValueError(f"{path} has {size_bytes:,} bytes, its header {list(shape)} promises {expected:,}: it is truncated or damaged")
    if math.prod(shape) == 0:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape).view(np.ndarray)


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write `values` of one to four dimensions, of a type that IDX has, as an uncompressed IDX file."""
    big = values.dtype.newbyteorder(">")
    code = next(code for code, dtype in DTYPES.items() if dtype == big)
    assert 1 <= values.ndim <= 4, values.shape
    path.write_bytes(bytes([0, 0, code, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.astype(big).tobytes())


def find_pairs(folder: Path) -> list[tuple[Path, Path | None]]:
    """(images, labels) files of `folder` by their usual names, sorted; labels are None where no pair has any.

    Raises:
        ValueError: a file lies there both plain and as .gz, or only some pairs have labels.
    """
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        for pattern, found in ((IMAGES, images), (LABELS, labels)):
            match = pattern.fullmatch(path.name)
            if match and path.is_file():
                if match["stem"] in found:
                    raise ValueError(f"{found[match['stem']]} and {path.name} are the same part twice; remove one of them")
                found[match["stem"]] = path
    orphans = sorted(images.keys() ^ labels.keys())
    if labels and orphans:
        path = images.get(orphans[0]) or labels[orphans[0]]
        raise ValueError(f"{path} has no partner: every *images-idx3-ubyte needs its *labels-idx1-ubyte, or none may have one")
    return [(images[stem], labels.get(stem)) for stem in sorted(images)]


def copy_uncompressed(source: Path, folder: Path, *, max_inflation: int = MAX_INFLATION) -> Path:
    """Copy `source` into `folder`, decompressed where it ends in .gz, so that the copy is the same however the file came.

    Raises:
        ValueError: a damaged or truncated .gz, or one that grows by more than `max_inflation`; no more than that is written.
    """
    target = folder / source.name.removesuffix(".gz")
    if source.suffix != ".gz":
        with source.open("rb") as file, target.open("wb") as written:
            shutil.copyfileobj(file, written, 1 << 20)
        return target
    packed_bytes = source.stat().st_size
    left = allowed_bytes(packed_bytes, max_inflation)
    with target.open("wb") as written:
        try:
            with gzip.open(source, "rb") as file:
                while block := file.read(1 << 20):
                    left -= len(block)
                    if left < 0:
                        raise ValueError(refusal(str(source), packed_bytes, max_inflation))
                    written.write(block)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{source} is damaged or truncated: {error}") from None
    return target


@dataclass(frozen=True)
class IdxImages:
    """Rows of the IDX pairs in `folder`, in the order of their file names."""

    folder: Path
    class_names: tuple[str, ...] | None
    stamp: int = 0  # of this fetch: the same folder fetched again is opened again
    is_encoded: bool = False

    def __len__(self) -> int:
        return sum(len(part.images) for part in _open(self.folder, self.stamp))

    def sizes_bytes(self) -> np.ndarray:
        parts = _open(self.folder, self.stamp)
        sizes = [math.prod(part.images.shape[1:]) * part.images.itemsize for part in parts]
        return np.concatenate([np.full(len(part.images), size, np.int64) for part, size in zip(parts, sizes, strict=True)])

    def given_splits(self) -> dict[str | None, int]:
        counts: Counter[str | None] = Counter()
        for part in _open(self.folder, self.stamp):
            counts[part.split] += len(part.images)
        return dict(counts)

    def name(self, row: int) -> str:
        for part in _open(self.folder, self.stamp):
            if row < len(part.images):
                return f"{part.name}#{row}"
            row -= len(part.images)
        raise IndexError(row)

    def read(self, start: int, stop: int) -> Iterator[RawRecord]:
        first = 0
        for part in _open(self.folder, self.stamp):
            for row in range(max(start - first, 0), min(stop - first, len(part.images))):
                label = None if part.labels is None else int(part.labels[row])
                yield RawRecord(name=f"{part.name}#{row}", image=part.images[row], label=label, split=part.split)
            first += len(part.images)


def check_pairs(pairs: Sequence[tuple[Path, Path | None]]) -> np.ndarray | None:
    """All labels of uncompressed IDX pairs, [n] int64, or None; the images are checked against their labels.

    Raises:
        ValueError: element types, dimensions or counts that do not fit.
    """
    parts = [_part(images, labels) for images, labels in pairs]
    return None if any(part.labels is None for part in parts) else np.concatenate([part.labels for part in parts])


@dataclass(frozen=True)
class _Part:
    name: str
    images: np.ndarray  # [n, H, W] or [n, H, W, C] numbers of any kind
    labels: np.ndarray | None  # [n] int64

    @property
    def split(self) -> str | None:
        """As its name says: train-images-idx3-ubyte, t10k-images-idx3-ubyte."""
        return split_of_file(self.name)


@lru_cache(maxsize=2)
def _open(folder: Path, stamp: int) -> tuple[_Part, ...]:
    return tuple(_part(images, labels) for images, labels in find_pairs(folder))


def _part(images_path: Path, labels_path: Path | None) -> _Part:
    images = read_idx(images_path)
    if images.ndim not in (3, 4):
        raise ValueError(f"{images_path} holds {images.dtype.name} {list(images.shape)}, expected [n, height, width(, channels)]")
    if images.ndim == 4:
        if images.shape[3] not in (1, 3, 4) and images.shape[1] in (1, 3, 4):
            images = images.transpose(0, 2, 3, 1)  # channels first, as torch saves them
        if images.shape[3] not in (1, 3, 4):
            raise ValueError(f"{images_path} holds {list(images.shape)}, expected 1, 3 or 4 channels last (or first)")
    if labels_path is None:
        return _Part(images_path.name, images, None)
    labels = read_idx(labels_path)
    if labels.ndim != 1 or len(labels) != len(images):
        raise ValueError(f"{labels_path} holds {list(labels.shape)} labels for the {len(images):,} images of {images_path.name}")
    if labels.dtype.kind == "f":
        raise ValueError(f"{labels_path} holds {labels.dtype.name} labels, expected integers")
    return _Part(images_path.name, images, labels.astype(np.int64))
