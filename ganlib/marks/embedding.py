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
    return _both(coefficients.square().mul_(ring), near, near).div_(_neighbours(len(ring))).add_(FLOOR)


@lru_cache(maxsize=64)
def _near(count: int) -> Tensor:
    """[count, count]: a mean of five, those beyond the ends being 0."""
    places = torch.arange(count)
    return ((places[:, None] - places).abs() <= 2).float() / 5


@lru_cache(maxsize=64)
def _neighbours(count: int) -> Tensor:
    """[count, count], not to be written into: the share of the five by five around each that lies in the ring."""
    return _both(band(count)[None], _near(count), _near(count))[0].clamp_(min=1e-6)


def _both(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ x @ columns.T of each x [N, H, W], as two products of large matrices.

    In memory what is returned has the columns first, then N: so neither product, nor the next two of it, needs a copy.
    """
    count, height, width = x.shape
    wide = columns @ x.permute(2, 0, 1).reshape(width, count * height)
    return (wide.view(-1, height) @ rows.T).view(len(columns), count, len(rows)).permute(1, 2, 0)


@lru_cache(maxsize=8)
def _in_ring(patterns: Tensor, count: int) -> Tensor:
    """[P, count, count], not to be written into: of a key's patterns what images of so many frequencies get. In memory as `_both` has it."""
    return (patterns[:, :count, :count] * band(count)).permute(2, 0, 1).contiguous().permute(1, 2, 0)


@lru_cache(maxsize=8)
def _flat(patterns: Tensor, count: int) -> Tensor:
    return _in_ring(patterns, count).flatten(1).T


@torch.inference_mode()  # a quarter of the cost of small operators is the gradient that nobody asks for
def embed(images: np.ndarray, *, patterns: Tensor, strength: float) -> np.ndarray:
    """[N, C, H, W] uint8 -> the same, marked: each image by itself, its colours alike; a fourth channel (alpha) stays, and so does 0 and 255.

    Args:
        patterns: [P, MOST, MOST] of a key; an image gets one of them.
        strength: root mean square of what is added, in grey levels; less where more than 1 - 1 / LOUDEST**2 of an image is black or white.
    """
    height, width = images.shape[2:]
    count = frequencies(height, width)
    rows, columns, ring = basis(height, count), basis(width, count), band(count)
    colours = images[:, : 3 if images.shape[1] == 4 else None]
    levels = torch.from_numpy(colours.astype(np.float32, order="C"))
    coefficients = _both(_luma(levels), rows, columns)
    deviations = spread(coefficients, ring).sqrt_()
    drawn = _in_ring(patterns, count)
    likeness = coefficients.div_(deviations).flatten(1) @ _flat(patterns, count)
    chosen = drawn.permute(2, 0, 1).index_select(1, likeness.argmax(dim=1)).permute(1, 2, 0)
    chosen /= deviations.sqrt_()  # more where the image hides it less, for JPEG's sake
    tall = chosen.permute(2, 0, 1).reshape(-1, count) @ rows
    added = (tall.view(count, -1).T @ columns).view(-1, height, width)
    mark = torch.from_numpy((colours - np.uint8(1) < np.uint8(254)).astype(np.float32, order="C"))  # of 0, 8 bits make 255
    share = mark.mean(dim=(1, 2, 3))
    is_whole = (share < LEAST).float()
    if is_whole.any():
        mark = mark.maximum(is_whole[:, None, None, None])
    mark *= added[:, None]
    wanted = strength * (LOUDEST * share.sqrt() + is_whole).clamp_(max=1)
    mark *= (wanted / mark.square().mean(dim=(1, 2, 3)).sqrt_())[:, None, None, None]
    levels += mark
    made = levels.round_().clamp_(0, 255).numpy().astype(np.uint8)  # NumPy converts several times as fast as torch
    return made if images.shape[1] != 4 else np.concatenate([made, images[:, 3:]], axis=1)
