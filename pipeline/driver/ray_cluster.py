"""The Ray a training runs on: joined or started here, looked at while it lasts, and ended with whatever it left behind."""

import gc
import logging
import math
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from ganlib.cpus import usable_cpus
from ganlib.redact import redacted
from pipeline import processes
from pipeline.driver import leftovers, ray_private
from pipeline.driver.failures import ClusterError, RayLost
from pipeline.driver.ray_private import RAY_SETTINGS, SHUTDOWN_TIMEOUT
from pipeline.driver.settings import ClusterConfig
from pipeline.garbage import uncollected
from pipeline.params import CODE

LOCAL_OBJECT_STORE_BYTES = 128 * 2**20  # nothing large goes through it
JOIN_SECONDS = 60.0  # for a Ray that runs already to take us in
START_SECONDS = 120.0  # for one of our own to get up, on a machine that is busy with others
LOOK_SECONDS = 2.0  # how often the cluster is looked at
LEAVE_SECONDS = 20.0  # for a look at the cluster that has begun; a call waits for ever where the head is gone
HEAD_SECONDS = 30.0  # a Ray that is silent for so long is gone; it ends this process itself after a minute
OWN_RAY_SECONDS = 6.0  # the same for one of our own


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
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    with nullcontext() if address else leftovers.marked(processes.this()):
        own, is_over = _OwnProcesses(), threading.Event()
        try:
            if address:
                _join(address, is_over)
            else:
                _start(cpus, is_over)
        except (OSError, ValueError, RuntimeError) as error:  # ConnectionError and TimeoutError are OSErrors
            is_over.set()
            own.end()
            if address:
                raise ClusterError(
                    f"no Ray answers at {redacted(address)!r} (cluster.address or RAY_ADDRESS): {redacted(str(error), of=address)}"
                ) from error
            raise ClusterError(f"no Ray can be started on this machine: {error}") from error
        except BaseException:  # a Ctrl-C in the middle of it
            is_over.set()
            own.end()
            raise
        try:
            yield not address
        finally:
            _leave()
            is_over.set()
            own.end()


def _join(address: str, is_over: threading.Event) -> None:
    """Connect to the Ray at `address`; `auto` is the one that was started last on this machine, which may be long gone."""
    if address == "auto":
        address = ray_private.latest_address()
    _require_listener(address)
    arguments: dict[str, Any] = {}
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a submitted job brings its own working folder
        arguments["runtime_env"] = {
            "py_modules": [str(CODE / "ganlib"), str(CODE / "pipeline")],
            "env_vars": {SHUTDOWN_TIMEOUT: os.environ[SHUTDOWN_TIMEOUT]},
        }
    _init(is_over, f"a listener at {address} did not answer as Ray does", seconds=JOIN_SECONDS, address=address, **arguments)


def _start(cpus: float, is_over: threading.Event) -> None:
    """A Ray of our own."""
    _bring_token(Path.home())
    _init(
        is_over,
        "its head did not get up",
        seconds=START_SECONDS,
        address="local",
        num_cpus=max(usable_cpus(), math.ceil(cpus)),  # Ray starts as many processes ahead
        include_dashboard=False,
        object_store_memory=LOCAL_OBJECT_STORE_BYTES,
    )


def _bring_token(home: Path) -> None:
    """Ray keeps the token of its processes below HOME; where that cannot be written, this Ray has one of its own for as long as it lives."""
    if (
        any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
        or (home / ".ray" / "auth_token").is_file()
    ):
        return
    try:
        (home / ".ray").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home / ".ray"):
            pass
    except OSError:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _init(is_over: threading.Event, what: str, *, seconds: float, **arguments: Any) -> None:
    """`ray.init` in a thread: inside of it no signal is heard, and it may wait for ever for a head that does not answer.

    There it leaves our SIGTERM handler alone, too: Ray sets its own, which exits on the spot, from the main thread only. The thread lives until
    `is_over`: Linux kills Ray's processes (PR_SET_PDEATHSIG) when the thread ends that has started them.

    Raises:
        TimeoutError: not done after `seconds`. The thread is left behind: the process ought to end.
    """
    import ray

    problems: list[BaseException] = []
    is_done = threading.Event()

    def work() -> None:
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **arguments)
        except BaseException as problem:  # handed over
            problems.append(problem)
        is_done.set()
        is_over.wait()

    thread = threading.Thread(target=work, name="ray init", daemon=True)
    thread.start()
    deadline = time.monotonic() + seconds
    try:
        while not is_done.wait(0.2):  # signal handlers run in between
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} within {seconds:g} s")
    except BaseException:  # Ray aborts a process that ends while it connects, on a busy machine
        processes.leave_at_once_until(is_done)
        raise
    if problems:
        raise problems[0]


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


def _leave() -> None:
    """`ray.shutdown`. A reference that is given back in the middle of it ends this process on the spot: what is garbage is given back before."""
    import ray

    gc.collect()
    with uncollected():
        _bounded(ray.shutdown, seconds=20)


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


class ClusterView:
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

    def __enter__(self) -> "ClusterView":
        self._watcher = threading.Thread(target=self._watch, name="view of the cluster", daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        """What is asked of Ray after its shutdown ends this process on the spot, without a word of ours: a look that has begun is waited for."""
        self._is_over.set()
        self._wake.set()
        self._watcher.join(LEAVE_SECONDS)

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

        host, _, port = self._gcs.rpartition(":")
        _connect(host, int(port))
        if self._is_over.is_set():
            return
        draining = ray_private.draining_nodes()
        nodes = [node for node in ray.nodes() if node["Alive"]]
        here = next(node for node in nodes if node["NodeID"] == self._node)
        if not _is_there(here):  # Ray ends this process, without a word of ours, soon after it has noticed
            self._patience_seconds = min(self._patience_seconds, OWN_RAY_SECONDS)
            raise ConnectionError("the raylet of this node is gone")
        alive = {node["NodeID"]: node for node in nodes if node["NodeID"] not in draining and _is_there(node)}
        if self._is_over.is_set():
            return
        free = ray_private.free_resources()
        self._totals = {kind: sum(node["Resources"].get(kind, 0) for node in alive.values()) for kind in ("CPU", "GPU")}
        self.nodes, self.is_draining = len(alive), bool(draining)
        self.room = room_on((node["Resources"] for node in alive.values()), self._cluster)
        self.free = room_on((free.get(key, {}) for key in alive), self._cluster)

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


def room_on(nodes: Iterable[Mapping[str, float]], cluster: ClusterConfig) -> int:
    """How many workers fit on nodes with these resources; a worker does not spread over nodes."""
    each = {kind: amount for kind, amount in (("CPU", cluster.cpus_per_worker), ("GPU", cluster.gpus_per_worker)) if amount}
    return sum(min(math.floor(node.get(kind, 0) / amount + 1e-6) for kind, amount in each.items()) for node in nodes)
