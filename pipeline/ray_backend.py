"""Ray: the only file that trains with it. Starts a local Ray when none is there, joins the one it is pointed at, and keeps a worker group at work.

Ray Train runs one worker group at a time and restarts nothing: the loop here does, because it knows what Ray does not. A group's size must divide the
logical workers; a group that is to grow saves first; some failures are final. What a group continues from is our own bundle store, so nothing is
reported to Ray. Long for its kind because all of Ray stands in one file.
"""

import errno
import json
import logging
import math
import os
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from ganlib.config import Section
from ganlib.storage import Storage, StorageError, open_storage
from ganlib.training.loop import Interrupted, TrainingSpec, train
from ganlib.training.state import BundleStore
from ganlib.training.step import DivergenceError
from pipeline import processes
from pipeline.lock import Superseded, require_owner
from pipeline.params import ROOT, ClusterConfig

SHUTDOWN_TIMEOUT = "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S"
RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # it would take SIGTERM from us and abort
    "RAY_worker_niceness": "0",  # training is what this Ray is for; at its default of 15 any other process comes first
    "RAY_metrics_report_interval_ms": "60000",
    "RAY_task_events_report_interval_ms": "60000",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # a dead worker is noticed within this
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",  # nodes may have gone since they were counted: count again after so long
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an actor more; the loop below sees a node that is going
    SHUTDOWN_TIMEOUT: "3",  # a worker that hangs does not answer; half a minute at its default
}
LOCAL_OBJECT_STORE_BYTES = 128 * 2**20  # nothing large goes through it
STOP = "stop"  # in the state: workers save and end
ATTEMPT = "attempt"  # in the state: which worker group may write; a worker of an earlier one that wakes up late ends
SUPERSEDED_EXIT_CODE = 87
STARTED_BY = "GANPIPE_RAY_STARTED_BY"  # in the environment of everything a Ray of our own starts: pid and start of the driver

LOOK_SECONDS = 2.0  # how often the cluster is looked at
GROW_SECONDS = 10.0  # a larger group must have been possible for so long: a node that flickers stops nobody
SETTLE_SECONDS = 5.0  # what a group that has ended held is free again within this
HEAD_SECONDS = 30.0  # a Ray that is silent for so long is gone; it ends this process itself after a minute
OWN_RAY_SECONDS = 6.0  # the same for one of our own


class ClusterError(ValueError):
    """The cluster cannot do what params.yaml asks, or the training failed on it."""


class RayLost(ClusterError):
    """The Ray that was connected does not answer any more."""


class Worker(Section):
    """What travels to a worker."""

    spec: TrainingSpec
    owner: str  # token of the lock; empty: nobody holds one
    attempt: str  # of this worker group
    hang_timeout_seconds: float


class _Watch(threading.Thread):
    """Looks at the state in the background, so that the training loop reads a flag. Ends the process when it may no longer write."""

    def __init__(self, storage: Storage, worker: Worker) -> None:
        super().__init__(name="watch", daemon=True)
        self._storage, self._worker = storage, worker
        self._is_over = threading.Event()
        self.should_stop = False

    def __enter__(self) -> "_Watch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()

    def run(self) -> None:
        while not self._is_over.wait(max(1.0, self._storage.poll_seconds)):
            try:
                self.require_current()
                self.should_stop = self.should_stop or STOP in self._storage.names("")
            except Superseded as reason:
                print(f"this worker ends: {reason}", file=sys.stderr, flush=True)
                os._exit(SUPERSEDED_EXIT_CODE)  # at once, whatever the training thread waits for
            except OSError:
                continue  # a store that is away for a moment; writing a checkpoint is what reports it

    def require_current(self) -> None:
        """Raise Superseded where another driver, or another worker group of this one, is at this training."""
        if self._worker.owner:
            require_owner(self._storage, self._worker.owner)
        if (current := self._storage.read(ATTEMPT).decode()) != self._worker.attempt:
            raise Superseded(f"worker group {current} has taken the place of {self._worker.attempt} in {self._storage.uri}")


