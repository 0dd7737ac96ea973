"""Every name of Ray that is not of its public API, and why it is used; a new Ray may drop any: tests/pipeline/test_ray_private.py says which.

Functions import Ray when they are called: a stage that does not train must not load it.
"""

from collections.abc import Mapping
from typing import Any

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


def names() -> list[tuple[str, str]]:
    """(module, attribute path) of every private name used below."""
    return [
        ("ray._private.services", "canonicalize_bootstrap_address"),
        ("ray._private.worker", "print_to_stdstream"),
        ("ray._private.state", "state.get_draining_nodes"),
        ("ray._private.state", "state.available_resources_per_node"),
        ("ray._raylet", "PlacementGroupID"),
        ("ray.train.v2._internal.callbacks.datasets", "DatasetsCallback"),
        ("ray.train.v2._internal.callbacks.placement_group_callback", "PlacementGroupCleanerCallback"),
        ("ray.train.v2._internal.exceptions", "WorkerHealthCheckTimeoutError"),
        ("ray.train.v2._internal.execution.worker_group.poll", "WorkerGroupPollStatus"),
        ("ray.train.torch", "TorchTrainer._create_default_callbacks"),
    ]


def latest_address() -> str:
    """HOST:PORT of the Ray that `auto` means: by the file that `ray start` left, else by the processes there are.

    Raises:
        ConnectionError: there is none.
    """
    from ray._private.services import canonicalize_bootstrap_address

    found: str | None = canonicalize_bootstrap_address("auto")
    if found is None:
        raise ConnectionError("no Ray was started on this machine")
    return found


def quiet_driver() -> None:
    """Without the pages Ray prints about a dead worker or raylet; there is no setting for it."""
    import ray._private.worker

    ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: None


def draining_nodes() -> set[str]:
    """Ids of nodes that are about to be taken away."""
    from ray._private import state

    return set(state.state.get_draining_nodes())


def free_resources() -> dict[str, Mapping[str, float]]:
    """Node id -> what is free on it."""
    from ray._private import state

    free: dict[str, Mapping[str, float]] = state.state.available_resources_per_node()
    return free


def remove_own_placement_groups() -> None:
    """What this job still holds: the part of Ray Train that would give it back may have died."""
    import ray
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    job = ray.get_runtime_context().get_job_id()
    for key, group in placement_group_table().items():
        is_ours = PlacementGroupID(bytes.fromhex(key)).hex().endswith(job)
        if is_ours and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(key))))


def trainer_class() -> Any:
    """TorchTrainer without two actors that would have nothing to do: each costs a process that imports Ray, at every restart."""
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class Trainer(TorchTrainer):  # type: ignore[misc]  # Ray is not followed: Any
        def _create_default_callbacks(self) -> list[Any]:
            needless = (DatasetsCallback, PlacementGroupCleanerCallback)
            return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, needless)]

    return Trainer


def hang_error() -> type[Exception]:
    """What Ray Train says of a worker whose health check got no answer."""
    from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError

    found: type[Exception] = WorkerHealthCheckTimeoutError
    return found


def worker_failures(error: BaseException) -> dict[int, BaseException]:
    """Rank -> failure, as Ray Train reports them; none where it was no worker that failed."""
    return getattr(error, "worker_failures", None) or {}


def controller_failure(error: BaseException) -> BaseException:
    """What failed where no worker did."""
    failure: BaseException = getattr(error, "controller_failure", error)
    return getattr(failure, "cause", None) or failure  # the worker's own, out of a RayTaskError


def unwrapped(failure: BaseException) -> BaseException:
    """The worker's own exception, out of Ray's wrappings."""
    inner = ("_base_exc", "health_check_failure")
    return next((getattr(failure, name) for name in inner if getattr(failure, name, None) is not None), failure)
