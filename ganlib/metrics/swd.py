"""Sliced Wasserstein distance of patches of a Laplacian pyramid, arXiv:1710.10196, section 5: textures and shapes without learnt features."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganlib.levels import to_unit
from ganlib.metrics import METRICS
from ganlib.metrics.interface import PixelComparison
from ganlib.metrics.intervals import jackknife_error, normal
from ganlib.metrics.needs import Needs, Value, declares
from ganlib.metrics.settings import EvaluateConfig
from ganlib.rng import keyed_rng

PATCH = 7  # pixels a side
PATCHES = 128  # of each image and level
DIRECTIONS = 128
JACKKNIFE_DIRECTIONS = 16  # the error of a mean over fewer directions is a little larger, so the interval is not too narrow
MAX_GROUPS = 10  # of the jackknife
MAX_IMAGES = 1024  # a side: 131,072 patches a level
COARSEST = 14  # pixels of the shorter side of the last level: two patches; 16 where the image is a power of two, as in the paper
CHUNK_IMAGES = 128
KERNEL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # Burt and Adelson, 1983


def smooth(images: Tensor, gain: float = 1.0) -> Tensor:
    """The separable 5-tap kernel of the Gaussian pyramid, mirrored at the border: [n, C, H, W] -> [n, C, H, W]."""
    channels = images.shape[1]
    taps = torch.tensor(KERNEL, dtype=images.dtype) * gain
    x = F.conv2d(F.pad(images, (2, 2, 0, 0), mode="reflect"), taps.view(1, 1, 1, 5).expand(channels, 1, 1, 5), groups=channels)
    return F.conv2d(F.pad(x, (0, 0, 2, 2), mode="reflect"), taps.view(1, 1, 5, 1).expand(channels, 1, 5, 1), groups=channels)


def down(images: Tensor) -> Tensor:
    """Half the size, rounded up."""
    return smooth(images)[:, :, ::2, ::2]


def up(images: Tensor, size: torch.Size) -> Tensor:
    """The inverse size change of `down`: to (H, W)."""
    spread = images.new_zeros(*images.shape[:2], *size)
    spread[:, :, ::2, ::2] = images
    return smooth(spread, gain=2.0)  # twice in each direction, as every second pixel is 0


def num_levels(height: int, width: int) -> int:
    """Levels whose shorter side is `COARSEST` or more; the image itself always counts."""
    levels, side = 1, min(height, width)
    while (side := (side + 1) // 2) >= COARSEST:
        levels += 1
    return levels


def laplacian_pyramid(images: Tensor, levels: int) -> list[Tensor]:
    """[n, C, H, W] float -> what each level adds to the next coarser one, finest first; the last is what is left."""
    result = []
    for _ in range(levels - 1):
        coarser = down(images)
        result.append(images - up(coarser, images.shape[2:]))
        images = coarser
    return [*result, images]


def patches(images: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """`count` patches of each image (all, where there are no more), at random places: [n, C, H, W] -> [n, count, C * h * w]."""
    n, _, height, width = images.shape
    h, w = min(PATCH, height), min(PATCH, width)
    rows, columns = height - h + 1, width - w + 1
    if rows * columns <= count:
        places = torch.arange(rows * columns).expand(n, -1)
    else:
        places = torch.randint(rows * columns, (n, count), generator=rng)
    windows = images.unfold(2, h, 1).unfold(3, w, 1)  # [n, C, rows, columns, h, w], a view
    return windows[torch.arange(n)[:, None], :, places // columns, places % columns].flatten(2)


def descriptors(images: np.ndarray, levels: int, *, seed: int, purpose: str) -> list[Tensor]:
    """Patches of each level, float32 [n, patches, C * 49], of images [n, C, H, W] uint8; a chunk at a time."""
    parts: list[list[Tensor]] = [[] for _ in range(levels)]
    for start in range(0, len(images), CHUNK_IMAGES):
        chunk = to_unit(torch.from_numpy(images[start : start + CHUNK_IMAGES]))
        for level, band in enumerate(laplacian_pyramid(chunk, levels)):
            parts[level].append(patches(band, PATCHES, keyed_rng(seed, purpose, level, start)))
    return [torch.cat(level) for level in parts]


@dataclass(frozen=True)
class Distance:
    """Of one level, and with each of the jackknife's groups of images left out."""

    value: float
    without: list[float]


