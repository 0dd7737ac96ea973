"""MLflow: the only file that imports it. Everything else hands it plain numbers and paths.

One run a training, found again by its run key, so that a resume, the evaluation and the registration all speak of the same run. A call may fail at
any moment, even after the server has done what it was asked: so each step asks first what the run has, and can be made again. Shipping, delivering
late and sweeping stand in one file, because all three rest on that.
"""

import contextlib
import json
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ganlib.files import sha256_file
from ganlib.storage import Storage, open_storage
from pipeline import outbox as outboxes
from pipeline.follow import Follower
from pipeline.outbox import STALE_SECONDS, Outbox, TrainingFacts
from pipeline.params import ROOT, Params

__all__ = ["Store", "TrainingFacts", "TrainingRun", "deliver_pending", "log_evaluation", "open_store", "tracking_uri"]

RUN_KEY = "gan.run_key"
STATE = "gan.state"
ATTEMPT = "gan.attempt"
HEARTBEAT = "gan.heartbeat"
LAST_EVENT = "gan.last_event"
EVALUATION = "gan.evaluation"
HEARTBEAT_SECONDS = 60.0
MAX_METRICS = 1000  # in one call; a call is one transaction
_ONE_AT_A_TIME = threading.RLock()  # importing MLflow, making a store: neither is safe from two threads


