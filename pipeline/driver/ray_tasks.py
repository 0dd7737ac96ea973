"""Pieces of work that know nothing of each other, done by the workers of a Ray."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from pipeline.driver.failures import ClusterError
from pipeline.driver.ray_cluster import connected, room_on
from pipeline.driver.ray_private import quiet_driver
from pipeline.driver.settings import ClusterConfig

T = TypeVar("T")
Given = TypeVar("Given")
LOOK_SECONDS = 1.0


def each(work: Callable[[Given, str], T], given: Given, names: Sequence[str], cluster: ClusterConfig, *, workers: int) -> Iterator[T]:
    """`work(given, name)` of every name, as they get done: `workers` at once, each with `cluster.cpus_per_worker` CPUs.

    What a worker was at when it died is done again, by another one and `cluster.max_failures` times at most.

    Raises:
        ClusterError: no Ray, no node with room, or workers that die again and again.
        Exception: whatever `work` has raised; the others are stopped.
    """
    with connected(cluster, cluster.cpus_per_worker * workers) as is_own:
        import ray
        from ray.exceptions import RayError, RayTaskError

        quiet_driver()
        _require_room(cluster, patience_seconds=0 if is_own else cluster.wait_for_nodes_seconds)
        remote = ray.remote(num_cpus=cluster.cpus_per_worker, max_retries=cluster.max_failures, scheduling_strategy="SPREAD")(work)
        shared, waiting = ray.put(given), list(names)
        running: dict[Any, str] = {}
        while waiting or running:
            while waiting and len(running) < workers:
                name = waiting.pop(0)
                running[remote.remote(shared, name)] = name
            done, _ = ray.wait(list(running), num_returns=1, timeout=LOOK_SECONDS)  # signals are heard in between
            for task in done:
                name = running.pop(task)
                try:
                    yield ray.get(task)
                except RayTaskError as error:
                    raise error.cause from None
                except RayError as error:
                    reason = str(error).strip().partition("\n")[0]
                    raise ClusterError(f"{name}: its worker died {cluster.max_failures + 1} times ({reason})") from None


def _require_room(cluster: ClusterConfig, *, patience_seconds: float) -> None:
    import ray

    without_gpus, deadline = cluster.model_copy(update={"gpus_per_worker": 0.0}), time.monotonic() + patience_seconds
    while not room_on((node["Resources"] for node in ray.nodes() if node["Alive"]), without_gpus):
        if time.monotonic() > deadline:
            raise ClusterError(
                f"no node has room for a worker of cluster.cpus_per_worker={cluster.cpus_per_worker:g}; set less, or add nodes"
            )
        time.sleep(LOOK_SECONDS)
