"""Sliced Wasserstein distance in pixels: a cheap, training-free measure that tells a good checkpoint from a collapsed one."""

import torch
from torch import Tensor


def sliced_wasserstein(real: Tensor, fake: Tensor, *, rng: torch.Generator, directions: int = 128) -> float:
    """Mean 1-Wasserstein distance between projections of two sets of images on random directions.

    Rabin et al. 2011, "Wasserstein barycenter and its application to texture mixing"; as a measure of generators: Karras et al. 2018,
    arXiv:1710.10196, section 5 (there over patches of a Laplacian pyramid, here over whole images). It ranks checkpoints of one training;
    it is no FID.

    Args:
        real: [N, C, H, W] float32.
        fake: [N, C, H, W] float32, as many.
        generator: draws the directions.

    Returns:
        0 for equal sets, in units of pixel values.
    """
    assert real.shape == fake.shape
    flat_real, flat_fake = real.flatten(1), fake.flatten(1)
    axes = torch.randn(flat_real.shape[1], directions, generator=rng)
    axes = axes / axes.norm(dim=0)
    gaps = (flat_real @ axes).sort(dim=0).values - (flat_fake @ axes).sort(dim=0).values
    return float(gaps.abs().mean(dtype=torch.float64))
