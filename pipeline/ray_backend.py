"""Ray: the only file that trains with it. Starts a local Ray when none is there, joins the one it is pointed at, runs the worker group.

Ray Train restarts the group after a failure; what it continues from is our own bundle store, so nothing is reported to Ray but the end.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ganlib.config import Section
from ganlib.files import atomic_write
from ganlib.training.loop import Interrupted, TrainingSpec, train
from ganlib.training.step import DivergenceError
from pipeline.params import ROOT, ClusterConfig

RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # training is what this Ray is for; at its default of 15 any other process comes first
    "RAY_metrics_report_interval_ms": "60000",
    "RAY_task_events_report_interval_ms": "60000",
}
LOCAL_OBJECT_STORE_BYTES = 128 * 2**20  # nothing large goes through it


OWNER = "owner.txt"  # in the state folder: which attempt may write there
FAILURE = "failure.txt"  # in the state folder: why a training cannot go on, in the worker's own words


class ClusterError(ValueError):
    """The cluster cannot do what params.yaml asks, or the training failed on it."""


class Worker(Section):
    """What travels to a worker."""

    spec: TrainingSpec
    stop_file: str
    owner: str  # of this attempt: workers that a killed driver left behind find another one in the state folder, and end


class Superseded(RuntimeError):
    """Another attempt at the same training has begun."""


class EventFile:
    """Tracker of a worker: losses and grids already lie in the state folder; only events are added, as JSON lines."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "events.jsonl"

    def scalars(self, values: object, *, images_seen: int) -> None:
        return

    def image(self, name: str, path: Path, *, images_seen: int) -> None:
        return

    def event(self, text: str) -> None:
        from ganlib import dist

        if dist.is_main():
            with self._path.open("a") as file:
                file.write(json.dumps({"time": time.time(), "text": text}) + "\n")


def _work(config: dict[str, Any]) -> None:
    """The train loop of one worker; Ray has opened the process group."""
    worker = Worker.model_validate_json(config["worker"])
    folder = Path(worker.spec.folder)
    if not folder.is_dir() or not Path(worker.spec.data).is_file():
        raise FileNotFoundError(
            f"node {os.uname().nodename} does not see {folder} or {worker.spec.data}: every node needs the project folder at the same "
            "place, on a file system they share"
        )
    events = EventFile(folder)

    def should_stop() -> bool:
        if (folder / OWNER).read_text() != worker.owner:
            raise Superseded(f"another attempt at this training has begun in {folder}")
        return Path(worker.stop_file).exists()

    try:
        train(worker.spec, tracker=events, should_stop=should_stop)
    except Interrupted as interrupted:
        events.event(str(interrupted))
    except (DivergenceError, ValueError) as problem:  # the same on every worker and at every try: a restart would not help
        (folder / FAILURE).write_text(f"{type(problem).__name__}: {problem}")


@contextmanager
def connected(cluster: ClusterConfig) -> Iterator[None]:
    """A Ray connection: `cluster.address`, else RAY_ADDRESS, else a Ray of our own on this machine that ends with the block.

    Raises:
        ClusterError: no Ray answers at the address, or it lacks the CPUs or GPUs asked for.
    """
    for key, value in RAY_SETTINGS.items():
        os.environ.setdefault(key, value)
    import ray

    address = cluster.address or os.environ.get("RAY_ADDRESS")
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    workers = cluster.worker_range[1]
    needed = {"CPU": workers * cluster.cpus_per_worker, "GPU": workers * cluster.gpus_per_worker}
    if address:
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a submitted job brings its own working folder
            common["runtime_env"] = {"py_modules": [str(ROOT / "ganlib"), str(ROOT / "pipeline")]}
        try:
            _require_listener(address)
            ray.init(address=address, **common)
        except (OSError, ValueError) as error:  # ConnectionError is an OSError
            raise ClusterError(f"no Ray answers at {address!r} (cluster.address or RAY_ADDRESS): {error}") from error
    else:
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, int(-(-needed["CPU"] // 1))),
            include_dashboard=False,
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
            **common,
        )
    try:
        have = ray.cluster_resources()
        for kind, amount in needed.items():
            if amount > have.get(kind, 0):
                raise ClusterError(
                    f"cluster.workers={cluster.workers} need {amount:g} {kind}s, the cluster has {have.get(kind, 0):g}; "
                    "lower cluster.workers or what each reserves (params.yaml: cluster)"
                )
        yield
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT: Ray itself would try for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def run(spec: TrainingSpec, cluster: ClusterConfig, *, stop_file: Path) -> None:
    """Train on `cluster.workers` workers until done, or until `stop_file` appears; returns either way.

    Raises:
        ClusterError: with the worker's own message, after `cluster.max_failures` restarts.
    """
    owner = uuid.uuid4().hex
    atomic_write(Path(spec.folder) / OWNER, owner.encode())
    with connected(cluster):
        import ray.train
        from ray.train.torch import TorchConfig, TorchTrainer

        _quiet()
        failure = Path(spec.folder) / FAILURE
        failure.unlink(missing_ok=True)
        has_gpu = cluster.gpus_per_worker > 0
        trainer = TorchTrainer(
            _work,
            train_loop_config={"worker": Worker(spec=spec, stop_file=str(stop_file), owner=owner).model_dump_json()},
            torch_config=TorchConfig(backend="nccl" if has_gpu else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=cluster.worker_range[1],
                use_gpu=has_gpu,
                resources_per_worker={"CPU": cluster.cpus_per_worker, **({"GPU": cluster.gpus_per_worker} if has_gpu else {})},
            ),
            run_config=ray.train.RunConfig(
                name="ray",
                storage_path=spec.folder,
                failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
            ),
        )
        try:
            _fit_aside(trainer)
        except ray.train.TrainingFailedError as error:
            raise ClusterError(_root_cause(error)) from error
        if failure.exists():
            raise ClusterError(failure.read_text())


def _fit_aside(trainer: Any) -> None:
    """`trainer.fit()` in a thread of its own: in the main thread it would take Ctrl-C for itself and stop without a checkpoint."""
    problems: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as problem:  # handed to the caller below
            problems.append(problem)

    thread = threading.Thread(target=fit, name="ray train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)  # signal handlers run in between
    if problems:
        raise problems[0]


def _root_cause(error: Exception) -> str:
    """The first worker's own message out of Ray's report, else the report."""
    failures = getattr(error, "worker_failures", None) or {}
    for rank, failure in sorted(failures.items()):
        cause = getattr(failure, "cause", None) or getattr(failure, "_base_exc", None) or failure
        return f"worker {rank}: {type(cause).__name__}: {cause}"
    return str(error)


def _quiet() -> None:
    """Ray Train's own progress lines; ours are made from the history."""
    for name in ("ray.train", "ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
