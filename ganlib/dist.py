"""Everything ganlib knows about processes: the only file that imports torch.distributed.

Each function answers for one process too, so code above never asks whether a process group exists. Ray, torchrun or nothing may have opened it.

Logical workers: a batch is always cut into V shards (`train.logical_workers`, a power of two); a process computes V / world_size of them.
Gradients are summed as one binary tree over the V shards. The shards of one process form a subtree, which it sums while it accumulates
(`TreeAccumulator`); the rest of the tree is a DDP communication hook. So the sum has one order, however many processes share the work.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from torch._C._distributed_c10d import GradBucket
else:
    GradBucket = td.GradBucket  # DDP compares a hook's annotation with this very class

T = TypeVar("T")
_group_size = 1  # processes of the group that this one is known to be part of


class GroupLostError(RuntimeError):
    """The process group was closed while this process was still at work in it."""


def is_open() -> bool:
    """Whether this process is one of a group.

    Raises:
        GroupLostError: it was one of several, and somebody else has closed the group, as Ray does to those that are left when one of them hangs.
            Going on as if alone would train on a part of each batch, and every process would take itself for the one that writes.
    """
    global _group_size
    if td.is_available() and td.is_initialized():
        _group_size = td.get_world_size()
        return True
    if _group_size > 1:
        raise GroupLostError(f"the group of {_group_size} processes that this one belongs to has been closed: it can do nothing alone")
    return False


def rank() -> int:
    return td.get_rank() if is_open() else 0


def world_size() -> int:
    return td.get_world_size() if is_open() else 1


def is_main() -> bool:
    """Whether this process is the one that writes, logs and prints."""
    return rank() == 0


def open_from_environment(*, timeout_seconds: float = 600.0) -> None:
    """Open the process group torchrun describes in the environment; nothing to do in a lone process or when one is open."""
    if is_open() or "RANK" not in os.environ:
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    td.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))


def close() -> None:
    """Leave the group, if there is one; from here on this process is alone."""
    global _group_size
    if is_open():
        td.destroy_process_group()
    _group_size = 1


def barrier() -> None:
    if is_open():
        td.barrier()


def device() -> torch.device:
    """The device of this process: its own GPU when there is one, else the CPU. A group opened with gloo trains on the CPU."""
    if not torch.cuda.is_available() or (is_open() and td.get_backend() == "gloo"):
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def logical_workers_here(logical_workers: int) -> range:
    """The shards of the batch this process computes: a contiguous, aligned range, that is, a subtree.

    Raises:
        ValueError: the number of processes does not divide `logical_workers`.
    """
    world = world_size()
    if logical_workers % world:
        raise ValueError(
            f"{world} processes do not divide train.logical_workers={logical_workers}; "
            f"legal: {', '.join(str(n) for n in range(1, logical_workers + 1) if logical_workers % n == 0)}"
        )
    share = logical_workers // world
    return range(rank() * share, (rank() + 1) * share)


def tree_sum(parts: Sequence[Tensor]) -> Tensor:
    """Sum of a power of two of tensors as a balanced binary tree: the slow, obvious definition of the order. No input is changed."""
    assert len(parts) & (len(parts) - 1) == 0
    level = list(parts)
    while len(level) > 1:
        level = [level[i] + level[i + 1] for i in range(0, len(level), 2)]
    return level[0].clone() if len(parts) == 1 else level[0]


def gather_logical(values: Tensor, *, logical_workers: int) -> Tensor:
    """Per-shard values of every process, in logical order.

    Args:
        values: [V / world_size, ...] of this process's shards.

    Returns:
        [V, ...], the same on every process.
    """
    if world_size() == 1:
        return values
    out = values.new_empty((logical_workers, *values.shape[1:]))
    td.all_gather(list(out.split(len(values))), values.contiguous())
    return out


def maximum(values: Sequence[int]) -> list[int]:
    """Elementwise maximum over processes: how all of them come to know what one of them knows."""
    if world_size() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.int64, device=device() if td.get_backend() == "nccl" else "cpu")
    td.all_reduce(tensor, op=td.ReduceOp.MAX)
    return [int(value) for value in tensor.tolist()]


def from_main(value: T) -> T:
    """What the main process has, on every process; the others' own is not looked at. It travels as a pickle: for small things, now and then."""
    if world_size() == 1:
        return value
    box = [value]
    td.broadcast_object_list(box, src=0, device=device() if td.get_backend() == "nccl" else None)
    return box[0]


class TreeAccumulator:
    """Gradients of one network over the shards of this process, summed as a subtree.

    Shard i's gradient is in `.grad` after its backward. `.grad` itself adds shard 2k+1 onto shard 2k; finished pairs wait in `_levels`
    and are merged like the carries of a binary counter. The last merges happen in `finish` (one process) or in the DDP hook, bucket by bucket.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, num_shards: int) -> None:
        self.parameters = list(parameters)
        self.num_shards = num_shards
        self._levels: dict[int, dict[nn.Parameter, Tensor]] = {}

    def start(self) -> None:
        self._levels.clear()
        for parameter in self.parameters:
            parameter.grad = None

    def before_backward(self, shard: int) -> None:
        """Move a finished pair out of `.grad` before an even shard writes there."""
        if shard == 0 or shard % 2:
            return
        carry = {p: cast(Tensor, p.grad) for p in self.parameters}
        for parameter in self.parameters:
            parameter.grad = None
        level = 1
        while level in self._levels:
            waiting = self._levels.pop(level)
            carry = {p: waiting[p] + g for p, g in carry.items()}
            level += 1
        self._levels[level] = carry

    def waiting(self, parameter: nn.Parameter) -> list[Tensor]:
        """What still has to be added to this parameter's last gradient, smallest subtree first."""
        return [self._levels[level][parameter] for level in sorted(self._levels)]

    def finish(self) -> None:
        """Add what waits to `.grad`: for one process, where no hook runs."""
        for parameter in self.parameters:
            for part in self.waiting(parameter):
                cast(Tensor, parameter.grad).copy_(part + cast(Tensor, parameter.grad))


