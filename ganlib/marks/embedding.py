"""How a mark is put into images, with numpy and torch alone: a registered version holds a copy of this file, so it imports nothing of this project.

A spread-spectrum mark in the discrete cosine transform of the whole image (Cox, Kilian, Leighton, Shamoon 1997, IEEE TIP 6(12), section IV).
Frequencies count half waves an image, so that resizing leaves them where they are. Of several patterns an image gets the one that it already
resembles most (informed coding: Miller, Doerr, Cox 2004, IEEE TIP 13(6), section III), so the image itself helps where it would otherwise be noise,
and no pattern is common to all images. Coefficients are whitened by what lies around them in frequency.

What is exactly black or white stays so, because half of what is added there would be cut off and the rest is no longer black: nine tenths of what a
mark cost in FID on Fashion-MNIST lay in its black background.
"""

import hashlib
import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

STRENGTH = 2.0  # root mean square of a mark, in grey levels, unless another is asked for
PATTERNS = 64  # of a key
SMALLEST = 16  # pixels of a side
MOST = 64  # frequencies: a finer mark would not live through JPEG
OWN = 0.46  # of the pixels of a side, as frequencies: they are still there at half size
LOWEST = 2.0  # frequencies below are the picture's composition
FLOOR = 2.0  # squared grey levels: what rounding leaves where an image is flat
LOUDEST = 2.0  # times the strength at most, where little of an image is neither black nor white
LEAST = 1 / 16  # of an image; where less is neither black nor white, all of it is marked


def seed_of(key: str) -> int:
    """A key as the seed of its patterns."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def patterns_of(rng: torch.Generator) -> Tensor:
    """[PATTERNS, MOST, MOST] drawn from N(0, 1), so that correlations with any image are normal too (section IV.A)."""
    return torch.randn(PATTERNS, MOST, MOST, generator=rng)


def frequencies(height: int, width: int, share: float = OWN) -> int:
    """So many frequencies of each axis are marked."""
    return min(MOST, int(share * min(height, width)))


@lru_cache(maxsize=64)
def basis(size: int, count: int, start: float = 0.0, stop: float = 1.0) -> Tensor:
    """[count, size] float32, not to be written into: the orthonormal DCT-II of an image of which these `size` pixels are from `start` to `stop`."""
    places = start + (stop - start) * (torch.arange(size, dtype=torch.float64) + 0.5) / size
    waves = torch.cos(math.pi * torch.outer(torch.arange(count, dtype=torch.float64), places)) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    return waves.float()


@lru_cache(maxsize=64)
def band(count: int) -> Tensor:
    """[count, count] of 1 and 0, not to be written into: the frequencies that are marked, a ring."""
    k = torch.arange(count, dtype=torch.float32)
    radius = torch.hypot(k[:, None], k[None])
    return ((radius >= LOWEST) & (radius < count)).float()


def luma(images: np.ndarray) -> Tensor:
    """[N, C, H, W] uint8 -> [N, H, W] float32 in 0 to 255; of RGB and RGBA ITU-R BT.601, as in JPEG."""
    return _luma(torch.from_numpy(images.astype(np.float32)))


def _luma(levels: Tensor) -> Tensor:
    if levels.shape[1] in (3, 4):
        return levels[:, 0] * 0.299 + levels[:, 1] * 0.587 + levels[:, 2] * 0.114
    return levels.mean(dim=1) if levels.shape[1] > 1 else levels[:, 0]


def spread(coefficients: Tensor, ring: Tensor) -> Tensor:
    """[N, K, K]: the mean square of the coefficients around each, five by five, in the ring."""
    near = _near(len(ring))
    return _both(coefficients.square() * ring, near, near) / _both(ring, near, near).clamp(min=1e-6) + FLOOR


@lru_cache(maxsize=64)
def _near(count: int) -> Tensor:
    """[count, count]: a mean of five, those beyond the ends being 0."""
    places = torch.arange(count)
    return ((places[:, None] - places).abs() <= 2).float() / 5


def _both(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ x @ columns.T of each x, as two products of large matrices."""
    return ((x @ columns.T).mT @ rows.T).mT


def embed(images: np.ndarray, *, patterns: Tensor, strength: float) -> np.ndarray:
    """[N, C, H, W] uint8 -> the same, marked: each image by itself, its colours alike; a fourth channel (alpha) stays, and so does 0 and 255.

    Args:
        patterns: [P, MOST, MOST] of a key; an image gets one of them.
        strength: root mean square of what is added, in grey levels; less where more than 1 - 1 / LOUDEST**2 of an image is black or white.
    """
    height, width = images.shape[2:]
    count = frequencies(height, width)
    rows, columns, ring = basis(height, count), basis(width, count), band(count)
    marked = images.copy()
    colours = torch.from_numpy(marked)[:, : 3 if images.shape[1] == 4 else None]
    levels = colours.float()
    coefficients = _both(_luma(levels), rows, columns)
    deviations = spread(coefficients, ring).sqrt_()
    drawn = patterns[:, :count, :count] * ring
    likeness = (coefficients / deviations).flatten(1) @ drawn.flatten(1).T
    chosen = drawn.index_select(0, likeness.argmax(dim=1))
    chosen /= deviations.sqrt_()  # more where the image hides it less, for JPEG's sake
    added = (chosen.mT @ rows).mT @ columns
    is_marked = ((colours - 1) < 254).float()  # of 0, 8 bits make 255
    share = is_marked.mean(dim=(1, 2, 3))
    is_whole = (share < LEAST).float()
    mark = is_marked.maximum(is_whole[:, None, None, None]) * added[:, None]
    wanted = strength * (LOUDEST * share.sqrt() + is_whole).clamp(max=1)
    levels += mark * (wanted / mark.square().mean(dim=(1, 2, 3)).sqrt())[:, None, None, None]
    colours.copy_(levels.round_().clamp_(0, 255))
    return marked
