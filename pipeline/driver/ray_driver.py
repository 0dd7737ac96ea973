"""Keeps one worker group at work on a Ray cluster, until the training is done.

Ray Train runs one worker group at a time and restarts nothing: the loop here does, because it knows what Ray does not. A group's size must divide the
logical workers; a group that is to grow saves first; some failures are final. What a group continues from is our own bundle store, so nothing is
reported to Ray.
"""

import json
import logging
import math
import sys
import tempfile
import threading
import time
import uuid
from typing import Any

from ganlib.storage import open_storage
from ganlib.training.loop import TrainingSpec
from ganlib.training.state import BundleStore
from pipeline.driver import ray_private
from pipeline.driver.builds import build_here
from pipeline.driver.failures import ClusterError, RayLost, causes_of, in_words, is_final
from pipeline.driver.lock import Superseded, require_owner
from pipeline.driver.ray_cluster import HEAD_SECONDS, OWN_RAY_SECONDS, ClusterView, connected
from pipeline.driver.ray_worker import GROUP, STOP, Worker, work
from pipeline.driver.settings import ClusterConfig

GROW_SECONDS = 10.0  # a larger group must have been possible for so long: a node that flickers stops nobody
_FITS: list["_Fit"] = []  # those at work, and those that were left behind: never given back
SETTLE_SECONDS = 5.0  # what a group that has ended held is free again within this


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
        has_begun = self._newest > 0  # it had room once: after a head that died, nodes come back one by one
        self._may_wait = self._may_wait or (not is_own and (len(self._sizes) > 1 or has_begun))
        self._build = (
            None if is_own else build_here()
        )  # what a Ray that we joined was sent when we did: a file that is saved later is none of it
        with ClusterView(self._cluster, patience_seconds=OWN_RAY_SECONDS if is_own else HEAD_SECONDS) as self._view:
            while (size := self._size()) and self._run_group(size):
                self._may_wait = True

    def _run_group(self, size: int) -> bool:
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
        causes = causes_of(error)
        final = next((cause for cause in causes.values() if is_final(cause)), None)
        refusal = ray_private.controller_failure(error)
        if refusal is not error and isinstance(refusal, ClusterError):  # of a worker that may not take part
            raise ClusterError(str(refusal)) from error
        if final is not None:
            raise ClusterError(f"{type(final).__name__}: {final}") from error
        if self._owner:
            try:
                require_owner(self._storage, self._owner)
            except Superseded as superseded:
                raise ClusterError(str(superseded)) from error
        step, reason = self._newest_step(), in_words(causes, error)
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
        ray_private.remove_own_placement_groups()
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
        group = uuid.uuid4().hex
        self._storage.write(GROUP, group.encode())
        with tempfile.TemporaryDirectory(prefix="ray-train-", ignore_cleanup_errors=True) as scratch:
            fit = _Fit(self._trainer(size, group, scratch))
            _FITS.append(fit)
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
        _FITS.remove(fit)
        if isinstance(fit.failure, Exception):
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

    def _trainer(self, size: int, group: str, scratch: str) -> Any:
        import ray.train

        from pipeline.driver.group_start import WorkerGroupConfig

        cluster = self._cluster
        has_gpu = cluster.gpus_per_worker > 0
        worker = Worker(spec=self._spec, owner=self._owner, group=group, hang_timeout_seconds=cluster.hang_timeout_seconds)
        return ray_private.trainer_class()(
            work,
            train_loop_config={"worker": worker.model_dump_json()},
            torch_config=WorkerGroupConfig(
                backend="nccl" if has_gpu else "gloo",
                timeout_s=math.ceil(cluster.hang_timeout_seconds),
                interface=cluster.network_interface,
                build=self._build,
            ),
            scaling_config=ray.train.ScalingConfig(
                num_workers=size,
                placement_strategy=cluster.placement.upper(),
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
    """`trainer.fit()` in a thread of its own: in the main thread it would take Ctrl-C for itself and stop without a checkpoint.

    One that is left behind is ended by Ray's shutdown, in the middle of it. Its exception, and with it all that its frames have of Ray, is kept:
    whoever gives back a reference while Ray shuts down ends this process on the spot.
    """

    def __init__(self, trainer: Any) -> None:
        super().__init__(name="ray train", daemon=True)
        self._trainer = trainer
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as failure:  # SystemExit is what a shutdown raises
            self.failure = failure


def _quiet() -> None:
    """Ray Train's own progress lines, and what Ray says of a dead worker or raylet; ours are made from the state."""
    for name in ("ray.train", "ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    ray_private.quiet_driver()
