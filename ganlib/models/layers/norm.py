"""Batch normalisation whose result does not depend on how many processes share a batch, and statistics for evaluation."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@runtime_checkable
class Measured(Protocol):
    """A layer with statistics for evaluation, which `calibrate` measures; training keeps none."""

    def measure(self, x: Tensor) -> list[Tensor]:
        """Statistics of one batch of the layer's (first) input."""

    def set_measured(self, statistics: list[Tensor]) -> None:
        """Keep the averages over batches of what `measure` returned."""


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation (arXiv:1502.03167) of [N, C, H, W], with statistics of one logical worker's shard.

    In training it uses the shard's own mean and variance and keeps no running average: a running average would depend on which process
    saw which shard. Statistics for evaluation are measured by `calibrate` on the finished (averaged) weights, and frozen.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def measure(self, x: Tensor) -> list[Tensor]:
        x = x.double()
        axes = [0, *range(2, x.ndim)]
        return [x.mean(axes), x.var(axes, unbiased=True)]

    def set_measured(self, statistics: list[Tensor]) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        self.running_mean.copy_(statistics[0])
        self.running_var.copy_(statistics[1])

    def initialise(self, rng: torch.Generator, *, std: float) -> None:
        """Scale N(1, std), shift 0 (DCGAN, arXiv:1511.06434, released code)."""
        self.weight.normal_(1.0, std, generator=rng)
        self.bias.zero_()
        self.reset_running_stats()


class BatchNormFlat(BatchNorm):
    """The same for [N, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, None, None])[:, :, 0, 0]


class ConditionalBatchNorm(BatchNorm):
    """Batch norm whose gain 1 + g(c) and shift s(c) are functions of a condition (arXiv:1707.00683, section 4.1).

    `forward(x [N, C, H, W], c)`: c is the labels [N] int64 where the functions are embeddings, or a vector [N, D] where they are linear.

    Args:
        gain, shift: c -> [N, channels]. Embeddings start at 0, as a plain batch norm; linear maps are left to the network's initialisation.
    """

    def __init__(self, channels: int, *, gain: nn.Module, shift: nn.Module) -> None:
        super().__init__(channels, affine=False)
        self.gain = gain
        self.shift = shift

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:  # type: ignore[override]
        gain, shift = (function(condition).to(x.dtype)[:, :, None, None] for function in (self.gain, self.shift))
        return torch.addcmul(shift, super().forward(x), 1 + gain)

    def initialise(self, rng: torch.Generator, *, std: float) -> None:
        for function in (self.gain, self.shift):
            if isinstance(function, nn.Embedding):
                nn.init.zeros_(function.weight)
        self.reset_running_stats()


class MeanLatent(nn.Module):
    """Passes w [N, D] on, pulled towards its mean: mean + truncation * (w - mean) (arXiv:1812.04948, appendix B)."""

    mean: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(dim))

    def forward(self, w: Tensor, truncation: float = 1.0) -> Tensor:
        return w if truncation == 1.0 else torch.lerp(self.mean, w, truncation)

    def measure(self, x: Tensor) -> list[Tensor]:
        return [x.double().mean(0)]

    def set_measured(self, statistics: list[Tensor]) -> None:
        self.mean.copy_(statistics[0])

    def initialise(self) -> None:
        self.mean.zero_()


@torch.no_grad()
def calibrate(network: nn.Module, batches: Iterable[tuple[Tensor | None, ...]]) -> None:
    """Set the evaluation statistics of every `Measured` layer to the average over `batches` of what it sees in training mode.

    Args:
        network: left in evaluation mode.
        batches: arguments of `network`, one tuple a batch; the batches should have the size the network was trained with.
    """
    layers = [module for module in network.modules() if isinstance(module, Measured)]
    if not layers:
        network.eval()
        return
    sums: dict[nn.Module, list[Tensor]] = {}

    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, Measured)
        batch = layer.measure(inputs[0])
        sums[layer] = [a + b for a, b in zip(sums[layer], batch, strict=True)] if layer in sums else batch

    network.eval()  # dropout off, everything else frozen ...
    for layer in layers:
        layer.train()  # ... but the statistics of each batch used, as in training
    handles = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        count = 0
        for batch in batches:
            network(*batch)
            count += 1
    finally:
        for handle in handles:
            handle.remove()
    for measured, totals in sums.items():
        assert isinstance(measured, Measured)
        measured.set_measured([total / count for total in totals])
    network.eval()
