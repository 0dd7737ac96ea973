"""Means of losses and logits between two log lines, summed per logical worker and combined in logical order."""

import torch
from torch import Tensor

from ganlib import dist


class Scalars:
    """Running sums by name, [V / world_size] float64 each, one a logical worker of this process."""

    def __init__(self, *, logical_workers: int) -> None:
        self._logical_workers = logical_workers
        self._num_here = len(dist.logical_workers_here(logical_workers))
        self._sums: dict[str, list[Tensor]] = {}
        self._counts: dict[str, int] = {}  # updates per name, the same for every shard

    def shard(self, index: int) -> "ShardScalars":
        """The sums of the index-th shard of this process."""
        return ShardScalars(self, index)

    def add(self, name: str, values: Tensor, index: int) -> None:
        mean = values.detach().mean(dtype=torch.float64)
        if name not in self._sums:
            self._sums[name] = [mean.new_zeros(()) for _ in range(self._num_here)]
            self._counts[name] = 0
        self._sums[name][index] = self._sums[name][index] + mean
        self._counts[name] += index == self._num_here - 1

    def take(self) -> dict[str, float]:
        """Means since the last call, over steps and logical workers; the same on every process."""
        sums, counts = self.state()
        self._sums.clear()
        self._counts.clear()
        return {name: float(dist.tree_sum(list(sums[:, k].unbind()))) / len(sums) / count for k, (name, count) in enumerate(counts.items())}

    def state(self) -> tuple[Tensor, dict[str, int]]:
        """Sums [V, K] of every logical worker on the CPU, and updates by name: part of a checkpoint. All processes must call it together."""
        if not self._counts:
            return torch.zeros(self._logical_workers, 0, dtype=torch.float64), {}
        here = torch.stack([torch.stack(parts) for parts in self._sums.values()], 1)
        return dist.gather_logical(here, logical_workers=self._logical_workers).cpu(), dict(self._counts)

    def load(self, sums: Tensor, counts: dict[str, int]) -> None:
        """Take up where `state` was taken, on any number of processes."""
        here = sums[list(dist.logical_workers_here(self._logical_workers))]
        self._sums = {name: list(here[:, k].to(dist.device()).unbind()) for k, name in enumerate(counts)}
        self._counts = dict(counts)


class ShardScalars:
    """What a loss sees of `Scalars`: one shard's."""

    def __init__(self, scalars: Scalars, index: int) -> None:
        self._scalars = scalars
        self._index = index

    def add(self, name: str, values: Tensor) -> None:
        """Note the mean of `values` [n] for the log."""
        self._scalars.add(name, values, self._index)
