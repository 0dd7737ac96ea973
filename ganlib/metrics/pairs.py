"""How near an image is to the one that it should be, for tasks that have truth: PSNR, SSIM and the distance in features, pair by pair."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ganlib.metrics.intervals import normal

PEAK = 255.0  # of uint8
SIGMA, RADIUS = 1.5, 5  # of SSIM's window, 11 x 11 pixels
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


def checked(made: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float64 [n, C, H, W].

    Raises:
        ValueError: they are no uint8 images of one shape.
    """
    for name, images in (("made", made), ("true", truth)):
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape != truth.shape:
            raise ValueError(
                f"{name} images: got {tuple(images.shape)} {images.dtype}, expected uint8 [n, C, H, W] in pairs of {tuple(truth.shape)}"
            )
    return made.double(), truth.double()


def psnr(made: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, 10 log10(255^2 / mean squared error), in decibels of each pair: uint8 [n, C, H, W] twice -> [n] float64.

    An error below that of rounding (1/12) counts as that: 58.9 dB is the most, and equal images have it.
    """
    x, y = checked(made, truth)
    return 10 * torch.log10(PEAK**2 / (x - y).square().mean(dim=(1, 2, 3)).clamp(min=1 / 12))


def ssim(made: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each pair, in [-1, 1]: uint8 [n, C, H, W] twice -> [n] float64.

    Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", eq. 13: a Gaussian window of 11 x 11 with sigma 1.5,
    averaged over the places where it fits (the whole image takes its place where none does) and over channels.
    """
    x, y = checked(made, truth)
    x, y = x.flatten(0, 1)[:, None], y.flatten(0, 1)[:, None]
    offsets = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
    taps = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    fits = min(x.shape[2:]) >= len(taps)

    def blurred(images: Tensor) -> Tensor:
        if not fits:
            return images.mean(dim=(2, 3), keepdim=True)
        window = (taps / taps.sum()).view(1, 1, 1, -1)
        return F.conv2d(F.conv2d(images, window), window.transpose(2, 3))

    mean_x, mean_y = blurred(x), blurred(y)
    var_x, var_y, cov = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2, blurred(x * y) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + C1) * (2 * cov + C2) / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2))
    return similarity.mean(dim=(1, 2, 3)).view(len(made), -1).mean(dim=1)


def feature_distance(made: Tensor, truth: Tensor) -> Tensor:
    """Euclidean distance of each pair over that of a typical pair that does not belong together: features [n, d] twice -> [n] float64.

    1 is as far as the truth of another image (each is compared with the next one's), so the number has no unit of the extractor's.
    """
    if made.shape != truth.shape or made.ndim != 2 or len(made) < 2:
        raise ValueError(f"features: got {tuple(made.shape)} and {tuple(truth.shape)}, expected [n, d] of 2 pairs or more")
    x, y = made.double(), truth.double()
    apart = (y - y.roll(1, dims=0)).square().sum(dim=1).sqrt().median()
    return (x - y).square().sum(dim=1).sqrt() / apart.clamp(min=torch.finfo(torch.float64).tiny)


def with_interval(key: str, values: Tensor) -> dict[str, float]:
    """Mean of [n] values over the pairs, and its 95 % interval."""
    mean = float(values.mean())
    low, high = normal(mean, float(values.std() / len(values) ** 0.5))
    return {key: mean, f"{key}_low": low, f"{key}_high": high}
