"""Exponential moving average of the generator, in images."""

import copy

import torch
from torch import nn

RAMP = 0.05  # the half-life never exceeds this share of the images seen so far; StyleGAN2, arXiv:1912.04958, released code


class Ema:
    """Average of a generator's weights whose half-life is counted in images, so that it does not change with the batch.

    Attributes:
        module: the averaged generator; float32, evaluation mode, same device.
        halflife_images: may be set between updates.
    """

    def __init__(self, generator: nn.Module, *, halflife_images: float) -> None:
        self.module = copy.deepcopy(generator).eval().requires_grad_(False)
        self.halflife_images = halflife_images
        self._source = [p.data for p in generator.parameters()]
        self._average = [p.data for p in self.module.parameters()]
        self._buffers = list(zip(self.module.buffers(), generator.buffers(), strict=True))

    @torch.no_grad()
    def update(self, *, batch_images: int, images_seen: int) -> None:
        """beta = 0.5 ** (batch / halflife); average parameters, copy buffers. Evaluation statistics are measured at export."""
        halflife = min(float(self.halflife_images), RAMP * images_seen)
        beta = 0.5 ** (batch_images / halflife) if halflife > 0 else 0.0
        torch._foreach_lerp_(self._average, self._source, 1.0 - beta)
        for mine, source in self._buffers:
            mine.copy_(source)
