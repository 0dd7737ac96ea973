"""The `cluster` section of params.yaml."""

from typing import Literal

from pydantic import Field, model_validator

from ganlib.config import Section


class ClusterConfig(Section):
    """Where the training runs. Nobody's dependency: moving to another cluster never invalidates a trained model."""

    workers: int | list[int] = Field(
        2, description="physical training workers, a divisor of train.logical_workers; [min, max]: as many of them as the cluster has"
    )
    cpus_per_worker: float = Field(1, gt=0, description="CPUs reserved, and compute threads used, per worker", strict=False)
    gpus_per_worker: float = Field(0, ge=0, description="0 trains on CPU with gloo, else NCCL", strict=False)
    placement: Literal["spread", "pack"] = Field(
        "spread", description="spread: workers over as many nodes as there are; pack: on as few nodes as hold them"
    )
    network_interface: str | None = Field(
        None,
        min_length=1,
        description="of every node, for gloo and NCCL, such as eth0; null: what GLOO_SOCKET_IFNAME of a node says, else that of Ray's address",
    )
    prepare: Literal["local", "ray"] = Field(
        "local", description="where prepare decodes and resizes: processes of the machine it runs on, or every CPU of the Ray at `address`"
    )
    max_failures: int = Field(3, ge=0, description="how often the worker group is restarted after a failure")
    hang_timeout_seconds: float = Field(300, gt=0, description="a worker that finishes no step for so long is replaced", strict=False)
    stop_grace_seconds: float = Field(30, gt=0, description="after Ctrl-C or SIGTERM, so long may the last checkpoint take", strict=False)
    wait_for_nodes_seconds: float = Field(600, ge=0, description="how long to wait for nodes that a training needs", strict=False)
    address: str | None = Field(None, description="Ray address to join; null: RAY_ADDRESS if set, else a Ray of our own on this machine")

    @model_validator(mode="after")
    def _workers_are_a_number_or_a_range(self) -> "ClusterConfig":
        low, high = self.worker_range if isinstance(self.workers, int) or len(self.workers) == 2 else (0, 0)
        if not 1 <= low <= high:
            raise ValueError(f"cluster.workers={self.workers!r} is neither a number from 1 nor [min, max]; take 2 or [1, 4], for example")
        return self

    @property
    def worker_range(self) -> tuple[int, int]:
        """(fewest, most) workers; equal where the number is fixed."""
        return (self.workers, self.workers) if isinstance(self.workers, int) else (self.workers[0], self.workers[1])

    def group_sizes(self, logical_workers: int) -> list[int]:
        """Numbers of workers this training can run on, the largest first: divisors of `logical_workers` in the range."""
        low, high = self.worker_range
        return [size for size in range(high, low - 1, -1) if logical_workers % size == 0]
