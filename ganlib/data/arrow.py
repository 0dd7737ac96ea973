"""Prepared images on disk: one memory-mapped Arrow IPC file a split, and the manifest that pins their bytes.

Schema: `image` fixed_size_binary(C * H * W), uint8 in C, H, W order; `label` int64, null throughout where there are no labels. Every record
batch but the last has the same number of rows, so image i is row `i % rows` of batch `i // rows`. There is no timestamp in it: the same
images give the same bytes.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from ganlib.files import sha256_file, write_json

FORMAT = 1
BATCH_BYTES = 64 << 20
SPLITS = ("train", "val", "test")
RERUN = "rerun the prepare stage (dvc repro --force prepare)"


class ArrowImages:
    """A split, memory-mapped; nothing is decoded or copied until it is asked for. Pickles as its path.

    Attributes:
        shape: (C, H, W).
        labels: [N] int64, or None for unlabelled data.
        class_names: a name for each class, or None for unlabelled data.
        num_classes: 0 for unlabelled data.
        class_counts: images of each class; () for unlabelled data.

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
        found = (self._file.schema.metadata or {}).get(b"format", b"none").decode()
        if found != f"ganlib-images-{FORMAT}":
            raise ValueError(f"{path} has format {found}, expected ganlib-images-{FORMAT}; {RERUN}")
        header = json.loads(self._file.schema.metadata[b"header"])
        self.shape: tuple[int, int, int] = tuple(header["shape"])
        self.class_names: list[str] | None = header["class_names"]
        self.num_classes = len(self.class_names or ())
        batches = [self._file.get_batch(index) for index in range(self._file.num_record_batches)]
        self._rows = batches[0].num_rows if batches else 1
        self._length: int = sum(batch.num_rows for batch in batches)
        self._views = [self._view(batch) for batch in batches]  # [rows, C * H * W] uint8, not copied
        self.labels: np.ndarray | None = None
        if self.class_names is not None:
            labels = [batch.column(1).to_numpy() for batch in batches]
            self.labels = np.concatenate(labels).astype(np.int64) if labels else np.empty(0, np.int64)
        self.class_counts: tuple[int, ...] = ()
        if self.labels is not None:
            self.class_counts = tuple(np.bincount(self.labels, minlength=self.num_classes).tolist())

    def _view(self, batch: Any) -> np.ndarray:
        size = math.prod(self.shape)
        return np.frombuffer(batch.column(0).buffers()[1], np.uint8, count=batch.num_rows * size).reshape(batch.num_rows, size)

    def __len__(self) -> int:
        return self._length

    def __reduce__(self) -> tuple[type["ArrowImages"], tuple[Path]]:
        return ArrowImages, (self.path,)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices` ([n] integers), in that order, copied: [n, C, H, W] uint8.

        Raises:
            IndexError: an index outside 0..N-1; negative ones too, which are a mistake here.
        """
        n = len(indices)
        if n and (indices.min() < 0 or indices.max() >= self._length):
            raise IndexError(f"{self.path}: indices from {indices.min()} to {indices.max()}, expected 0..{self._length - 1}")
        if len(self._views) == 1:
            return self._views[0].take(indices, axis=0).reshape(n, *self.shape)
        images = np.empty((n, math.prod(self.shape)), np.uint8)
        batches, rows = np.divmod(indices, self._rows)
        for position, (batch, row) in enumerate(zip(batches.tolist(), rows.tolist(), strict=True)):
            images[position] = self._views[batch][row]
        return images.reshape(n, *self.shape)

    def slice(self, start: int, stop: int) -> np.ndarray:
        """Images start..stop-1, cut at the end as a list is, copied: [n, C, H, W] uint8."""
        start, stop, _ = slice(start, stop).indices(self._length)
        images = np.empty((max(stop - start, 0), math.prod(self.shape)), np.uint8)
        position = start
        while position < stop:
            batch, row = divmod(position, self._rows)
            part = self._views[batch][row : row + stop - position]
            images[position - start : position - start + len(part)] = part
            position += len(part)
        return images.reshape(len(images), *self.shape)


class ArrowWriter:
    """Writes a split; holds one record batch in memory.

    Args:
        shape: (C, H, W).
        class_names: None for unlabelled data.
        batch_bytes: upper limit of a record batch.
    """

    def __init__(
        self, path: Path, *, shape: tuple[int, int, int], class_names: Sequence[str] | None, batch_bytes: int = BATCH_BYTES
    ) -> None:
        self.num_images = 0
        self._size = math.prod(shape)
        self._type = pa.binary(self._size)
        self._images = np.empty((max(1, batch_bytes // self._size), self._size), np.uint8)  # pages are taken as they are filled
        self._labels = np.empty(len(self._images), np.int64)
        self._is_labelled = class_names is not None
        self._filled = 0
        header = {"shape": list(shape), "class_names": None if class_names is None else list(class_names)}
        self._schema = pa.schema(
            [("image", self._type), ("label", pa.int64())],
            metadata={"format": f"ganlib-images-{FORMAT}", "header": json.dumps(header, sort_keys=True)},
        )
        self._sink = pa.OSFile(str(path), "wb")
        self._file = pa.ipc.new_file(self._sink, self._schema)

    def append(self, images: np.ndarray, labels: np.ndarray | None, chosen: np.ndarray | None = None) -> None:
        """Add `images` [n, C, H, W] uint8 with `labels` [n] int64, None for unlabelled data; only those at `chosen` ([k] integers), if given."""
        assert images.dtype == np.uint8, images.dtype
        assert (labels is not None) == self._is_labelled
        rows = images.reshape(len(images), self._size)
        indices = np.arange(len(rows)) if chosen is None else chosen
        done = 0
        while done < len(indices):
            part = indices[done : done + len(self._images) - self._filled]
            place = slice(self._filled, self._filled + len(part))
            np.take(rows, part, axis=0, out=self._images[place], mode="clip")  # which indices are not: np.take buffers in its other modes
            if labels is not None:
                self._labels[place] = labels[part]
            self._filled += len(part)
            done += len(part)
            if self._filled == len(self._images):
                self._flush()
        self.num_images += len(indices)

    def _flush(self) -> None:
        n = self._filled
        if n == 0:
            return
        images = pa.FixedSizeBinaryArray.from_buffers(self._type, n, [None, pa.py_buffer(self._images[:n])])
        labels = pa.array(self._labels[:n]) if self._is_labelled else pa.nulls(n, pa.int64())
        self._file.write_batch(pa.record_batch([images, labels], schema=self._schema))
        self._filled = 0

    def __enter__(self) -> "ArrowWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._flush()
            self._file.close()
        self._sink.close()  # after an error the half-written file goes with its folder


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """One split in the manifest."""

    images: int
    sha256: str  # of the Arrow file
    class_counts: tuple[int, ...] | None  # None for unlabelled data


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`manifest.json`: what the prepared folder holds."""

    shape: tuple[int, int, int]  # (C, H, W)
    class_names: tuple[str, ...] | None
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
    shape: tuple[int, int, int] = (0, 0, 0)
    for split in SPLITS:
        path = folder / f"{split}.arrow"
        images = ArrowImages(path)
        shape = images.shape
        counts = class_counts[split]
        splits[split] = {"images": len(images), "sha256": sha256_file(path), "class_counts": None if counts is None else list(counts)}
    digest = hashlib.sha256("".join(f"{split} {splits[split]['sha256']}\n" for split in SPLITS).encode()).hexdigest()
    names = None if class_names is None else list(class_names)
    facts = {"format": FORMAT, "shape": list(shape), "class_names": names, "splits": splits, "data_digest": digest}
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
            splits=splits,
            data_digest=values["data_digest"],
            preparation=dict(values["preparation"]),
        )
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; run the prepare stage first (dvc repro prepare)") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); {RERUN}") from None
