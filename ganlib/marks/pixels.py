"""A keyed spread-spectrum mark in the discrete cosine transform of the whole image (Cox, Kilian, Leighton, Shamoon 1997, IEEE TIP 6(12), section IV).

Frequencies count half waves an image, so that resizing leaves them where they are. A key gives PATTERNS patterns; an image gets the one
that it already resembles most (informed coding: Miller, Doerr, Cox 2004, IEEE TIP 13(6), section III), so the image itself helps where it would
otherwise be noise, and no pattern is common to all images. Coefficients are whitened by what lies around them in frequency.
"""

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganlib.marks.settings import seed_of
from ganlib.rng import keyed_rng

PATTERNS = 64
MOST = 64  # frequencies: a finer mark would not live through JPEG
OWN = 0.46  # of the pixels of a side, as frequencies: they are still there at half size
LOWEST = 2.0  # frequencies below are the picture's composition
SMALLEST = 16  # pixels of a side
FLOOR = 2.0  # squared grey levels: what rounding leaves where an image is flat


def frequencies(height: int, width: int, share: float = OWN) -> int:
    """So many frequencies of each axis are marked."""
    return min(MOST, int(share * min(height, width)))


def basis(size: int, count: int, start: float = 0.0, stop: float = 1.0) -> Tensor:
    """[count, size] float32: the orthonormal DCT-II of an image of which these `size` pixels are the part from `start` to `stop`."""
    places = start + (stop - start) * (torch.arange(size, dtype=torch.float64) + 0.5) / size
    waves = torch.cos(math.pi * torch.outer(torch.arange(count, dtype=torch.float64), places)) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    return waves.float()


@lru_cache(maxsize=2)
def patterns(key: str) -> Tensor:
    """[PATTERNS, MOST, MOST] drawn from N(0, 1), so that correlations with any image are normal too (section IV.A)."""
    return torch.randn(PATTERNS, MOST, MOST, generator=keyed_rng(seed_of(key), "mark"))


def band(count: int) -> Tensor:
    """[count, count] of 1 and 0: the frequencies that are marked, a ring."""
    k = torch.arange(count, dtype=torch.float32)
    radius = torch.hypot(k[:, None], k[None])
    return ((radius >= LOWEST) & (radius < count)).float()


def luma(images: np.ndarray) -> Tensor:
    """[N, C, H, W] uint8 -> [N, H, W] float32 in 0 to 255; of RGB and RGBA ITU-R BT.601, as in JPEG."""
    pixels = torch.from_numpy(images.astype(np.float32))
    if images.shape[1] in (3, 4):
        return pixels[:, 0] * 0.299 + pixels[:, 1] * 0.587 + pixels[:, 2] * 0.114
    return pixels.mean(dim=1)


def spread(coefficients: Tensor, ring: Tensor) -> Tensor:
    """[N, K, K]: the mean square of the coefficients around each, five by five, in the ring."""

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x[:, None], 5, stride=1, padding=2)[:, 0]

    return mean(coefficients.square() * ring) / mean(ring[None]).clamp(min=1e-6) + FLOOR


def embed(images: np.ndarray, *, key: str, strength: float) -> np.ndarray:
    """[N, C, H, W] uint8 -> the same, marked: each image by itself, all its colours alike; a fourth channel (alpha) stays.

    Args:
        strength: root mean square of what is added, in grey levels.

    Raises:
        ValueError: images that are too small.
    """
    height, width = images.shape[2:]
    require_size(height, width)
    count = frequencies(height, width)
    rows, columns, ring = basis(height, count), basis(width, count), band(count)
    coefficients = rows @ luma(images) @ columns.T
    noise = spread(coefficients, ring)
    drawn = patterns(key)[:, :count, :count] * ring
    likeness = (coefficients / noise.sqrt()).flatten(1) @ drawn.flatten(1).T
    added = rows.T @ (drawn[likeness.argmax(dim=1)] / noise.sqrt().sqrt()) @ columns  # more where the image hides it less, for JPEG's sake
    added *= strength / added.square().mean(dim=(1, 2), keepdim=True).sqrt()
    colours = 3 if images.shape[1] == 4 else images.shape[1]
    marked = images.copy()
    marked[:, :colours] = (images[:, :colours] + added[:, None].numpy()).round().clip(0, 255).astype(np.uint8)
    return marked


def require_size(height: int, width: int) -> None:
    """Raise ValueError where an image is too small to carry a mark."""
    if min(height, width) < SMALLEST:
        raise ValueError(f"images of {width}x{height} are too small for a mark in the pixels: expected {SMALLEST} pixels a side at least")