def _work(config: dict[str, Any]) -> None:
    """The train loop of one worker; Ray has opened the process group."""
    worker = Worker.model_validate_json(config["worker"])
    spec = worker.spec
    for path in [Path(spec.data)] if "://" in spec.folder else [Path(spec.folder), Path(spec.data)]:
        if not path.exists():
            raise ClusterError(
                f"node {os.uname().nodename} does not see {path}: every node needs the project folder at the same place, on a file system they "
                "share (the state of the training may also lie in an object store: train.state_uri)"
            )
    with _Watch(open_storage(spec.folder), worker) as watch:
        try:
            train(
                spec,
                should_stop=lambda: watch.should_stop,
                fence=watch.require_current,
                hang_timeout_seconds=worker.hang_timeout_seconds,
            )
        except Interrupted:
            return  # the driver asked for it


@contextmanager
def connected(cluster: ClusterConfig, cpus: float) -> Iterator[bool]:
    """A Ray connection: `cluster.address`, else RAY_ADDRESS, else a Ray of our own on this machine, with `cpus` or more, that ends with the block.

    Yields:
        whether it is our own.

    Raises:
        ClusterError: no Ray answers at the address, or none can be started.
    """
    for key, value in RAY_SETTINGS.items():
        os.environ.setdefault(key, value)
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = f"{cluster.hang_timeout_seconds:g}"
    import ray

    own = _OwnProcesses()
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a submitted job brings its own working folder
                common["runtime_env"] = {
                    "py_modules": [str(ROOT / "ganlib"), str(ROOT / "pipeline")],
                    "env_vars": {SHUTDOWN_TIMEOUT: os.environ[SHUTDOWN_TIMEOUT]},
                }
            _require_listener(address)
            with _our_sigterm():
                ray.init(address=address, **common)
        else:
            driver = processes.this()
            os.environ[STARTED_BY] = f"{driver.pid} {driver.started}"
            with _our_sigterm():
                ray.init(
                    address="local",
                    num_cpus=max(os.cpu_count() or 1, math.ceil(cpus)),
                    include_dashboard=False,
                    object_store_memory=LOCAL_OBJECT_STORE_BYTES,
                    **common,
                )
    except (OSError, ValueError, RuntimeError) as error:  # ConnectionError is an OSError
        if address:
            raise ClusterError(f"no Ray answers at {address!r} (cluster.address or RAY_ADDRESS): {error}") from error
        raise ClusterError(f"no Ray can be started on this machine: {error}") from error
    except BaseException:  # a second Ctrl-C in the middle of it
        own.end()
        raise
    try:
        yield not address
    finally:
        _bounded(ray.shutdown, seconds=20)
        own.end()


@contextmanager
def _our_sigterm() -> Iterator[None]:
    """`ray.init` would set a SIGTERM handler that exits on the spot; whoever called us has one that saves first."""
    from ray._private import utils

    theirs, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = theirs


class _OwnProcesses:
    """What this process starts from now on, to be ended with it: a Ray that was shot leaves some of it behind."""

    def __init__(self) -> None:
        self._before = set(psutil.Process().children(recursive=True))
        self._seen: set[psutil.Process] = set()
        self._is_over = threading.Event()
        threading.Thread(target=self._watch, name="own processes", daemon=True).start()

    def _watch(self) -> None:
        while not self._is_over.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        self._seen = {
            process for process in self._seen | set(psutil.Process().children(recursive=True)) - self._before if process.is_running()
        }

    def end(self) -> None:
        """Kill what is left."""
        self._is_over.set()
        self._look()
        for process in self._seen:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(list(self._seen), timeout=10)


def end_orphans() -> None:
    """Kill what is left of the Rays of drivers that died: some of Ray's helpers outlive both the driver and the raylet."""
    for process in psutil.process_iter():
        try:
            pid, _, started = process.environ().get(STARTED_BY, "").partition(" ")
            if pid and not processes.Process(int(pid), float(started)).is_alive():
                process.kill()
        except (psutil.Error, ValueError):  # gone, or another user's
            continue


