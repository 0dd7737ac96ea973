"""Texture in numbers: mean and standard deviation of every channel of a layer over the picture, each in units of its own spread over real images."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from ganlib.metrics.interface import EXTRACT_BATCH_IMAGES, Images
from ganlib.rng import keyed_rng

MAX_IMAGES = 5_000  # of the train split, which the units are measured on
SMALLEST_UNIT = 0.01  # of the median one: a channel that is nearly silent on real images must not drown all others on fakes


def channel_statistics(activations: Tensor) -> Tensor:
    """[n, C, h, w] -> [n, 2 C] float32: the mean of each channel over the picture, then its standard deviation (0 where it is one pixel)."""
    x = activations.float()
    return torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3), correction=0)], dim=1)


def units(statistics: Callable[[Tensor], Mapping[str, Tensor]], images: Images, *, seed: int) -> dict[str, Tensor]:
    """The standard deviations [d] float32 of what `statistics` makes of images ([n, C, H, W] uint8 -> name -> [n, d]), to divide it by.

    Over at most MAX_IMAGES of `images`; 1 where every image has the same number; never below SMALLEST_UNIT of the median.
    """
    chosen = np.sort(torch.randperm(len(images), generator=keyed_rng(seed, "extractor units"))[:MAX_IMAGES].numpy())
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(chosen), EXTRACT_BATCH_IMAGES):
        batch = torch.from_numpy(np.array(images.gather(chosen[start : start + EXTRACT_BATCH_IMAGES])))
        for name, found in statistics(batch).items():
            parts.setdefault(name, []).append(found)
    return {name: _unit(torch.cat(found).double().std(dim=0, correction=0)) for name, found in parts.items()}


def _unit(deviation: Tensor) -> Tensor:
    if not bool((deviation > 0).any()):
        return torch.ones_like(deviation).float()
    floor = SMALLEST_UNIT * deviation[deviation > 0].median()
    return torch.where(deviation > 0, deviation.clamp(min=floor), 1.0).float()
