"""Metrics without learnt features: against closed forms, scipy, and faults whose strength is known."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from ganlib.metrics import METRICS, needs, swd, trunk
from ganlib.metrics.interface import ArrayImages, PixelComparison
from ganlib.metrics.intervals import jackknife_error
from ganlib.metrics.settings import EvaluateConfig
from ganlib.metrics.spectrum import ROUNDING_POWER, radial_power, spectrum_difference
from ganlib.metrics.swd import descriptors, laplacian_pyramid, num_levels, patches, sliced_distance, sorted_gap, up
from ganlib.rng import keyed_rng

CONFIG = EvaluateConfig(seed=0, bootstrap=5)
PIXEL_METRICS = [entry for entry in METRICS if needs.of(entry.value).pixels and not needs.of(entry.value).conditional]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(trunk, "MIN_STEPS", 5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pictures(n: int, seed: int, *, channels: int = 1, side: int = 16) -> np.ndarray:
    """[n, C, side, side] uint8: discs and bars of random places, sizes and brightness on noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    result = rng.normal(90, 6, (n, channels, side, side))
    for image in result:
        cy, cx, r = *rng.uniform(3, side - 3, 2), rng.uniform(2, 5)
        image += rng.uniform(40, 120) * ((y - cy) ** 2 + (x - cx) ** 2 < r * r)
        image += rng.uniform(-60, 60) * (np.abs(x - rng.uniform(0, side)) < 1.5)
    return np.clip(np.round(result), 0, 255).astype(np.uint8)


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    return np.round(ndimage.gaussian_filter(images.astype(np.float64), (0, 0, sigma, sigma))).astype(np.uint8)


def compare(real: np.ndarray, fake: np.ndarray) -> PixelComparison:
    return PixelComparison(real=ArrayImages(real), fake=ArrayImages(fake))


# ---- the pyramid