def _require_listener(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT: Ray itself would try for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _bounded(action: Any, *, seconds: float) -> None:
    """Call `action`, but wait no longer than this for it: Ray's calls wait for ever where its head is gone."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(seconds)


def run(spec: TrainingSpec, cluster: ClusterConfig, *, owner: str = "", stopping: threading.Event | None = None) -> None:
    """Train until done, or until `stopping` is set and the workers have saved; returns either way.

    A worker group that fails is started again from the newest checkpoint, on as many workers as the cluster then has room for. One that could be
    larger saves and is started again.

    Args:
        owner: token of the lock on the state, which each worker checks; empty: no lock.

    Raises:
        ClusterError: in the worker's own words, where a new try would not help or `cluster.max_failures` of them in a row brought no new
            checkpoint.
    """
    driver = _Driver(spec, cluster, owner=owner, stopping=stopping or threading.Event())
    while True:
        with connected(cluster, driver.cpus) as is_own:
            _quiet()
            try:
                driver.run(is_own=is_own)
                return
            except RayLost as lost:
                if driver.is_stopping:
                    return
                if not is_own:
                    raise
                driver.count_failure(lost, workers=0)


class _Driver:
    """Keeps one worker group at work."""

    def __init__(self, spec: TrainingSpec, cluster: ClusterConfig, *, owner: str, stopping: threading.Event) -> None:
        self._spec, self._cluster, self._owner, self._stopping = spec, cluster, owner, stopping
        self._storage = open_storage(spec.folder)
        self._sizes = cluster.group_sizes(spec.train.logical_workers)
        self._failures, self._newest = 0, self._newest_step()
        self._may_wait = False
        self._owed: dict[str, Any] = {}  # what `driver.jsonl` is to be told when the next worker group starts

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    @property
    def cpus(self) -> float:
        """What the largest group needs."""
        return self._sizes[0] * self._cluster.cpus_per_worker

    def run(self, *, is_own: bool) -> None:
        """Worker groups one after the other, on the Ray that is connected.

        Raises:
            ClusterError: a final failure, too many failures, or nothing to run on.
            RayLost: the Ray is gone.
        """
        self._may_wait = self._may_wait or (not is_own and len(self._sizes) > 1)
        with _View(self._cluster, patience_seconds=OWN_RAY_SECONDS if is_own else HEAD_SECONDS) as self._view:
            while (size := self._size()) and self._attempt(size):
                self._may_wait = True

    def _attempt(self, size: int) -> bool:
        """One worker group, until it ends; whether another one is needed."""
        is_needed, failure = self._group(size)
        if failure is None or self._stopping.is_set():  # what fails while it is to end has ended
            return is_needed and not self._stopping.is_set()
        self._view.refresh()  # is it Ray that failed?
        self.count_failure(failure, workers=size)
        return True

    def count_failure(self, error: Exception, *, workers: int) -> None:
        """Note it, and that there will be another try.

        Raises:
            ClusterError: there will not.
        """
        causes = _causes(error)
        final = next((cause for cause in causes.values() if _is_final(cause)), None)
        if final is not None:
            raise ClusterError(f"{type(final).__name__}: {final}") from error
        if self._owner:
            try:
                require_owner(self._storage, self._owner)
            except Superseded as superseded:
                raise ClusterError(str(superseded)) from error
        step, reason = self._newest_step(), _words(causes, error)
        self._failures, self._newest = 1 if step > self._newest else self._failures + 1, step
        if self._failures > self._cluster.max_failures:
            count = "" if self._failures == 1 else f" {self._failures} times without a new checkpoint in between"
            raise ClusterError(f"{reason}{count} (cluster.max_failures={self._cluster.max_failures})") from error
        self._owed = {
            "kind": "restart",
            "text": reason,
            "noticed": round(time.time(), 3),
            "workers_before": workers,
            "failures": self._failures,
        }

    def _newest_step(self) -> int:
        return max(BundleStore(self._storage, keep=self._spec.train.keep_checkpoints).steps(), default=0)

    def _note(self, size: int) -> None:
        """Write to `driver.jsonl` that another worker group starts, and why; `noticed` is when that was known."""
        if not self._owed:
            return
        text = f"{self._owed['text']}: {size} worker{'' if size == 1 else 's'} go on from step {self._newest_step()}"
        line = self._owed | {"time": round(time.time(), 3), "text": text, "workers": size}
        self._owed = {}
        try:
            self._storage.append("driver.jsonl", json.dumps(line) + "\n")
        except OSError as problem:
            print(f"warning: driver.jsonl: {problem}", file=sys.stderr, flush=True)

    def _size(self) -> int:
        """The largest group that there is room for now; 0 where the training is asked to stop.

        Raises:
            ClusterError: there is none, nor after `cluster.wait_for_nodes_seconds`.
        """
        _remove_placement_groups()
        began, was_said = time.monotonic(), False
        while not self._stopping.is_set():
            self._view.refresh()
            there = next((size for size in self._sizes if size <= self._view.room), 0)
            free = next((size for size in self._sizes if size <= self._view.free), 0)
            waited = time.monotonic() - began
            if free and (free == there or waited > SETTLE_SECONDS):  # what the group before held comes back in a moment
                return free
            if (not there and not self._may_wait) or waited > self._cluster.wait_for_nodes_seconds + SETTLE_SECONDS:
                raise ClusterError(self._shortage(there))
            if not was_said and waited > SETTLE_SECONDS:
                print(f"waiting up to {self._cluster.wait_for_nodes_seconds:g} s: {self._shortage(there)}", file=sys.stderr, flush=True)
                was_said = True
            time.sleep(0.5)
        return 0

    def _shortage(self, there: int) -> str:
        cluster, least = self._cluster, self._sizes[-1]
        each = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
        needed = " and ".join(f"{least * amount:g} {kind}s" for kind, amount in each.items() if amount)
        have = " and ".join(f"{self._view.total(kind):g} {kind}s" for kind, amount in each.items() if amount)
        busy = ", which others hold" if there else f" on {self._view.nodes} node{'' if self._view.nodes == 1 else 's'}"
        return (
            f"cluster.workers={cluster.workers} need {needed}, the cluster has {have}{busy}; "
            "lower cluster.workers or what each reserves (params.yaml: cluster)"
        )

    def _group(self, size: int) -> tuple[bool, Exception | None]:
        """One worker group, until it ends: whether it is to be started again with another size, and what Ray says of its failure."""
        self._note(size)
        self._storage.remove(STOP)
        attempt = uuid.uuid4().hex
        self._storage.write(ATTEMPT, attempt.encode())
        with tempfile.TemporaryDirectory(prefix="ray-train-", ignore_cleanup_errors=True) as scratch:
            fit = _Fit(self._trainer(size, attempt, scratch))
            fit.start()
            deadline, larger_since, resize, noticed = math.inf, math.inf, "", 0.0
            while fit.is_alive():
                fit.join(0.2)  # signal handlers run in between
                now = time.monotonic()
                if self._stopping.is_set() and deadline == math.inf:
                    deadline = now + self._cluster.stop_grace_seconds
                    self._ask_to_stop()
                if now > deadline:
                    print("the workers did not save in time (cluster.stop_grace_seconds); they are ended", file=sys.stderr, flush=True)
                    return False, None  # they end with the connection
                self._view.require_ray()
                room = min(size + self._view.free, self._view.room)
                larger = next((n for n in self._sizes if size < n <= room), 0)
                larger_since = min(larger_since, now) if larger else math.inf
                if not resize:
                    if now - larger_since > GROW_SECONDS:
                        resize = f"there is room for {larger} workers"
                    elif self._view.is_draining and self._view.room < size:
                        resize = "a node is being taken away"
                    if resize:
                        noticed = time.time()
                        self._ask_to_stop()
        if fit.failure is not None:
            return False, fit.failure
        if resize and not self._stopping.is_set():
            self._owed = {"kind": "resize", "text": resize, "noticed": round(noticed, 3), "workers_before": size}
            return True, None
        return False, None

    def _ask_to_stop(self) -> None:
        try:
            self._storage.write(STOP, b"")
        except OSError as problem:
            print(f"warning: the workers cannot be asked to save: {problem}", file=sys.stderr, flush=True)

    def _trainer(self, size: int, attempt: str, scratch: str) -> Any:
        import ray.train
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
        from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

        class Trainer(TorchTrainer):
            """Without two actors that would have nothing to do: each costs a process that imports Ray, at every restart."""

            def _create_default_callbacks(self) -> list[Any]:
                needless = (DatasetsCallback, PlacementGroupCleanerCallback)
                return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, needless)]

        cluster = self._cluster
        has_gpu = cluster.gpus_per_worker > 0
        worker = Worker(spec=self._spec, owner=self._owner, attempt=attempt, hang_timeout_seconds=cluster.hang_timeout_seconds)
        return Trainer(
            _work,
            train_loop_config={"worker": worker.model_dump_json()},
            torch_config=TorchConfig(backend="nccl" if has_gpu else "gloo", timeout_s=math.ceil(cluster.hang_timeout_seconds)),
            scaling_config=ray.train.ScalingConfig(
                num_workers=size,
                use_gpu=has_gpu,
                resources_per_worker={"CPU": cluster.cpus_per_worker, **({"GPU": cluster.gpus_per_worker} if has_gpu else {})},
            ),
            run_config=ray.train.RunConfig(
                name="ray",
                storage_path=scratch,  # nothing is reported, so Ray stores nothing that another node would need
                failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
            ),
        )


class _Fit(threading.Thread):
    """`trainer.fit()` in a thread of its own: in the main thread it would take Ctrl-C for itself and stop without a checkpoint."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(name="ray train", daemon=True)
        self._trainer = trainer
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as failure:
            self.failure = failure


class _View:
    """What the cluster has, looked at in the background: Ray's calls wait where its head is gone.

    Attributes:
        room: how many workers fit on the nodes that are alive.
        free: how many more than now at work would fit.
        nodes: how many nodes are alive.
        is_draining: a node is about to be taken away; it does not count any more.
    """

    def __init__(self, cluster: ClusterConfig, *, patience_seconds: float) -> None:
        import ray

        context = ray.get_runtime_context()
        self._cluster, self._patience_seconds = cluster, patience_seconds
        self._gcs, self._node = context.gcs_address, context.get_node_id()
        self._totals: dict[str, float] = {}
        self._trouble = ""
        self._is_over, self._wake = threading.Event(), threading.Event()
        self._seen = time.monotonic()
        self.room = self.free = self.nodes = 0
        self.is_draining = False

    def __enter__(self) -> "_View":
        threading.Thread(target=self._watch, name="view of the cluster", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._wake.set()

    def _watch(self) -> None:
        while not self._is_over.is_set():
            began = time.monotonic()
            self._wake.clear()
            try:
                self._look()
                self._seen = began
            except Exception as problem:  # `require_ray` tells
                self._trouble = str(problem)
            self._wake.wait(LOOK_SECONDS)

    def refresh(self) -> None:
        """Wait until what is known is from after this call."""
        asked = time.monotonic()
        self._wake.set()
        while self._seen < asked:
            self.require_ray()
            time.sleep(0.05)

    def _look(self) -> None:
        import ray
        from ray._private import state

        host, _, port = self._gcs.rpartition(":")
        _connect(host, int(port))
        draining = set(state.state.get_draining_nodes())
        nodes = [node for node in ray.nodes() if node["Alive"]]
        here = next(node for node in nodes if node["NodeID"] == self._node)
        if not _is_there(here):  # Ray ends this process, without a word of ours, soon after it has noticed
            self._patience_seconds = min(self._patience_seconds, OWN_RAY_SECONDS)
            raise ConnectionError("the raylet of this node is gone")
        alive = {node["NodeID"]: node for node in nodes if node["NodeID"] not in draining and _is_there(node)}
        free = state.available_resources_per_node()
        self._totals = {kind: sum(node["Resources"].get(kind, 0) for node in alive.values()) for kind in ("CPU", "GPU")}
        self.nodes, self.is_draining = len(alive), bool(draining)
        self.room = _room((node["Resources"] for node in alive.values()), self._cluster)
        self.free = _room((free.get(key, {}) for key in alive), self._cluster)

    def total(self, kind: str) -> float:
        return self._totals.get(kind, 0.0)

    def require_ray(self) -> None:
        """Raise RayLost where nothing has been heard of Ray's head, or of this node's part of Ray, for long."""
        if time.monotonic() - self._seen > self._patience_seconds:
            raise RayLost(
                f"Ray at {self._gcs} is gone ({self._trouble or 'no answer'}); run the same command again to continue from the last checkpoint"
            )


def _connect(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=5).close()


def _is_there(node: Mapping[str, Any]) -> bool:
    """Whether a node's raylet listens. Ray itself takes half a minute to say that it does not."""
    try:
        _connect(node["NodeManagerAddress"], node["NodeManagerPort"])
    except OSError:
        return False
    return True


def _room(nodes: Iterable[Mapping[str, float]], cluster: ClusterConfig) -> int:
    """How many workers fit on nodes with these resources; a worker does not spread over nodes."""
    each = {kind: amount for kind, amount in (("CPU", cluster.cpus_per_worker), ("GPU", cluster.gpus_per_worker)) if amount}
    return sum(min(math.floor(node.get(kind, 0) / amount + 1e-6) for kind, amount in each.items()) for node in nodes)


def _remove_placement_groups() -> None:
    """What this job still holds: the part of Ray Train that would give it back may have died."""
    import ray
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    job = ray.get_runtime_context().get_job_id()
    for key, group in placement_group_table().items():
        is_ours = PlacementGroupID(bytes.fromhex(key)).hex().endswith(job)
        if is_ours and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(key))))