def _exchange(give: Tensor, take: Tensor, *, partner: int) -> None:
    for work in td.batch_isend_irecv([td.P2POp(td.isend, give, partner), td.P2POp(td.irecv, take, partner)]):
        work.wait()


def _reduce_over_processes(buffer: Tensor) -> torch.futures.Future[Tensor]:
    """Sum `buffer` [n] over processes as a binary tree in rank order, in place, for the traffic of a ring and fewer messages.

    Recursive halving, then doubling (Rabenseifner 2004): at distance 1, 2, 4, ... two processes swap halves of what they still hold, and each adds
    to the half it keeps; a + b is b + a to the last bit, so the order is the tree's. The sums travel back the same way.
    """
    if world_size() == 2:  # one addition has one order: the library's own all-reduce gives exactly that

        def summed(done: torch.futures.Future[list[Tensor]]) -> Tensor:
            done.value()  # raises what went wrong on the way: a future that failed tells nobody who does not ask, and `buffer` would be no sum
            return buffer

        work = td.all_reduce(buffer, async_op=True)
        future: torch.futures.Future[Tensor] = work.get_future().then(summed)
        return future
    low, high, distance = 0, buffer.numel(), 1
    way: list[tuple[int, slice, slice]] = []
    received = torch.empty_like(buffer[: -(-high // 2)])
    while distance < world_size():
        partner, middle = rank() ^ distance, (low + high) // 2
        lower, upper = slice(low, middle), slice(middle, high)
        keep, give = (lower, upper) if rank() < partner else (upper, lower)
        part = received[: keep.stop - keep.start]
        _exchange(buffer[give], part, partner=partner)
        buffer[keep].add_(part)
        way.append((partner, keep, give))
        low, high, distance = keep.start, keep.stop, 2 * distance
    for partner, keep, give in reversed(way):
        _exchange(buffer[keep], buffer[give], partner=partner)
    future = torch.futures.Future()
    future.set_result(buffer)
    return future


def _tree_hook(accumulator: TreeAccumulator, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
        for part in accumulator.waiting(cast(nn.Parameter, parameter)):
            gradient.copy_(part + gradient)
    return _reduce_over_processes(bucket.buffer())


# Buffers never travel: batch-norm statistics are measured at export. The option was renamed in torch 2.13.
_BUFFER_OPTION = "forward_sync_buffers" if "forward_sync_buffers" in signature(DistributedDataParallel).parameters else "broadcast_buffers"
_NO_BUFFER_SYNC: dict[str, Any] = {_BUFFER_OPTION: False}


class Replica:
    """One network as this process trains it: the bare module, its DDP wrapper when there are several processes, its gradient tree."""

    def __init__(self, module: nn.Module, *, logical_workers: int) -> None:
        self.module = module
        self.num_shards = len(logical_workers_here(logical_workers))
        trainable = (p for p in module.parameters() if p.requires_grad)  # as in DDP's buckets
        self.accumulator = TreeAccumulator(trainable, num_shards=self.num_shards)
        self._ddp: DistributedDataParallel | None = None
        if world_size() > 1:
            here = device()
            self._ddp = DistributedDataParallel(
                module,
                device_ids=[here.index] if here.type == "cuda" else None,
                **_NO_BUFFER_SYNC,
                gradient_as_bucket_view=True,
                init_sync=False,  # every process built the same network from the same keys; Replica checks it
            )
            self._ddp.register_comm_hook(self.accumulator, _tree_hook)

    @property
    def trained(self) -> nn.Module:
        """What a phase that trains this network must call."""
        return self._ddp if self._ddp is not None else self.module

    def synchronised(self, *, is_last_shard: bool) -> AbstractContextManager[None]:
        """The context of one shard's forward and backward: gradients leave the process with the last shard only."""
        if self._ddp is None or is_last_shard:
            return nullcontext()
        return self._ddp.no_sync()

    def start(self) -> None:
        self.accumulator.start()

    def before_backward(self, shard: int) -> None:
        self.accumulator.before_backward(shard)

    def finish(self) -> None:
        """After the last shard's backward: `.grad` holds the sum over all logical workers."""
        if self._ddp is None:
            self.accumulator.finish()


def require_same(module: nn.Module, *, what: str) -> None:
    """Raise RuntimeError unless every process holds bitwise the same parameters."""
    if world_size() == 1:
        return
    import hashlib

    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    digests: list[str | None] = [None] * world_size()
    td.all_gather_object(digests, digest.hexdigest())
    if len(set(digests)) > 1:
        raise RuntimeError(f"{what}: the processes hold different weights; the same code, seed and torch build must run on every node")