def test_the_kernel_is_scipys() -> None:
    images = torch.rand(2, 3, 9, 12, generator=keyed_rng(0, "images"), dtype=torch.float64)
    kernel = np.outer(swd.KERNEL, swd.KERNEL)
    expected = np.stack([[ndimage.convolve(c, kernel, mode="mirror") for c in image] for image in images.numpy()])
    np.testing.assert_allclose(swd.smooth(images).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("size", [(64, 64), (57, 33)])
def test_a_pyramid_adds_up_to_its_image(size: tuple[int, int]) -> None:
    """Kills: a level that is forgotten, and odd sizes that do not come back."""
    images = torch.rand(2, 1, *size, generator=keyed_rng(0, "images"), dtype=torch.float64)
    levels = laplacian_pyramid(images, 3)
    back = levels[-1]
    for level in reversed(levels[:-1]):
        back = level + up(back, level.shape[2:])
    torch.testing.assert_close(back, images, rtol=0, atol=1e-12)
    assert [level.shape[2] for level in levels] == [size[0], math.ceil(size[0] / 2), math.ceil(math.ceil(size[0] / 2) / 2)]


def test_a_constant_goes_up_as_a_constant() -> None:
    torch.testing.assert_close(up(torch.full((1, 1, 8, 8), 3.0), torch.Size((16, 16))), torch.full((1, 1, 16, 16), 3.0))


@pytest.mark.parametrize(("side", "expected"), [(8, 1), (16, 1), (28, 2), (32, 2), (64, 3), (128, 4), (1024, 7)])
def test_levels_go_down_to_16_pixels_or_two_patches(side: int, expected: int) -> None:
    assert num_levels(side, 2 * side) == expected


def test_patches_are_cuts_of_their_image() -> None:
    images = torch.arange(2 * 3 * 8 * 9).reshape(2, 3, 8, 9).float()
    cut = patches(images, 128, keyed_rng(0, "patches"))  # there are 2 x 3 places, so all are taken
    assert cut.shape == (2, 6, 3 * 49)
    assert torch.equal(cut[1, 4].view(3, 7, 7), images[1, :, 1:8, 1:8])
    few = patches(images, 5, keyed_rng(0, "patches"))
    assert few.shape == (2, 5, 3 * 49)
    assert all(any(torch.equal(patch, whole) for whole in cut[i]) for i in range(2) for patch in few[i])


# ---- distances


def test_the_gap_in_one_dimension_is_scipys() -> None:
    x, y = torch.randn(50, 3, generator=keyed_rng(0, "x")), torch.randn(50, 3, generator=keyed_rng(0, "y")) * 2 + 1
    expected = np.mean([stats.wasserstein_distance(x[:, i].numpy(), y[:, i].numpy()) for i in range(3)])
    assert sorted_gap(x, y) == pytest.approx(expected, rel=1e-6)


def test_the_distance_of_shifted_patches_in_closed_form() -> None:
    """All d numbers moved by s standard deviations: |s <u, 1>|, whose mean over directions is s sqrt(d) Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2)).

    Kills: fakes that are normalised by themselves, which hides the shift.
    """
    real = torch.randn(300, 8, 49, generator=keyed_rng(0, "real")) * 3 + 5
    found = sliced_distance(real, real + 3 * 0.5, channels=1, groups=3, rng=keyed_rng(0, "directions"))
    expected = 0.5 * math.sqrt(49) * math.exp(math.lgamma(24.5) - math.lgamma(25)) / math.sqrt(math.pi)
    assert found.value == pytest.approx(expected, rel=0.15)  # 128 directions
    assert found.without == pytest.approx([np.mean(found.without)] * 3, rel=1e-2)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    x = np.random.default_rng(0).normal(size=40)
    without = [np.delete(x, i).mean() for i in range(40)]
    assert jackknife_error(without) == pytest.approx(x.std(ddof=1) / math.sqrt(40))


def test_patches_do_not_depend_on_how_many_images_there_are() -> None:
    images = pictures(200, 0)
    few, many = (descriptors(images[:n], 1, seed=0, purpose="p")[0] for n in (130, 200))
    assert torch.equal(few[:128], many[:128])


# ---- spectra


def test_white_noise_has_its_variance_in_every_ring() -> None:
    noise = np.round(np.random.default_rng(0).normal(128, 20, (400, 1, 12, 16))).astype(np.uint8)
    power = radial_power(noise).mean(dim=0)[0]
    np.testing.assert_allclose(power.numpy(), 400 + ROUNDING_POWER, rtol=0.06)


def test_a_wave_lies_in_its_ring() -> None:
    """A cosine of amplitude a and k periods has the power a^2 N / 2 in ring k, shared by its frequencies; a checkerboard is in the last one."""
    side, k, a = 32, 5, 60
    x = np.arange(side)
    wave = np.round(128 + a * np.cos(2 * np.pi * k * x / side))[None, None, None, :].repeat(side, 2).astype(np.uint8)
    power = radial_power(wave)[0, 0].numpy()
    fy = np.fft.fftfreq(side) * side
    members = (np.round(np.hypot(fy[:, None], fy[None, :])) == k).sum()
    assert power[k - 1] == pytest.approx(a**2 * side**2 / 2 / members, rel=0.02)
    assert power.argmax() == k - 1
    checkers = (((x[:, None] + x[None, :]) % 2) * 255).astype(np.uint8)[None, None]
    assert radial_power(checkers)[0, 0].argmax() == len(power) - 1 == round(math.hypot(16, 16)) - 1


def test_twice_the_contrast_is_six_decibels() -> None:
    power = torch.rand(1, 9, generator=keyed_rng(0, "power"), dtype=torch.float64) * 1e6 + 1e5
    assert spectrum_difference(power, 4 * power) == pytest.approx(20 * math.log10(2), abs=1e-4)


# ---- the metrics as they are called


@pytest.mark.parametrize("entry", PIXEL_METRICS, ids=lambda entry: entry.name)
def test_every_metric_of_pixels_is_finite_repeatable_and_between_its_ends(entry) -> None:
    data = compare(pictures(40, 1, channels=3), pictures(30, 2, channels=3))
    before = torch.random.get_rng_state()
    result = entry.value(data, CONFIG)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert result == entry.value(data, CONFIG)
    for value in needs.of(entry.value).gives:
        assert math.isfinite(result[value.key])
        assert result[f"{value.key}_low"] <= result[value.key] <= result[f"{value.key}_high"]


@pytest.mark.parametrize("key", ["swd", "spectrum_distance"])
def test_distances_of_pixels_rise_with_blur_and_real_images_are_within_reach(key: str) -> None:
    metric = METRICS.get("swd" if key == "swd" else "spectrum")
    real, other = pictures(150, 1), pictures(150, 2)
    values = [metric(compare(real, blurred(other, sigma) if sigma else other), CONFIG) for sigma in (0, 0.5, 1, 2)]
    assert [v[key] for v in values] == sorted(v[key] for v in values)
    assert values[2][f"{key}_low"] > values[0][f"{key}_high"], "a blur of one pixel is no draw of real images"


def test_the_interval_of_the_patch_distance_covers_other_draws() -> None:
    """Of a fault, where the distance is not at its floor. Kills: a jackknife over patches, whose interval is far too narrow."""
    results = [METRICS.get("swd")(compare(pictures(80, i), blurred(pictures(80, 100 + i), 1.0)), CONFIG) for i in range(8)]
    centre = np.mean([r["swd"] for r in results])
    inside = [r["swd_low"] <= centre <= r["swd_high"] for r in results]
    assert sum(inside) >= 6
    assert np.mean([r["swd_high"] - r["swd_low"] for r in results]) < 8 * np.std([r["swd"] for r in results])


def test_two_samples_are_told_apart_only_where_they_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills: a test that is asked about what it was trained on, which tells anything."""
    monkeypatch.setattr(trunk, "MIN_STEPS", 60)
    real, other = pictures(300, 1), pictures(300, 2)
    same, blur = (METRICS.get("two_sample")(compare(real, fake), CONFIG) for fake in (other, blurred(other, 1.0)))
    assert same["two_sample_accuracy_low"] < 0.5 < same["two_sample_accuracy_high"] + 0.03
    assert blur["two_sample_accuracy"] > 0.95


def test_two_samples_of_large_images_are_shrunk_to_what_the_network_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunk, "MAX_PIXELS", 8 * 8)
    metric = METRICS.get("two_sample")
    assert 0 <= metric(compare(pictures(20, 1), pictures(20, 2)), CONFIG)["two_sample_accuracy"] <= 1


def test_indices_choose_what_is_compared() -> None:
    images = pictures(60, 1)
    chosen = PixelComparison(
        real=ArrayImages(images), fake=ArrayImages(images), real_indices=np.arange(0, 60, 2), fake_indices=np.arange(1, 60, 2)
    )
    assert chosen.num_real == chosen.num_fake == 30
    metric = METRICS.get("spectrum")
    assert metric(chosen, CONFIG) == metric(compare(images[::2], images[1::2]), CONFIG)


def test_images_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected \\(C, H, W\\) of both alike"):
        compare(pictures(5, 1), pictures(5, 1, channels=3))
