"""Batch normalisation whose result does not depend on how many processes share a batch."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation (arXiv:1502.03167) of [N, C, H, W], with statistics of one logical worker's shard.

    In training it uses the shard's own mean and variance and keeps no running average: a running average would depend on which process
    saw which shard. Statistics for evaluation are measured by `calibrate` on the finished (averaged) weights, and frozen.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def initialise(self, generator: torch.Generator, *, std: float) -> None:
        """Scale N(1, std), shift 0 (DCGAN, arXiv:1511.06434, released code)."""
        self.weight.normal_(1.0, std, generator=generator)
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

    def initialise(self, generator: torch.Generator, *, std: float) -> None:
        for function in (self.gain, self.shift):
            if isinstance(function, nn.Embedding):
                nn.init.zeros_(function.weight)
        self.reset_running_stats()


@torch.no_grad()
def calibrate(network: nn.Module, batches: Iterable[tuple[Any, ...]]) -> None:
    """Set every batch norm's evaluation statistics to the average over `batches` of the statistics it sees in training mode.

    Args:
        network: left in evaluation mode.
        batches: arguments of `network`, one tuple a batch; the batches should have the size the network was trained with.
    """
    layers = [module for module in network.modules() if isinstance(module, BatchNorm)]
    if not layers:
        network.eval()
        return
    sums: dict[BatchNorm, list[Tensor]] = {}

    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, BatchNorm)
        x = inputs[0].double()
        axes = [0, *range(2, x.ndim)]
        batch = [x.mean(axes), x.var(axes, unbiased=True)]
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
    for layer, (mean, variance) in sums.items():
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.copy_(mean / count)
        layer.running_var.copy_(variance / count)
    network.eval()
