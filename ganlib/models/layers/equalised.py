"""Equalised learning rate (arXiv:1710.10196, section 4.1): weights are N(0, 1) and scaled at each use, so that all of them learn at one speed."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pixel_norm(x: Tensor) -> Tensor:
    """Divide by the root mean square over channels, in float32 (arXiv:1710.10196, section 4.2); [N, C, ...] -> the same."""
    wide = x.float()
    return (wide * (wide.square().mean(1, keepdim=True) + 1e-8).rsqrt()).to(x.dtype)


class EqualConv2d(nn.Conv2d):
    """Convolution whose weight is w * gain / sqrt(fan_in), w stored as N(0, 1); "same" padding at stride 1.

    Args:
        gain: sqrt(2) for a layer before a (leaky) rectifier (He's constant), 1 elsewhere.
    """

    def __init__(self, fan_in: int, fan_out: int, kernel: int, *, bias: bool = True, gain: float = 1.0) -> None:
        super().__init__(fan_in, fan_out, kernel, padding=kernel // 2, bias=bias)
        self.scale = gain / math.sqrt(fan_in * kernel * kernel)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)

    def reset_parameters(self) -> None:
        """Weights are written by `initialise` alone."""

    def initialise(self, rng: torch.Generator) -> None:
        self.weight.normal_(generator=rng)
        if self.bias is not None:
            self.bias.zero_()


class EqualLinear(nn.Linear):
    """Linear layer whose weight is w * gain * m / sqrt(fan_in) and whose bias is b * m, w stored as N(0, 1) / m.

    Args:
        lr_multiplier: m: the layer learns m times as fast as the others (0.01 in StyleGAN's mapping network).
        bias_start: the bias in effect at the start.
    """

    def __init__(
        self, fan_in: int, fan_out: int, *, bias: bool = True, gain: float = 1.0, lr_multiplier: float = 1.0, bias_start: float = 0.0
    ) -> None:
        super().__init__(fan_in, fan_out, bias=bias)
        self.scale = gain * lr_multiplier / math.sqrt(fan_in)
        self.lr_multiplier = lr_multiplier
        self.bias_start = bias_start

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, None if self.bias is None else self.bias * self.lr_multiplier)

    def reset_parameters(self) -> None:
        """Weights are written by `initialise` alone."""

    def initialise(self, rng: torch.Generator) -> None:
        self.weight.normal_(generator=rng).div_(self.lr_multiplier)
        if self.bias is not None:
            self.bias.fill_(self.bias_start / self.lr_multiplier)


class EqualEmbedding(nn.Embedding):
    """Embedding divided by the square root of its dimension, stored as N(0, 1): a linear layer of the features in a projection head."""

    def forward(self, labels: Tensor) -> Tensor:
        return super().forward(labels) / math.sqrt(self.embedding_dim)

    def reset_parameters(self) -> None:
        """Weights are written by `initialise` alone."""

    def initialise(self, rng: torch.Generator) -> None:
        self.weight.normal_(generator=rng)


def initialise_equalised(network: nn.Module, rng: torch.Generator) -> None:
    """Every equalised layer of `network`, in order."""
    for module in network.modules():
        if isinstance(module, EqualConv2d | EqualLinear | EqualEmbedding):
            module.initialise(rng)
