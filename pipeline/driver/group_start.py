"""How a worker group of Ray Train opens its process group; imports Ray, so only a training loads it."""

import os
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.torch import TorchConfig

from pipeline.driver.builds import INTERFACES, Build, Seat, interface_of, look_around, refuse_other_builds


@dataclass
class WorkerGroupConfig(TorchConfig):  # type: ignore[misc]  # Ray is not followed: Any
    """TorchConfig that knows the driver's build, and the network interface that params.yaml names."""

    interface: str | None = None
    build: Build | None = None

    @property
    def backend_cls(self) -> type["WorkerGroupBackend"]:
        return WorkerGroupBackend


class WorkerGroupBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Looks at every worker before they connect; when they cannot, says which interfaces they tried."""

    def on_start(self, worker_group: Any, backend_config: WorkerGroupConfig) -> None:
        """Raises ClusterError for a worker of another build, for an interface that is not there, and with the workers' own reason."""
        seats = [Seat(*seat) for seat in worker_group.execute(look_around())]
        if backend_config.build is not None:
            refuse_other_builds(seats, Build(*backend_config.build))
        chosen = [interface_of(seat, backend_config.interface) for seat in seats]

        def choose(name: str) -> None:
            os.environ["GLOO_SOCKET_IFNAME"] = name
            os.environ["NCCL_SOCKET_IFNAME"] = f"={name}"  # of that very name; NCCL takes a beginning of one otherwise

        ray.get([worker_group.execute_single_async(rank, choose, name) for rank, name in enumerate(chosen) if name])
        try:
            super().on_start(worker_group, backend_config)
        except Exception as error:
            reason = getattr(error, "cause", None) or error
            if not isinstance(reason, RuntimeError):  # a worker that died, a mistake of ours
                raise
            places = sorted({f"{seat.node} ({name or 'no interface chosen'})" for seat, name in zip(seats, chosen, strict=True)})
            raise RuntimeError(
                f"the workers did not connect over {', '.join(places)}: {' '.join(str(reason).split())}. {' and '.join(INTERFACES)} of a node, or "
                "cluster.network_interface in params.yaml, name another interface"
            ) from error
