"""Raw images to prepared splits: converted in parallel, written in order, so that the bytes do not depend on the number of processes."""

import itertools
import math
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Collection, Generator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from ganlib.cpus import usable_cpus
from ganlib.data import decoders
from ganlib.data.arrow import SPLITS, write_manifest
from ganlib.data.contract import Contract, Converted
from ganlib.data.decoders import Decoder
from ganlib.data.ipc import LABEL, TableWriter
from ganlib.data.raw import RawImages, RawRecord, read_source
from ganlib.data.readers import open_raw
from ganlib.data.settings import DataConfig
from ganlib.data.shards import SUFFIX, ShardWriter
from ganlib.data.soundness import BrokenImage
from ganlib.data.splits import content_digest, splitting
from ganlib.data.suffixes import not_read
from ganlib.data.values import Survey
from ganlib.fields import IMAGE, Field, class_field
from ganlib.files import require_space

TASK_BYTES = 1 << 20  # stored bytes of one task: small enough to balance ten large JPEGs over the processes
TASK_OUTPUT_BYTES = 8 << 20  # converted bytes of one task: they travel through a pipe
ROW_OVERHEAD_BYTES = 1024  # what opening an image costs, in the bytes one decodes meanwhile
TASKS_PER_HELPER = 2  # one being done, one in its hands: what is queued when the work ends is waited for
TASKS_KEPT = 4  # per process, converted before their turn to be written
PARALLEL_SECONDS = 1.0  # work below this is done here: starting processes costs about as much


def prepare_images(config: DataConfig, raw: Path, folder: Path, *, processes: int | None = None) -> dict[str, Any]:
    """Convert `raw`, check the data contract, and write {train,val,test}.arrow, or lists of shards, and manifest.json into the empty `folder`.

    Args:
        processes: None: every core this process may use, one where the work is small. The output is the same for any number.

    Returns:
        The report for reports/data.json.

    Raises:
        ValueError: nothing fetched, broken images under on_error=fail, splits that are too small; `folder` is then to be thrown away.
        OSError: not enough disk space, or a process died.
    """
    source, reader = read_source(raw), open_raw(raw)
    decoder = decoders.of(config)
    others = {name: decoders.of(config.of_column(name)) for name in config.columns}
    image_bytes = sum(math.prod(each.shape) * np.dtype(each.dtype).itemsize for each in (decoder, *others.values()))
    needed_bytes = len(reader) * (image_bytes + 8)
    if config.store_uri is None:
        require_space(folder, needed_bytes=needed_bytes)
    else:  # a store says itself when it is full
        require_space(folder, needed_bytes=min(len(SPLITS) * config.shard_mb << 20, needed_bytes))
    stored_bytes = reader.sizes_bytes()
    if processes is None:
        processes = 1 if _estimated_seconds(reader, stored_bytes, image_bytes) < PARALLEL_SECONDS else usable_cpus()
    tasks = split_work(stored_bytes, image_bytes)
    splits_by = splitting(
        config.splits,
        reader.given_splits(),
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        where=f"{raw} ({source.source})",
    )
    contract = Contract(
        class_names=reader.class_names,
        size=config.image_size,
        on_error=config.on_error,
        splitting=splits_by,
        value_range=config.value_range,
    )
    made = _field(config.modality, config, decoder)
    labels = () if reader.class_names is None else (class_field(LABEL, reader.class_names),)
    further = tuple(_field(name, config.of_column(name), each) for name, each in others.items())
    with ExitStack() as stack:
        writers = [_writer(config, folder, split, (made, *labels, *further)) for split in SPLITS]
        for writer in writers:
            stack.enter_context(writer)
        converted = stack.enter_context(
            closing(_convert_in_order(reader, tasks, (decoder, others), contract.survey, min(processes, max(len(tasks), 1))))
        )
        for part in converted:
            splits = splits_by.assign(part.digests[:, 0], part.given)
            contract.add(part, splits)
            for index, writer in enumerate(writers):
                chosen = np.flatnonzero(splits == index)
                writer.append({made.name: part.images, **({LABEL: part.labels} if labels else {}), **part.others}, chosen)
        contract.check(switched_off=[split for split in ("val", "test") if getattr(config, f"{split}_fraction") == 0])
    write_manifest(
        folder,
        class_names=reader.class_names,
        class_counts=contract.class_counts(),
        preparation={"source": source.source, **{key: getattr(config, key) for key in ("image_size", *decoder.keys)}},
    )
    return contract.report(source, reader.name)