def tracking_uri(params: Params, root: Path = ROOT) -> str:
    """MLFLOW_TRACKING_URI, else `tracking.uri`, else a sqlite file in the project folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or params.tracking.uri or f"sqlite:///{root / 'mlflow.db'}"


def _mlflow(uri: str) -> Any:
    """The mlflow module, pointed at `uri`, quiet, without telemetry and without pickle."""
    for key, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # at once, for a connection that has gone stale; a server that is away is noticed in milliseconds
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(key, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the import
        import mlflow
    for name in ("alembic", "mlflow", "mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow


class Unanswered(OSError):
    """The tracking store cannot be reached, or refuses; names it."""


class Store:
    """One MLflow tracking store and experiment.

    Args:
        uri: tracking URI.
        experiment: name; made when it is not there, with artifacts beside a sqlite store.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = uri
        self.mlflow = _mlflow(uri)
        self.client = self.mlflow.MlflowClient(uri)
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            location = str(Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts") if uri.startswith("sqlite:///") else None
            try:
                self.experiment_id = self.client.create_experiment(experiment, artifact_location=location)
            except self.mlflow.exceptions.MlflowException:  # somebody was faster
                self.experiment_id = self.client.get_experiment_by_name(experiment).experiment_id
        else:
            self.experiment_id = found.experiment_id

    def find_run(self, run_key: str) -> str | None:
        """The id of the run of this training, whatever its status."""
        runs = self._runs(run_key)
        return str(runs[0].info.run_id) if runs else None

    def run(self, run_key: str, *, started: float | None = None) -> tuple[Any, bool]:
        """The run of this training, made when there is none, and whether it was made now.

        An answer that got lost may have left a second, empty run behind: it is deleted.

        Args:
            started: of the training, in seconds since 1970, for a new run.
        """
        runs = self._runs(run_key)
        is_new = not runs
        if is_new:
            start_time = None if started is None else int(started * 1000)
            self.client.create_run(self.experiment_id, run_name=run_key[:12], tags={RUN_KEY: run_key}, start_time=start_time)
            runs = self._runs(run_key)
        for twin in runs[1:]:
            if not twin.data.metrics:
                self.client.delete_run(twin.info.run_id)
        return runs[0], is_new

    def _runs(self, run_key: str) -> list[Any]:
        """Those that have something first, then the oldest, so that everybody takes the same one."""
        runs = self.client.search_runs([self.experiment_id], f"tags.`{RUN_KEY}` = '{run_key}'")
        return sorted(runs, key=lambda run: (not run.data.metrics, run.info.start_time, run.info.run_id))

    def address(self, run_id: str) -> str:
        """What a person types to look at a run."""
        return f"{self.uri} run {run_id}"


def open_store(params: Params, root: Path = ROOT) -> Store:
    """The store params.yaml and the environment name.

    Raises:
        Unanswered: it does not answer.
    """
    uri = tracking_uri(params, root)
    with answering(uri), _ONE_AT_A_TIME:
        return Store(uri, params.tracking.experiment)


@contextlib.contextmanager
def answering(uri: str) -> Iterator[None]:
    """Whatever the store's driver raises in this block (SQL, HTTP, ...) becomes an Unanswered."""
    try:
        yield
    except Unanswered:
        raise
    except Exception as error:
        if type(error).__module__ == "builtins" and not isinstance(error, OSError):  # a mistake of ours
            raise
        raise Unanswered(f"MLflow at {uri} does not answer (MLFLOW_TRACKING_URI or tracking.uri): {error}") from error


class TrainingRun:
    """A listener that ships a training into its run. Nothing is written twice, however often it is told.

    Args:
        storage: of the training's state; its outbox is written there.
        outbox: of a training that has ended, to deliver it late; default: of one that begins.
    """

    name = "MLflow"
    remedy = "The training is none the worse; the rest is kept in its state, and the next stage or `python -m pipeline.deliver` delivers it"

    def __init__(self, params: Params, facts: TrainingFacts | Outbox, storage: Storage, root: Path = ROOT) -> None:
        self._params = params
        self._storage = storage
        self._root = root
        self._outbox = facts if isinstance(facts, Outbox) else Outbox.of(facts)
        self._changing = threading.Lock()  # the outbox: two threads do
        self._open: tuple[Store, str] | None = None
        self._has_facts = False
        self._is_empty = False  # the run, when it was found
        self._has_points: dict[str, set[tuple[int, str]]] = {}  # metric -> (step, value) that the run has
        self._last_note = self._last_beat = -HEARTBEAT_SECONDS

    def begin(self) -> None:
        self._outbox.write(self._storage)

    def lines(self, lines: list[dict[str, Any]]) -> None:
        """Losses over images, with the time they were made. A line the run has already, computed again at another time, is left out."""
        with self._run() as (store, run_id):
            metric = store.mlflow.entities.Metric
            batch: list[Any] = []
            for line in lines:
                name, point = _mark(line)
                if point in self._points(store, run_id, name):
                    continue
                when, step = int(line["time"] * 1000), line["images_seen"]
                values = {**line["scalars"], "images_per_second": line["images_per_second"]}
                if len(batch) + len(values) > MAX_METRICS:  # a line is whole in one call, so that one of its points stands for all
                    store.client.log_batch(run_id, metrics=batch)
                    batch = []
                batch += [metric(f"train/{key}", float(value), when, step) for key, value in values.items()]
            store.client.log_batch(run_id, metrics=batch)
            for name, point in map(_mark, lines):
                self._has_points[name].add(point)

    def grid(self, path: Path) -> None:
        with self._run() as (store, run_id):
            store.client.log_artifact(run_id, str(path), "grids")

    def event(self, text: str) -> None:
        with self._run() as (store, run_id):
            store.client.set_tag(run_id, LAST_EVENT, text[:4000])

    def beat(self) -> None:
        """Show, in the outbox and in the run, that the training is alive."""
        now = time.monotonic()
        if now - self._last_note >= HEARTBEAT_SECONDS:
            self._change(heartbeat=time.time())
            self._last_note = now
        with self._run() as (store, run_id):
            if now - self._last_beat >= HEARTBEAT_SECONDS:
                store.client.set_tag(run_id, HEARTBEAT, _clock(self._outbox.heartbeat))
                store.client.update_run(run_id, status="RUNNING")  # somebody may have thought it dead
                self._last_beat = now

    def note_end(self, status: str) -> None:
        self._change(status=status, ended=time.time())

    def end(self, status: str) -> None:
        current = outboxes.read(self._storage)
        if current is not None and current.attempt != self._outbox.attempt:
            return  # the training has begun again, and will end again
        with contextlib.suppress(FileNotFoundError):
            self._keep("events.jsonl", self._storage.read("events.jsonl").decode(errors="replace"))
        with self._run() as (store, run_id):
            ended = self._outbox.ended or self._outbox.heartbeat
            store.client.set_terminated(run_id, status, end_time=int(ended * 1000))
        self._change(status=status, delivered=True)

    def _change(self, **values: Any) -> None:
        with self._changing:
            self._outbox = self._outbox.model_copy(update=values)
            current = outboxes.read(self._storage)
            if current is None or current.attempt == self._outbox.attempt:  # else a later attempt has its own to tell
                self._outbox.write(self._storage)

    def _keep(self, name: str, text: str) -> None:
        with self._run() as (store, run_id):
            store.client.log_text(run_id, text, name)

    @contextlib.contextmanager
    def _run(self) -> Iterator[tuple[Store, str]]:
        """The store and the run's id. After a failure nobody knows what the run has, so the next block asks again."""
        with answering(tracking_uri(self._params, self._root)):
            try:
                self._open = self._open or self._find()
                yield self._open
            except Exception:
                self._open = None
                self._has_points = {}
                raise

    def _find(self) -> tuple[Store, str]:
        store, facts = open_store(self._params, self._root), self._outbox
        run, _ = store.run(facts.run_key, started=facts.started)
        run_id = str(run.info.run_id)
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
        tags = {**facts.tags, STATE: self._storage.uri, ATTEMPT: facts.attempt, HEARTBEAT: _clock(facts.heartbeat)}
        params = {key: str(value) for key, value in flatten(facts.params).items() if key not in run.data.params}  # they cannot change
        store.client.log_batch(
            run_id,
            tags=[entities.RunTag(key, value) for key, value in tags.items()],
            params=[entities.Param(key, value) for key, value in params.items()],
        )
        source = json.dumps({"source": facts.data_source})
        dataset = entities.Dataset(facts.data_source, facts.data_digest[:32], "local", source)
        store.client.log_inputs(run_id, [entities.DatasetInput(dataset, [entities.InputTag("mlflow.data.context", "training")])])
        for name, text in facts.files.items():
            store.client.log_text(run_id, text, name)

    def _points(self, store: Store, run_id: str, name: str) -> set[tuple[int, str]]:
        if name not in self._has_points:
            history = [] if self._is_empty else store.client.get_metric_history(run_id, f"train/{name}")
            self._has_points[name] = {(point.step, _rounded(point.value)) for point in history}
        return self._has_points[name]


def _mark(line: Mapping[str, Any]) -> tuple[str, tuple[int, str]]:
    """The metric and the point that stand for a line: computed again they are the same, after a rollback they are not."""
    name = min(line["scalars"], key=lambda name: (not name.startswith("loss_"), name))
    return name, (line["images_seen"], _rounded(line["scalars"][name]))


def _rounded(value: float) -> str:
    return f"{value:.9g}"  # what any store keeps of a number


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def deliver_pending(params: Params, root: Path = ROOT, *, limit_seconds: float | None = None) -> list[str]:
    """Tell MLflow what trainings below `train.state_uri` could not tell it, and end RUNNING runs whose training is dead.

    Never raises.

    Args:
        limit_seconds: how long to wait; None: not at all, and what there is to say is printed when it is known. What is not done then goes on
            in the background while the process lives.

    Returns:
        lines for a person; none when there was nothing to do.
    """
    said: list[str] = []
    say = said.append if limit_seconds is not None else partial(print, flush=True)
    thread = threading.Thread(target=_deliver_and_sweep, args=(params, root, say), name="deliver to MLflow", daemon=True)
    thread.start()
    if limit_seconds is not None:
        thread.join(limit_seconds)
        if thread.is_alive():
            return [*said, f"warning: MLflow at {tracking_uri(params, root)} is slow: not done after {limit_seconds:g} s"]
    return said


def _deliver_and_sweep(params: Params, root: Path, say: Callable[[str], None]) -> None:
    try:
        for storage, outbox in outboxes.pending(params, root):
            status = outbox.status or "KILLED"
            try:
                Follower(storage, TrainingRun(params, outbox, storage, root)).deliver_all(status)
                say(f"MLflow: training {outbox.run_key[:12]} is complete now ({status})")
            except Unanswered:
                raise
            except Exception as problem:  # of this training; the others can be delivered
                say(f"warning: MLflow does not get what {storage.uri} has: {problem!r}")
        uri = tracking_uri(params, root)
        if not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists():
            for line in _sweep(open_store(params, root)):
                say(line)
    except Exception as problem:  # nothing waits for this, and it can be done again
        say(f"warning: {problem}")


def _sweep(store: Store) -> Iterator[str]:
    """End the runs of trainings that are over and could not say so."""
    with answering(store.uri):
        for run in store.client.search_runs([store.experiment_id], f"attributes.status = 'RUNNING' and tags.`{RUN_KEY}` LIKE '%'"):
            if (verdict := _verdict(run)) is not None:
                status, last = verdict
                store.client.set_terminated(run.info.run_id, status, end_time=int(last * 1000))
                yield f"MLflow: run {run.info.run_id} of a training that is over since {_clock(last)} is {status} now"


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
        if outbox.attempt == run.data.tags.get(ATTEMPT):
            return outbox.status or "KILLED", outbox.ended or last
    return ("KILLED", last) if time.time() - last > STALE_SECONDS else None


def log_evaluation(params: Params, root: Path = ROOT) -> str:
    """Put the numbers and pictures of reports/ into the run of the training they are about, unless it has them.

    Returns:
        where to look at the run.

    Raises:
        Unanswered: the store does not answer.
    """
    reports = root / "reports"
    generator = json.loads((root / "models" / "generator.json").read_text(encoding="utf-8"))
    measured = json.loads((reports / "evaluation.json").read_text(encoding="utf-8"))
    store, digest = open_store(params, root), sha256_file(reports / "evaluation.json")
    with answering(store.uri):
        run, is_new = store.run(generator["run_key"])
        run_id, entities = str(run.info.run_id), store.mlflow.entities
        if run.data.tags.get(EVALUATION) != digest:
            for path in (*reports.glob("report.html"), *sorted((reports / "plots").glob("*.png"))):
                store.client.log_artifact(run_id, str(path), "evaluation")
            when = int((reports / "evaluation.json").stat().st_mtime * 1000)  # told again, it is the same point
            metrics = [
                entities.Metric(f"evaluation/{key}", float(value), when, generator["images_seen"])
                for key, value in measured.items()
                if isinstance(value, int | float)
            ]
            store.client.log_batch(run_id, metrics=metrics, tags=[entities.RunTag(EVALUATION, digest)])
        if is_new:  # the training was not tracked here
            store.client.set_terminated(run_id, "FINISHED")
    return store.address(run_id)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted keys; an empty mapping stays a value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
