"""Raw images to prepared splits: converted in parallel, written in order, so that the bytes do not depend on the number of processes."""

import itertools
import math
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ganlib.cpus import usable_cpus
from ganlib.data import decoders
from ganlib.data.arrow import SPLITS, write_manifest
from ganlib.data.contract import Contract, Converted
from ganlib.data.decoders import Decoder
from ganlib.data.ipc import LABEL, TableWriter
from ganlib.data.raw import RawImages, read_source
from ganlib.data.readers import open_raw
from ganlib.data.rows import Elsewhere, Range, Work
from ganlib.data.settings import DataConfig
from ganlib.data.shards import SUFFIX, ShardWriter
from ganlib.data.splits import splitting
from ganlib.data.values import Survey
from ganlib.fields import IMAGE, Field, class_field
from ganlib.files import require_space

TASK_BYTES = 1 << 20  # stored bytes of one task: small enough to balance ten large JPEGs over the processes
TASK_OUTPUT_BYTES = 8 << 20  # converted bytes of one task: they travel through a pipe
ROW_OVERHEAD_BYTES = 1024  # what opening an image costs, in the bytes one decodes meanwhile
TASKS_PER_HELPER = 2  # one being done, one in its hands: what is queued when the work ends is waited for
TASKS_KEPT = 4  # per process, converted before their turn to be written
PARALLEL_SECONDS = 1.0  # work below this is done here: starting processes costs about as much


def prepare_images(
    config: DataConfig, raw: Path, folder: Path, *, processes: int | None = None, elsewhere: Elsewhere | None = None
) -> dict[str, Any]:
    """Convert `raw`, check the data contract, and write {train,val,test}.arrow, or lists of shards, and manifest.json into the empty `folder`.

    Args:
        processes: None: every core this process may use, one where the work is small. The output is the same for any number.
        elsewhere: converts in place of processes of this machine; the output is the same.

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
    work = Work(reader=reader, ranges=tuple(split_work(stored_bytes, image_bytes)), decoder=decoder, others=others)
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
        converted = elsewhere(work) if elsewhere is not None else _convert_in_order(work, contract.survey, processes)
        for part in stack.enter_context(closing(_all_of(work, converted))):
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


def _estimated_seconds(reader: RawImages, stored_bytes: np.ndarray, image_bytes: int) -> float:
    """Of conversion on one core, from measurements with small PNG and large JPEG files."""
    if reader.is_encoded:
        return len(stored_bytes) * 100e-6 + float(stored_bytes.sum()) * 40e-9
    is_copied = bool((stored_bytes == image_bytes).all())
    return len(stored_bytes) * (8e-6 if is_copied else 60e-6) + float(stored_bytes.sum()) * 1e-9


def _all_of(work: Work, converted: Generator[tuple[Range, Converted], None, None]) -> Generator[Converted, None, None]:
    """What `converted` gives, which must be all ranges in their order: nothing else makes the same bytes wherever it is done."""
    with closing(converted):
        for wanted in work.ranges:
            found, part = next(converted, (None, None))
            if found != wanted or part is None:
                raise RuntimeError(f"rows {wanted} were to come next, not {found}")
            yield part


def _convert_in_order(work: Work, survey: Survey, processes: int) -> Generator[tuple[Range, Converted], None, None]:
    processes = min(processes, len(work.ranges))
    if processes <= 1:
        for rows in work.ranges:
            yield rows, work.convert(rows, survey.full())
        return
    helpers = processes - 1  # this process converts too: it would only wait, and beside as many helpers as cores it would compete
    pool = ProcessPoolExecutor(helpers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)
    waiting, pending = deque(work.ranges), deque[tuple[Range, Future[Converted]]]()
    alone = replace(work, ranges=())  # a task knows its own
    try:
        while waiting or pending:
            unfinished = sum(not future.done() for _, future in pending)
            while waiting and unfinished < TASKS_PER_HELPER * helpers:
                rows = waiting.popleft()
                with _whole_starts():
                    pending.append((rows, pool.submit(alone.convert, rows, survey.full())))
                unfinished += 1
            if waiting and not pending[0][1].done() and len(pending) < TASKS_KEPT * processes:
                own: Future[Converted] = Future()
                pending.append((waiting.popleft(), own))
                own.set_result(work.convert(pending[-1][0], survey.full()))
            else:
                rows, future = pending.popleft()
                yield rows, future.result()
    except BrokenProcessPool:
        raise OSError(
            f"one of {processes} converting processes died, most likely for lack of memory; free some memory, "
            "or allow fewer cores (taskset -c 0 dvc repro prepare)"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _whole_starts() -> Iterator[None]:
    """SIGINT and SIGTERM come after the block, in which processes may be started: one that is half told what to do, or that hears Ctrl-C before it
    ignores it, ends with a traceback of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    before = {one: signal.signal(one, lambda number, _: heard.append(number)) for one in (signal.SIGINT, signal.SIGTERM)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by what is started; here the other threads hear it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for one, handler in before.items():
            signal.signal(one, handler)
        for number in heard[:1]:
            signal.raise_signal(number)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
