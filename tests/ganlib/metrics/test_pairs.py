"""PSNR, SSIM and feature distance of pairs, against closed forms, scipy and torchmetrics."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchmetrics.functional.image import peak_signal_noise_ratio

from ganlib.metrics.paired import BATCH_IMAGES, PairComparison, pairs
from ganlib.metrics.pairs import feature_distance, psnr, ssim, with_interval
from ganlib.metrics.settings import EvaluateConfig
from ganlib.rng import keyed_rng


def images(name, *, n=4, channels=3, size=(24, 20)):
    return torch.randint(0, 256, (n, channels, *size), generator=keyed_rng(0, name), dtype=torch.uint8)


def noisy(truth, amount):
    noise = torch.randn(truth.shape, generator=keyed_rng(0, "noise")) * amount
    return (truth.float() * 0.8 + 20 + noise).round().clamp(0, 255).to(torch.uint8)


def test_psnr_in_closed_form():
    truth = torch.full((2, 1, 3, 3), 100, dtype=torch.uint8)
    made = truth.clone()
    made[1] += 5
    assert psnr(made, truth).tolist() == pytest.approx([10 * math.log10(12 * 255**2), 20 * math.log10(255 / 5)])


def slow_ssim(made, truth):
    """Wang et al. 2004, eq. 13, plane by plane with scipy's Gaussian filter, whose border is cut off."""
    values = []
    for x, y in zip(made.flatten(0, 1).double().numpy(), truth.flatten(0, 1).double().numpy(), strict=True):
        mean_x, mean_y, xx, yy, xy = (ndimage.gaussian_filter(i, 1.5, truncate=3.5)[5:-5, 5:-5] for i in (x, y, x * x, y * y, x * y))
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        structure = (2 * (xy - mean_x * mean_y) + c2) / (xx - mean_x**2 + yy - mean_y**2 + c2)
        values.append((luminance * structure).mean())
    return np.reshape(values, made.shape[:2]).mean(axis=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_agrees_with_scipy_and_psnr_with_torchmetrics(channels):
    """Pair by pair. Kills: a window that is not normalised, borders that are padded in, a variance that is taken for the mean of squares."""
    truth = images("truth", channels=channels)
    made = noisy(truth, 30.0)
    np.testing.assert_allclose(ssim(made, truth).numpy(), slow_ssim(made, truth), atol=1e-10)
    ratio = [float(peak_signal_noise_ratio(m.double(), t.double(), data_range=255.0)) for m, t in zip(made, truth, strict=True)]
    assert psnr(made, truth).tolist() == pytest.approx(ratio, rel=1e-6)


def test_equal_images_are_alike_and_negatives_are_not():
    truth = images("truth")
    assert ssim(truth, truth).tolist() == pytest.approx([1.0] * 4)
    assert (ssim(255 - truth, truth) < 0).all()
    small = images("small", size=(5, 7))
    assert ssim(small, small).tolist() == pytest.approx([1.0] * 4)  # no window fits


def test_more_noise_is_worse_everywhere():
    truth = images("truth", n=2)
    values = [(float(psnr(noisy(truth, a), truth).mean()), float(ssim(noisy(truth, a), truth).mean())) for a in (0, 10, 40, 120)]
    assert values == sorted(values, reverse=True)


def test_the_feature_distance_counts_in_pairs_that_do_not_belong_together():
    truth = torch.randn(500, 6, generator=keyed_rng(0, "truth"))
    assert feature_distance(truth, truth).max() == 0
    assert float(feature_distance(truth.roll(1, dims=0), truth).median()) == pytest.approx(1.0)
    scaled = feature_distance(7 * truth + 0.7, 7 * truth)
    torch.testing.assert_close(scaled, feature_distance(truth + 0.1, truth), rtol=1e-4, atol=1e-6)


def test_the_metric_is_the_mean_over_all_pairs():
    """More pairs than are computed at a time. Kills: the mean of batches of different sizes, features that are paired with others."""
    n = BATCH_IMAGES + 7
    made, truth = (torch.randint(0, 256, (n, 1, 8, 8), generator=keyed_rng(seed, "pairs"), dtype=torch.uint8) for seed in (0, 1))
    made[-7:] = truth[-7:]
    features = torch.randn(n, 3, generator=keyed_rng(0, "features"))
    found = pairs(PairComparison(made=made, truth=truth, made_features=features + 0.1, truth_features=features), EvaluateConfig())
    assert found["psnr"] == pytest.approx(psnr(made, truth).mean().item())
    assert found["ssim"] == pytest.approx(ssim(made, truth).mean().item())
    assert found["feature_distance"] == pytest.approx(feature_distance(features + 0.1, features).mean().item())
    assert found["psnr_low"] < found["psnr"] < found["psnr_high"]


def test_the_interval_narrows_with_pairs():
    few, many = (with_interval("x", torch.randn(n, generator=keyed_rng(0, "x"), dtype=torch.float64)) for n in (100, 10_000))
    assert few["x_low"] < few["x"] < few["x_high"]
    assert (few["x_high"] - few["x_low"]) / (many["x_high"] - many["x_low"]) == pytest.approx(10, rel=0.3)


def test_what_is_no_pair_is_refused():
    with pytest.raises(ValueError, match="expected uint8"):
        psnr(images("a").float(), images("b"))
    with pytest.raises(ValueError, match="in pairs of"):
        ssim(images("a", n=3), images("b"))
    with pytest.raises(ValueError, match="2 pairs or more"):
        feature_distance(torch.zeros(1, 3), torch.zeros(1, 3))
