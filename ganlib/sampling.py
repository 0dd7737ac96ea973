"""Latents, and images from a generator."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ganlib import rng

Distribution = Literal["normal", "uniform"]


def latents(count: int, dim: int, distribution: Distribution, generator: torch.Generator) -> Tensor:
    """[count, dim] float32 on the CPU: N(0, 1), or U(-1, 1) for `uniform`."""
    if distribution == "uniform":
        return torch.rand(count, dim, generator=generator) * 2 - 1
    return torch.randn(count, dim, generator=generator)


def seeded_latents(seed: int, indices: range, dim: int, distribution: Distribution) -> Tensor:
    """[len(indices), dim]: the latent of image i depends on (seed, i) alone, so any single image can be made again."""
    return torch.cat([latents(1, dim, distribution, rng.generator(seed, "sample", i)) for i in indices])


@torch.no_grad()
def generate(network: nn.Module, z: Tensor, *, batch_images: int) -> np.ndarray:
    """Images of a generator in evaluation mode.

    Args:
        z: [N, latent_dim].
        batch_images: fixed size of a forward pass; part of the numerics.

    Returns:
        [N, C, H, W] uint8.
    """
    assert not network.training
    return np.concatenate([to_uint8(network(part.to(next(network.parameters()).device))) for part in z.split(batch_images)])


def to_uint8(images: Tensor) -> np.ndarray:
    """[N, C, H, W] float in [-1, 1] -> uint8, rounded to nearest."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def to_float(images: np.ndarray) -> Tensor:
    """[N, C, H, W] uint8 -> float32 in [-1, 1]."""
    return torch.from_numpy(images).float().div_(127.5).sub_(1)
