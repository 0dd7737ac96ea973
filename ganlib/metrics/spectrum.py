"""Radial power spectra: generators that cannot make the frequencies of real images, arXiv:2003.01826, without learnt features."""

import numpy as np
import torch
from torch import Tensor

from ganlib.metrics import METRICS
from ganlib.metrics.interface import PixelComparison
from ganlib.metrics.intervals import bootstrap_weights, normal
from ganlib.metrics.needs import Needs, Value, declares
from ganlib.metrics.settings import EvaluateConfig

MAX_IMAGES = 2048  # a side
CHUNK_IMAGES = 256
ROUNDING_POWER = 1 / 12  # variance of rounding to uint8: no power below it is anything a picture shows


def rings(height: int, width: int) -> np.ndarray:
    """Ring of each frequency, [H, W] int64: its distance from 0 in steps of the longest wave that fits the shorter side; ring 0 is the mean."""
    y, x = np.fft.fftfreq(height), np.fft.fftfreq(width)
    radius = np.hypot(y[:, None], x[None, :]) * min(height, width)
    number: np.ndarray = np.maximum(np.round(radius).astype(np.int64), 1)
    number[0, 0] = 0
    return number


def radial_power(images: np.ndarray) -> Tensor:
    """Mean power in each ring but the first, of each image and channel: [n, C, H, W] uint8 -> [n, C, rings] float64; white noise gives its variance.

    arXiv:2003.01826, eq. 3-4. The corners beyond the highest frequency of one direction are rings as well: checkerboards live there.
    """
    _, _, height, width = images.shape
    number = torch.from_numpy(rings(height, width)).flatten()
    share = torch.zeros(height * width, int(number.max()) + 1, dtype=torch.float64)
    share[torch.arange(height * width), number] = 1.0
    share = (share / share.sum(dim=0).clamp(min=1))[:, 1:]
    parts = []
    for start in range(0, len(images), CHUNK_IMAGES):
        spectrum = torch.fft.fft2(torch.from_numpy(images[start : start + CHUNK_IMAGES]).double())
        parts.append((spectrum.abs().square() / (height * width)).flatten(2) @ share)
    return torch.cat(parts)


def decibels(power: Tensor) -> Tensor:
    return 10 * torch.log10(power + ROUNDING_POWER)


def spectrum_difference(real: Tensor, fake: Tensor) -> float:
    """Root mean square, over rings and channels, of the difference of two mean powers [C, rings] in decibels."""
    return float((decibels(real) - decibels(fake)).square().mean().sqrt())


DISTANCE = Value(
    key="spectrum_distance",
    title="Spectrum distance",
    meaning="How far the strength of coarse and fine detail is from that of real images, in decibels over all frequencies; blur and grids show here.",
    better="lower",
    ideal=0.0,
    least=0.0,
    is_distance=True,
)


@METRICS.register("spectrum", paper="arXiv:2003.01826, eq. 3-4")
@declares(Needs(pixels=True, reliable_real=100, gives=(DISTANCE,)))
def spectrum(data: PixelComparison, config: EvaluateConfig) -> dict[str, float]:
    """Root mean square difference of the mean radial power spectra in decibels: 3 is a factor of two in power at every frequency.

    Of at most 2,048 images a side; the interval is a bootstrap over both sides. Phases do not count, so scrambled images are not seen.
    """
    n = min(data.num_real, data.num_fake, MAX_IMAGES)
    real, fake = (radial_power(data.drawn(side, n, seed=config.seed)) for side in data.SIDES)
    value = spectrum_difference(real.mean(dim=0), fake.mean(dim=0))
    weights = [bootstrap_weights(n, config.bootstrap, seed=config.seed, purpose=f"spectrum {side}") / n for side in data.SIDES]
    again = [spectrum_difference(torch.tensordot(a, real, dims=1), torch.tensordot(b, fake, dims=1)) for a, b in zip(*weights, strict=True)]
    spread = float(np.std(again, ddof=1))
    low, high = normal(value, spread, low=0.0)
    return {"spectrum_distance": value, "spectrum_distance_low": low, "spectrum_distance_high": high}