def _writer(config: DataConfig, folder: Path, split: str, fields: tuple[Field, ...]) -> TableWriter | ShardWriter:
    if config.store_uri is None:
        return TableWriter(folder / f"{split}.arrow", fields=fields)
    return ShardWriter(folder / f"{split}{SUFFIX}", fields=fields, store=config.store_uri, shard_bytes=config.shard_mb << 20)


def _field(name: str, config: DataConfig, decoder: Decoder) -> Field:
    told = (
        None if config.modality == IMAGE else config.value_range
    )  # of images it stands in the preparation, and their bytes stay as they are
    return Field(name=name, kind=config.modality, shape=decoder.shape, dtype=decoder.dtype, value_range=told)


def split_work(stored_bytes: np.ndarray, image_bytes: int) -> list[tuple[int, int]]:
    """Row ranges [start, stop) of about equal cost, in order.

    Args:
        stored_bytes: [n] int64, size of each row in the source.
        image_bytes: size of each row after conversion.
    """
    cost = np.cumsum(np.maximum((stored_bytes + ROW_OVERHEAD_BYTES) / TASK_BYTES, image_bytes / TASK_OUTPUT_BYTES))
    ends = np.flatnonzero(np.diff(np.floor(cost)) > 0) + 1 if len(cost) else np.empty(0, np.int64)
    edges = [0, *ends.tolist(), len(stored_bytes)]
    return [(start, stop) for start, stop in itertools.pairwise(edges) if start < stop]


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


def _estimated_seconds(reader: RawImages, stored_bytes: np.ndarray, image_bytes: int) -> float:
    """Of conversion on one core, from measurements with small PNG and large JPEG files."""
    if reader.is_encoded:
        return len(stored_bytes) * 100e-6 + float(stored_bytes.sum()) * 40e-9
    is_copied = bool((stored_bytes == image_bytes).all())
    return len(stored_bytes) * (8e-6 if is_copied else 60e-6) + float(stored_bytes.sum()) * 1e-9


def _convert_in_order(
    reader: RawImages, tasks: list[tuple[int, int]], columns: tuple[Decoder, Mapping[str, Decoder]], survey: Survey, processes: int
) -> Generator[Converted, None, None]:
    decoder, others = columns
    if processes <= 1:
        for start, stop in tasks:
            yield convert_rows(reader, start, stop, decoder, survey.full(), others)
        return
    helpers = processes - 1  # this process converts too: it would only wait, and beside as many helpers as cores it would compete
    pool = ProcessPoolExecutor(helpers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)
    waiting, pending = deque(tasks), deque[Future[Converted]]()
    try:
        while waiting or pending:
            unfinished = sum(not future.done() for future in pending)
            while waiting and unfinished < TASKS_PER_HELPER * helpers:
                pending.append(pool.submit(convert_rows, reader, *waiting.popleft(), decoder, survey.full(), others))
                unfinished += 1
            if waiting and not pending[0].done() and len(pending) < TASKS_KEPT * processes:
                own: Future[Converted] = Future()
                pending.append(own)
                own.set_result(convert_rows(reader, *waiting.popleft(), decoder, survey.full(), others))
            else:
                yield pending.popleft().result()
    except BrokenProcessPool:
        raise OSError(
            f"one of {processes} converting processes died, most likely for lack of memory; free some memory, "
            "or allow fewer cores (taskset -c 0 dvc repro prepare)"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
