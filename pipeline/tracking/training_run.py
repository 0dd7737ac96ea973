"""A training as a run of MLflow, shipped while it trains or later. A listener of `pipeline.tracking.follow`."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ganlib.redact import redacted
from ganlib.storage import Storage
from pipeline.params import ROOT
from pipeline.tracking import logged_models, system_metrics
from pipeline.tracking import outbox as outboxes
from pipeline.tracking.card import RESERVED
from pipeline.tracking.outbox import Checkpoint, Outbox, TrainingFacts
from pipeline.tracking.settings import TrackingConfig
from pipeline.tracking.store import Store, answering, import_mlflow, open_store, tracking_uri
from pipeline.tracking.system_metrics import SystemMetrics

STATE = "gan.state"
START = "gan.attempt"  # which start of the training told the run last
HEARTBEAT = "gan.heartbeat"
LAST_EVENT = "gan.last_event"
SYSTEM = "gan.system_metrics"  # why there are none
SCORE = "selection/kid"
ALARMS = "alarms"
HEARTBEAT_SECONDS = 60.0
MAX_METRICS = 1000  # in one call; a call is one transaction


class TrainingRun:
    """A listener that ships a training into its run. Nothing is written twice, however often it is told.

    Args:
        storage: of the training's state; its outbox is written there.
        outbox: of a training that has ended, to deliver it late; default: of one that begins.
    """

    name = "MLflow"
    remedy = "The training is none the worse; the rest is kept in its state, and the next stage or `python -m pipeline.deliver` delivers it"

    def __init__(self, tracking: TrackingConfig, facts: TrainingFacts | Outbox, storage: Storage, root: Path = ROOT) -> None:
        self._tracking = tracking
        self._storage = storage
        self._root = root
        self._outbox = facts if isinstance(facts, Outbox) else Outbox.of(facts)
        self.interval_images = self._outbox.interval_images
        self._changing = threading.Lock()  # the outbox: two threads do
        self._open: tuple[Store, str] | None = None
        self._has_facts = False
        self._is_empty = False  # the run, when it was found
        self._run_started = self._outbox.started
        self._has_points: dict[str, set[tuple[int, str]]] = {}  # metric -> (step, value) that the run has
        self._last_note = self._last_beat = -HEARTBEAT_SECONDS
        is_live = not isinstance(facts, Outbox)
        self._system = SystemMetrics(tracking_uri(tracking, root)) if is_live and system_metrics.is_enabled() else None

    def begin(self) -> None:
        self._outbox.write(self._storage)

    def prepare(self) -> None:
        """Import MLflow: seconds, and many of them where the workers are being started at the same time."""
        import_mlflow()

    def lines(self, lines: list[dict[str, Any]]) -> None:
        """Losses over images, with the time they were made."""
        self._sample()
        self._ship(lines, prefix="train", numbers="scalars", clocks=("images_per_second",))

    def health(self, lines: list[dict[str, Any]]) -> None:
        """Measurements over images, and as a tag the alarms so far; lines that a resume has written anew do not say them."""
        self._ship(lines, prefix="health", numbers="values", clocks=("images_per_second", "memory_bytes"))
        if (said := lines[-1].get("alarms")) is not None:
            with self._run() as (store, run_id):
                store.client.set_tag(run_id, ALARMS, "; ".join(said)[:4000] or "none")

    def _ship(self, lines: list[dict[str, Any]], *, prefix: str, numbers: str, clocks: tuple[str, ...]) -> None:
        """Lines as points of PREFIX/NAME. A line the run has already, computed again at another time, is left out.

        Args:
            numbers: key of a line whose numbers are the same whenever it is computed.
            clocks: keys of numbers that are not.
        """
        with self._run() as (store, run_id):
            metric = store.mlflow.entities.Metric
            batch: list[Any] = []
            for line in lines:
                name, point = _mark(line, prefix, numbers)
                if point in self._points(store, run_id, name):
                    continue
                when, step = int(line["time"] * 1000), line["images_seen"]
                values = {**line[numbers], **{clock: line[clock] for clock in clocks}}
                if len(batch) + len(values) > MAX_METRICS:  # a line is whole in one call, so that one of its points stands for all
                    store.client.log_batch(run_id, metrics=batch)
                    batch = []
                batch += [metric(f"{prefix}/{key}", float(value), when, step) for key, value in values.items()]
            store.client.log_batch(run_id, metrics=batch)
            for line in lines:
                name, point = _mark(line, prefix, numbers)
                self._has_points[name].add(point)

    def grid(self, path: Path) -> None:
        with self._run() as (store, run_id):
            store.client.log_artifact(run_id, str(path), "grids")

    def event(self, text: str) -> None:
        with self._run() as (store, run_id):
            store.client.set_tag(run_id, LAST_EVENT, redacted(text)[:4000])

    def beat(self) -> None:
        """Show, in the outbox and in the run, that the training is alive."""
        now = time.monotonic()
        if now - self._last_note >= HEARTBEAT_SECONDS:
            self._change(heartbeat=time.time())
            self._last_note = now
        self._sample()
        with self._run() as (store, run_id):
            if now - self._last_beat >= HEARTBEAT_SECONDS:
                store.client.set_tag(run_id, HEARTBEAT, clock(self._outbox.heartbeat))
                store.client.update_run(run_id, status="RUNNING")  # somebody may have thought it dead
                self._ship_samples(store, run_id)
                self._last_beat = now

    def note_checkpoints(self, checkpoints: Sequence[Checkpoint]) -> None:
        """What is kept of a training that is finished; called by its thread, and only written down."""
        with contextlib.suppress(OSError):  # of the state: then only this process can tell it, and the training is finished all the same
            self._change(checkpoints=tuple(checkpoints))

    def note_end(self, status: str) -> None:
        self._change(status=status, ended=time.time())

    def end(self, status: str) -> None:
        current = outboxes.read(self._storage)
        if current is not None and current.attempt != self._outbox.attempt:
            return  # the training has begun again, and will end again
        with contextlib.suppress(FileNotFoundError):
            self._keep("events.jsonl", self._storage.read("events.jsonl").decode(errors="replace"))
        with self._run() as (store, run_id):
            self._ship_samples(store, run_id)
            self._tell_checkpoints(store, run_id)
            ended = self._outbox.ended or self._outbox.heartbeat
            store.client.set_terminated(run_id, status, end_time=int(ended * 1000))
        self._change(status=status, delivered=True)

    def _change(self, **values: Any) -> None:
        with self._changing:
            self._outbox = self._outbox.model_copy(update=values)
            current = outboxes.read(self._storage)
            if current is None or current.attempt == self._outbox.attempt:  # else a later attempt has its own to tell
                self._outbox.write(self._storage)

    def _sample(self) -> None:
        if self._system is not None and self._has_facts:  # MLflow is imported then
            self._system.sample()

    def _ship_samples(self, store: Store, run_id: str) -> None:
        if self._system is None:
            return
        self._system.ship(store.client, run_id, store.mlflow.entities.Metric, started=self._run_started)
        if self._system.problem:
            store.client.set_tag(run_id, SYSTEM, f"none: {redacted(self._system.problem)}"[:4000])

    def _tell_checkpoints(self, store: Store, run_id: str) -> None:
        """Kept checkpoints as LoggedModels with their score, so that the best is found. Their files stay in the state."""
        facts = self._outbox
        if not facts.checkpoints:
            return
        run = store.client.get_run(run_id)
        for checkpoint in facts.checkpoints:
            model = logged_models.logged_model(
                store,
                run,
                holds=checkpoint.sha256,
                kind=logged_models.CHECKPOINT,
                name=f"{run.info.run_name}-{checkpoint.images_seen}",
                tags={"gan.images_seen": str(checkpoint.images_seen), STATE: redacted(f"{self._storage.uri}/{checkpoint.folder}")},
            )
            if not model.metrics:
                when, step = int((facts.ended or facts.heartbeat) * 1000), checkpoint.images_seen
                on = {"source": facts.data_source, "data_digest": facts.data_digest}
                points = logged_models.measured(store, {SCORE: checkpoint.score}, model=model, when=when, step=step, **on)
                store.client.log_batch(run_id, metrics=points)
            logged_models.link(store, run_id, model, step=checkpoint.images_seen)

    def _keep(self, name: str, text: str) -> None:
        with self._run() as (store, run_id):
            store.client.log_text(run_id, text, name)

    @contextlib.contextmanager
    def _run(self) -> Iterator[tuple[Store, str]]:
        """The store and the run's id. After a failure nobody knows what the run has, so the next block asks again."""
        with answering(tracking_uri(self._tracking, self._root)):
            try:
                self._open = self._open or self._find()
                yield self._open
            except Exception:
                self._open = None
                self._has_points = {}
                raise

    def _find(self) -> tuple[Store, str]:
        store, facts = open_store(self._tracking, self._root), self._outbox
        own = {key: value for key, value in facts.tags.items() if key.startswith(RESERVED)}
        run, _ = store.run(facts.run_key, name=facts.name, tags=own, started=facts.started)
        run_id = str(run.info.run_id)
        self._run_started = run.info.start_time / 1000
        self._is_empty = not run.data.metrics
        if facts.status is None and run.info.status != "RUNNING":
            store.client.update_run(run_id, status="RUNNING")
        if not self._has_facts:
            self._tell_facts(store, run)
            self._has_facts = True
            self._last_beat = time.monotonic()
        return store, run_id

    def _tell_facts(self, store: Store, run: Any) -> None:
        facts, entities, run_id = self._outbox, store.mlflow.entities, run.info.run_id
        kept = {key for key in run.data.tags if key.startswith(RESERVED)}  # a description may have been written by hand since
        tags = {key: value for key, value in facts.tags.items() if key not in kept}
        tags |= {STATE: self._storage.uri, START: facts.attempt, HEARTBEAT: clock(facts.heartbeat)}
        params = {
            key: redacted(str(value)) for key, value in flatten(facts.params).items() if key not in run.data.params
        }  # they cannot change
        store.client.log_batch(
            run_id,
            tags=[entities.RunTag(key, value) for key, value in tags.items()],
            params=[entities.Param(key, value) for key, value in params.items()],
        )
        source = json.dumps({"source": facts.data_source})
        dataset = entities.Dataset(facts.data_source, facts.data_digest[: logged_models.DIGEST_CHARACTERS], "local", source)
        store.client.log_inputs(run_id, [entities.DatasetInput(dataset, [entities.InputTag("mlflow.data.context", "training")])])
        for name, text in facts.files.items():
            store.client.log_text(run_id, text, name)

    def _points(self, store: Store, run_id: str, name: str) -> set[tuple[int, str]]:
        if name not in self._has_points:
            history = [] if self._is_empty else store.client.get_metric_history(run_id, name)
            self._has_points[name] = {(point.step, _rounded(point.value)) for point in history}
        return self._has_points[name]


def _mark(line: Mapping[str, Any], prefix: str, numbers: str) -> tuple[str, tuple[int, str]]:
    """The metric and the point that stand for a line: computed again they are the same, after a rollback they are not."""
    name = min(line[numbers], key=lambda name: (not name.startswith("loss_"), name))
    return f"{prefix}/{name}", (line["images_seen"], _rounded(line[numbers][name]))


def _rounded(value: float) -> str:
    return f"{value:.9g}"  # what any store keeps of a number


def clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted keys; an empty mapping stays a value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
