"""What MLflow could not be told while trainings ran is told later, and runs of trainings that died are ended."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from ganlib.redact import redacted
from ganlib.storage import open_storage
from pipeline.params import ROOT
from pipeline.tracking import outbox as outboxes
from pipeline.tracking.follow import Follower
from pipeline.tracking.outbox import STALE_SECONDS
from pipeline.tracking.settings import TrackingConfig
from pipeline.tracking.store import RUN_KEY, Store, Unanswered, answering, open_store, sqlite_path, tracking_uri
from pipeline.tracking.training_run import HEARTBEAT, START, STATE, TrainingRun, clock


def deliver_pending(tracking: TrackingConfig, state_uri: str, root: Path = ROOT, *, limit_seconds: float | None = None) -> list[str]:
    """Tell MLflow what trainings below `train.state_uri` could not tell it, and end RUNNING runs whose training is dead.

    Never raises.

    Args:
        state_uri: `train.state_uri`.
        limit_seconds: how long to wait; None: not at all, and what there is to say is printed when it is known. What is not done then goes on
            in the background while the process lives.

    Returns:
        lines for a person; none when there was nothing to do.
    """
    said: list[str] = []
    say = said.append if limit_seconds is not None else partial(print, flush=True)
    thread = threading.Thread(target=_deliver_and_sweep, args=(tracking, state_uri, root, say), name="deliver to MLflow", daemon=True)
    thread.start()
    if limit_seconds is not None:
        thread.join(limit_seconds)
        if thread.is_alive():
            return [*said, f"warning: MLflow at {redacted(tracking_uri(tracking, root))} is slow: not done after {limit_seconds:g} s"]
    return said


def _deliver_and_sweep(tracking: TrackingConfig, state_uri: str, root: Path, say: Callable[[str], None]) -> None:
    try:
        for storage, outbox in outboxes.pending(state_uri, root):
            status = outbox.status or "KILLED"
            try:
                Follower(storage, TrainingRun(tracking, outbox, storage, root)).deliver_all(status)
                say(f"MLflow: training {outbox.run_key[:12]} is complete now ({status})")
            except Unanswered:
                raise
            except Exception as problem:  # of this training; the others can be delivered
                say(f"warning: MLflow does not get what {storage.uri} has: {redacted(repr(problem))}")
        uri = tracking_uri(tracking, root)
        file = sqlite_path(uri)
        if file is None or file.exists():
            for line in _sweep(open_store(tracking, root)):
                say(line)
    except Exception as problem:  # nothing waits for this, and it can be done again
        say(f"warning: {redacted(str(problem))}")


def _sweep(store: Store) -> Iterator[str]:
    """End the runs of trainings that are over and could not say so."""
    with answering(store.uri):
        for run in store.client.search_runs([store.experiment_id], f"attributes.status = 'RUNNING' and tags.`{RUN_KEY}` LIKE '%'"):
            if (verdict := _verdict(run)) is not None:
                status, last = verdict
                store.client.set_terminated(run.info.run_id, status, end_time=int(last * 1000))
                yield f"MLflow: run {run.info.run_id} of a training that is over since {clock(last)} is {status} now"


def _verdict(run: Any) -> tuple[str, float] | None:
    """How and when the training of a RUNNING run ended; None where it lives.

    By its lock, where the state of this very run can be seen from here; else by its last sign of life.
    """
    try:
        last = datetime.fromisoformat(run.data.tags[HEARTBEAT]).timestamp()
    except (KeyError, ValueError):
        last = float(run.info.start_time) / 1000
    try:
        storage = open_storage(run.data.tags[STATE])
        outbox = outboxes.read(storage)
    except (KeyError, OSError, ValueError):
        outbox = None
    if outbox is not None and outbox.run_key == run.data.tags[RUN_KEY]:
        if not outbox.is_over(storage):
            return None
        if outbox.attempt == run.data.tags.get(START):
            return outbox.status or "KILLED", outbox.ended or last
    return ("KILLED", last) if time.time() - last > STALE_SECONDS else None
