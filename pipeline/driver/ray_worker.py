"""What runs in a worker of Ray Train: one process of a training, which ends when another attempt has taken its place."""

import os
import sys
import threading
from pathlib import Path
from typing import Any

from ganlib.config import Section
from ganlib.storage import Storage, open_storage
from ganlib.training.loop import Interrupted, TrainingSpec, train
from pipeline.driver.credentials import load_credentials
from pipeline.driver.failures import ClusterError
from pipeline.driver.lock import Superseded, require_owner

STOP = "stop"  # in the state: workers save and end
GROUP = "group"  # in the state: which worker group may write; a worker of an earlier one that wakes up late ends
SUPERSEDED_EXIT_CODE = 87


class Worker(Section):
    """What travels to a worker."""

    spec: TrainingSpec
    owner: str  # token of the lock; empty: nobody holds one
    group: str  # the worker group it belongs to
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
        if (current := self._storage.read(GROUP).decode()) != self._worker.group:
            raise Superseded(f"worker group {current} has taken the place of {self._worker.group} in {self._storage.uri}")


def work(config: dict[str, Any]) -> None:
    """The train loop of one worker; Ray has opened the process group."""
    load_credentials()
    worker = Worker.model_validate_json(config["worker"])
    spec = worker.spec
    data = [Path(path) for path in (spec.data, spec.held_out) if path is not None]
    for path in data if "://" in spec.folder else [Path(spec.folder), *data]:
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
                is_judged=True,
            )
        except Interrupted:
            return  # the driver asked for it
