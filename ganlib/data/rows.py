"""Rows of a source as they are stored: each range by itself, in any process."""

from collections.abc import Collection, Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ganlib.data.arrow import SPLITS
from ganlib.data.contract import Converted
from ganlib.data.decoders import Decoder
from ganlib.data.raw import RawImages, RawRecord
from ganlib.data.soundness import BrokenImage
from ganlib.data.splits import content_digest
from ganlib.data.suffixes import not_read
from ganlib.data.values import Survey

Range = tuple[int, int]  # rows [start, stop)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What there is to convert; picklable.

    Attributes:
        ranges: in order, all rows of the source.
        others: of further columns, by name.
    """

    reader: RawImages
    ranges: tuple[Range, ...]
    decoder: Decoder
    others: Mapping[str, Decoder]

    def convert(self, rows: Range, full: Collection[str] = ()) -> Converted:
        """Convert a range; `full` are kinds of values of which nothing new can be seen."""
        return convert_rows(self.reader, *rows, self.decoder, full, self.others)


class Elsewhere(Protocol):
    """Converts all of `work` somewhere else; closed, it stops."""

    def __call__(self, work: Work) -> Generator[tuple[Range, Converted], None, None]: ...  # each range and what became of it, in order


def convert_rows(
    reader: RawImages,
    start: int,
    stop: int,
    decoder: Decoder,
    full: Collection[str] = (),
    others: Mapping[str, Decoder] | None = None,
) -> Converted:
    """Convert rows start..stop-1 of the source; runs in any process.

    Args:
        full: kinds of values of which nothing new can be seen.
        others: of further columns, by name.
    """
    images: list[np.ndarray] = []
    kept: list[tuple[int, int, int, int, int, int]] = []  # label, given split, row, page, height, width
    broken: list[tuple[str, str]] = []
    broken_labels: list[int] = []
    survey = Survey.after(full)
    num_classes = None if reader.class_names is None else len(reader.class_names)
    further: dict[str, list[np.ndarray]] = {name: [] for name in others or {}}
    with ExitStack() as guards:
        for each in (decoder, *(others or {}).values()):
            guards.enter_context(each.guarded())
        for row, record in enumerate(reader.read(start, stop), start=start):
            label = -1
            try:
                if record.image is None:
                    raise BrokenImage("no image bytes (null)")
                label = _label(record.label, num_classes)
                if isinstance(record.image, bytes) and (kind := not_read(record.name)) is not None:
                    raise BrokenImage(f"{kind}, which is not read")
                pages = decoder.decode(record.image, survey, name=record.name)
                beside = {name: _beside(name, record, other) for name, other in (others or {}).items()}
            except BrokenImage as error:
                broken.append((record.name, str(error)))
                broken_labels.append(label)
                continue
            given = -1 if record.split is None else SPLITS.index(record.split)
            for page, (image, (height, width)) in enumerate(pages):
                images.append(image)
                kept.append((label, given, row, page if len(pages) > 1 else -1, height, width))
                for name, value in beside.items():
                    further[name].append(value)
    stacked = _stacked(images, decoder)
    digests = b"".join(content_digest(image)[:16] for image in stacked)
    table = np.array(kept, np.int64).reshape(-1, 6)
    return Converted(
        images=stacked,
        labels=table[:, 0],
        given=table[:, 1].astype(np.int8),
        rows=table[:, 2],
        pages=table[:, 3],
        digests=np.frombuffer(digests, ">u8").reshape(-1, 2).astype(np.uint64),
        sizes=table[:, 4:],
        broken=tuple(broken),
        broken_labels=np.array(broken_labels, np.int64),
        survey=survey,
        others={name: _stacked(values, other) for (name, other), values in zip((others or {}).items(), further.values(), strict=True)},
    )


def _stacked(rows: list[np.ndarray], decoder: Decoder) -> np.ndarray:
    stacked = np.empty((len(rows), *decoder.shape), decoder.dtype)
    for place, row in zip(stacked, rows, strict=True):  # np.stack would keep the order of their bytes in memory
        place[...] = row
    return stacked


def _beside(name: str, record: RawRecord, decoder: Decoder) -> np.ndarray:
    """The value of a further column."""
    value = record.others[name]
    if value is None:
        raise BrokenImage(f"column {name}: null")
    try:
        ((array, _),) = decoder.decode(value, Survey(), name=record.name)
    except BrokenImage as error:
        raise BrokenImage(f"column {name}: {error}") from None
    return array


def _label(label: int | None, num_classes: int | None) -> int:
    if num_classes is None:
        return -1
    if label is None:
        raise BrokenImage("no label (null)")
    if label == -1:
        raise BrokenImage("no label (-1)")  # as Hugging Face's data sets withhold them
    if not 0 <= label < num_classes:
        raise BrokenImage(f"label {label}, expected 0..{num_classes - 1}")
    return label