def _causes(error: BaseException) -> dict[int, BaseException]:
    """Rank -> what happened to it, out of Ray's wrappings."""
    failures = getattr(error, "worker_failures", None) or {}
    inner = ("_base_exc", "health_check_failure")
    return {
        rank: next((getattr(failure, name) for name in inner if getattr(failure, name, None) is not None), failure)
        for rank, failure in sorted(failures.items())
    }


def _is_final(cause: BaseException) -> bool:
    """Whether another try would end the same way."""
    no_space = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
    return no_space or isinstance(cause, (DivergenceError, ValueError, StorageError))


def _words(causes: Mapping[int, BaseException], error: BaseException) -> str:
    """A failure in one line."""
    from ray.exceptions import RayActorError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError

    if isinstance(error, RayLost):
        return "Ray died"
    if not causes:
        failure = getattr(error, "controller_failure", error)
        return f"the worker group failed: {type(failure).__name__}: {str(failure).strip().partition(chr(10))[0]}"
    died = [rank for rank, cause in causes.items() if isinstance(cause, RayActorError)]
    if died:
        return f"worker {died[0]} died"
    rank, cause = next(iter(causes.items()))
    text = str(cause).strip()
    if isinstance(cause, WorkerHealthCheckTimeoutError):
        return f"worker {rank} hangs"
    if isinstance(cause, RuntimeError) and "timeout" in text.lower():
        return f"worker {rank} waited in vain for another one"
    if isinstance(cause, RuntimeError) and ("gloo" in text or "Connection" in text or "NCCL" in text):
        return f"worker {rank} lost its connection to another one"
    return f"worker {rank}: {type(cause).__name__}: {text.partition(chr(10))[0]}"


def _quiet() -> None:
    """Ray Train's own progress lines, and the pages Ray prints about a dead worker or raylet; ours are made from the state."""
    import ray._private.worker

    for name in ("ray.train", "ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: None  # there is no setting for it
