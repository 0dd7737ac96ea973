"""Means of losses and logits, summed per logical worker and combined in logical order: between two log lines, and over each step for what steers."""

from collections.abc import Collection

import torch
from torch import Tensor

from ganlib import dist

# what every update of D notes, for whatever watches it
LOGIT_REAL = "logit_real"
LOGIT_FAKE = "logit_fake"
SIGN_REAL = "sign_real"  # the share of real images D calls real, minus the rest: how ADA sees overfitting; noted where it is watched


class _Sums:
    """Running sums by name, [V / world_size] float64 each, one a logical worker of this process."""

    def __init__(self, *, logical_workers: int) -> None:
        self._logical_workers = logical_workers
        self._num_here = len(dist.logical_workers_here(logical_workers))
        self._sums: dict[str, list[Tensor]] = {}
        self._counts: dict[str, int] = {}  # updates per name, the same for every shard

    def add(self, name: str, mean: Tensor, index: int) -> None:
        if name not in self._sums:
            self._sums[name] = [mean.new_zeros(()) for _ in range(self._num_here)]
            self._counts[name] = 0
        self._sums[name][index] = self._sums[name][index] + mean
        self._counts[name] += index == self._num_here - 1

    def clear(self) -> None:
        self._sums.clear()
        self._counts.clear()

    def take(self) -> dict[str, float]:
        """Means since the last call; the same on every process."""
        sums, counts = self.state()
        self.clear()
        return {name: float(dist.tree_sum(list(sums[:, k].unbind()))) / len(sums) / count for k, (name, count) in enumerate(counts.items())}

    def state(self) -> tuple[Tensor, dict[str, int]]:
        if not self._counts:
            return torch.zeros(self._logical_workers, 0, dtype=torch.float64), {}
        here = torch.stack([torch.stack(parts) for parts in self._sums.values()], 1)
        return dist.gather_logical(here, logical_workers=self._logical_workers).cpu(), dict(self._counts)

    def load(self, sums: Tensor, counts: dict[str, int]) -> None:
        here = sums[list(dist.logical_workers_here(self._logical_workers))]
        self._sums = {name: list(here[:, k].to(dist.device()).unbind()) for k, name in enumerate(counts)}
        self._counts = dict(counts)


class Scalars:
    """Running means by name.

    Args:
        watched: names whose means over each step are wanted too (`take_watched`).
    """

    def __init__(self, *, logical_workers: int, watched: Collection[str] = ()) -> None:
        self._sums = _Sums(logical_workers=logical_workers)
        self._of_step = _Sums(logical_workers=logical_workers)
        self._watched = frozenset(watched)

    def shard(self, index: int) -> "ShardScalars":
        """The sums of the index-th shard of this process."""
        return ShardScalars(self, index)

    def add(self, name: str, values: Tensor, index: int) -> None:
        mean = values.detach().mean(dtype=torch.float64)
        self._sums.add(name, mean, index)
        if name in self._watched:
            self._of_step.add(name, mean, index)

    def take(self) -> dict[str, float]:
        """Means since the last call, over steps and logical workers; the same on every process. All processes must call it together."""
        return self._sums.take()

    def take_watched(self) -> dict[str, float]:
        """Means of the watched names since the last call, the same on every process. All processes must call it together."""
        return self._of_step.take()

    def state(self) -> tuple[Tensor, dict[str, int]]:
        """Sums [V, K] of every logical worker on the CPU, and updates by name: part of a checkpoint. All processes must call it together."""
        return self._sums.state()

    def load(self, sums: Tensor, counts: dict[str, int]) -> None:
        """Take up where `state` was taken, between two steps, on any number of processes."""
        self._sums.load(sums, counts)
        self._of_step.clear()


class ShardScalars:
    """What a loss sees of `Scalars`: one shard's."""

    def __init__(self, scalars: Scalars, index: int) -> None:
        self._scalars = scalars
        self._index = index

    def add(self, name: str, values: Tensor) -> None:
        """Note the mean of `values` [n] for the log."""
        self._scalars.add(name, values, self._index)
