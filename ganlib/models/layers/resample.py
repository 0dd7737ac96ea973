"""Resampling by two with a small low-pass filter (arXiv:1904.11486; arXiv:1912.04958, released code).

Filters have an even number of taps: one of an odd number is centred on a pixel, and moves the image by half a pixel each time.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

BINOMIAL = (1, 3, 3, 1)  # StyleGAN2, R3GAN
BOX = (1, 1)  # repeats pixels, averages 2 x 2


def upsample(x: Tensor, taps: Sequence[float] = BINOMIAL) -> Tensor:
    """[N, C, H, W] -> [N, C, 2H, 2W]: zeros between pixels, then the separable filter, which keeps the mean; zeros outside."""
    kernel, taps_count = _kernel(x, taps, gain=4.0), len(taps)
    with torch.autocast(x.device.type, enabled=False):  # depthwise convolutions are several times slower in bfloat16 on CPU
        y = F.conv_transpose2d(x.float(), kernel, stride=2, padding=taps_count - 2 - (taps_count - 1) // 2, groups=x.shape[1])
    return y[:, :, : 2 * x.shape[2], : 2 * x.shape[3]].to(x.dtype)


def downsample(x: Tensor, taps: Sequence[float] = BINOMIAL) -> Tensor:
    """[N, C, 2H, 2W] -> [N, C, H, W]: the separable filter, then every second pixel; zeros outside."""
    kernel = _kernel(x, taps, gain=1.0)
    with torch.autocast(x.device.type, enabled=False):
        y = F.conv2d(x.float(), kernel, stride=2, padding=(len(taps) - 1) // 2, groups=x.shape[1])
    return y.to(x.dtype)


def _kernel(x: Tensor, taps: Sequence[float], *, gain: float) -> Tensor:
    assert len(taps) in (2, 4)
    line = torch.tensor(taps, dtype=torch.float32, device=x.device)
    line = line / line.sum()
    return (gain * torch.outer(line, line)).expand(x.shape[1], 1, -1, -1).contiguous()


def upsampling_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """[N, C, H, W], weight [C, K, 3, 3] -> [N, K, 2H, 2W]: a transposed convolution of stride 2, then the binomial filter.

    Cheaper than filtering first, and the same away from the border: both are convolutions of the image with zeros between its pixels.
    """
    return _blur(F.conv_transpose2d(x, weight, stride=2), gain=4.0, padding=1)


def downsampling_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[N, C, 2H, 2W], weight [K, C, 3, 3] -> [N, K, H, W]: the binomial filter, then a convolution of stride 2."""
    return F.conv2d(_blur(x, gain=1.0, padding=2), weight, bias, stride=2)


def _blur(x: Tensor, *, gain: float, padding: int) -> Tensor:
    kernel = _kernel(x, BINOMIAL, gain=gain)
    with torch.autocast(x.device.type, enabled=False):
        y = F.conv2d(x.float(), kernel, padding=padding, groups=x.shape[1])
    return y.to(x.dtype)