def sliced_distance(real: Tensor, fake: Tensor, *, channels: int, groups: int, rng: torch.Generator) -> Distance:
    """Mean 1-Wasserstein distance over random directions of patches [n, p, d] of two sets, equally many, in standard deviations of the real ones.

    Both sides are normalised by each channel's mean and standard deviation of the real patches: the paper's code normalises each set by itself,
    which hides a change of colour or contrast.
    """
    shape = (*real.shape[:2], channels, -1)
    real, fake = real.view(shape), fake.view(shape)
    mean, std = real.mean(dim=(0, 1, 3), keepdim=True), real.std(dim=(0, 1, 3), keepdim=True)
    x, y = (((side - mean) / std.clamp(min=1e-6)).flatten(2) for side in (real, fake))
    directions = torch.randn(x.shape[-1], DIRECTIONS, generator=rng)
    directions = directions / directions.norm(dim=0)
    a, b = x.flatten(0, 1), y.flatten(0, 1)
    gaps = [sorted_gap(a @ some, b @ some) for some in directions.split(16, dim=1)]  # blocks: memory stays bounded
    few = directions[:, :JACKKNIFE_DIRECTIONS]
    number = torch.arange(len(x)) % groups
    on_few = x @ few, y @ few
    without = [sorted_gap(*(side[number != group].flatten(0, 1) for side in on_few)) for group in range(groups)]
    return Distance(float(np.mean(gaps)), without)


def sorted_gap(x: Tensor, y: Tensor) -> float:
    """Mean over columns of the 1-Wasserstein distance of equally many numbers: [n, k], [n, k]."""
    a, b = (np.sort(np.ascontiguousarray(side.numpy().T), axis=1) for side in (x, y))
    return float(np.abs(a - b).mean(dtype=np.float64))


SWD = Value(
    key="swd",
    title="Patch distance",
    meaning="Distance of small patches of generated images from those of real ones at several sizes, in standard deviations; no network is involved.",
    better="lower",
    ideal=0.0,
    least=0.0,
    is_distance=True,
)
FINE = Value(
    key="swd_fine",
    title="Patch distance, fine",
    meaning="The same of the finest details alone: texture and sharpness.",
    better="lower",
    ideal=0.0,
    least=0.0,
    is_distance=True,
    is_headline=False,
)
COARSE = Value(
    key="swd_coarse",
    title="Patch distance, coarse",
    meaning="The same of the coarsest level alone: shapes and colours.",
    better="lower",
    ideal=0.0,
    least=0.0,
    is_distance=True,
    is_headline=False,
)


@METRICS.register("swd", paper="arXiv:1710.10196, section 5")
@declares(Needs(pixels=True, reliable_real=100, gives=(SWD, FINE, COARSE)))
def swd(data: PixelComparison, config: EvaluateConfig) -> dict[str, float]:
    """Mean over the levels of a Laplacian pyramid of the sliced Wasserstein distance between 7x7 patches; needs no features.

    128 patches of each of at most 1,024 images a side and level. The intervals cover the draw of both sides (delete-a-group jackknife over images).
    """
    n = min(data.num_real, data.num_fake, MAX_IMAGES)
    channels, height, width = data.real.shape
    levels, groups = num_levels(height, width), min(n, config.bootstrap, MAX_GROUPS)
    sides = {
        side: descriptors(data.drawn(side, n, seed=config.seed), levels, seed=config.seed, purpose=f"swd {side}") for side in data.SIDES
    }
    found = [
        sliced_distance(real, fake, channels=channels, groups=groups, rng=keyed_rng(config.seed, "swd directions", level))
        for level, (real, fake) in enumerate(zip(sides["real"], sides["fake"], strict=True))
    ]
    mean = Distance(float(np.mean([d.value for d in found])), np.mean([d.without for d in found], axis=0).tolist())
    result: dict[str, float] = {}
    for value, distance in ((SWD, mean), (FINE, found[0]), (COARSE, found[-1])):
        low, high = normal(distance.value, jackknife_error(distance.without), low=0.0)
        result |= {value.key: distance.value, f"{value.key}_low": low, f"{value.key}_high": high}
    return result
