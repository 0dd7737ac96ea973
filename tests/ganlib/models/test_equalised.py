"""Equalised layers and resampling against slow references."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ganlib.models.layers.equalised import EqualConv2d, EqualEmbedding, EqualLinear, pixel_norm
from ganlib.models.layers.resample import BINOMIAL, BOX, downsample, downsampling_convolution, upsample, upsampling_convolution
from ganlib.rng import keyed_rng


def noise(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=keyed_rng(0, "x", *shape)).to(dtype)


def started(layer):
    with torch.no_grad():
        layer.initialise(keyed_rng(0, "weights"))
    return layer


def test_an_equalised_convolution_is_the_scaled_one():
    layer, x = started(EqualConv2d(6, 5, 3, gain=math.sqrt(2))), noise(2, 6, 7, 5)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight * math.sqrt(2 / 54), layer.bias, padding=1))


@pytest.mark.parametrize("multiplier", [1.0, 0.01])
def test_the_multiplier_changes_the_speed_and_not_the_function(multiplier):
    layer, x = started(EqualLinear(64, 256, lr_multiplier=multiplier, bias_start=1.0)), noise(500, 64)
    y = layer(x)
    assert y.mean().item() == pytest.approx(1.0, abs=0.05)
    assert y.std().item() == pytest.approx(1.0, abs=0.05)
    y.sum().backward()
    assert layer.bias.grad[0].item() == pytest.approx(500 * multiplier)
    assert layer.weight.std().item() == pytest.approx(1 / multiplier, rel=0.05)


def test_an_embedding_has_the_size_of_a_linear_layers_row():
    rows = started(EqualEmbedding(400, 64))(torch.arange(400))
    assert rows.square().sum(1).mean().item() == pytest.approx(1.0, abs=0.05)


def test_pixel_norm_by_hand_and_in_float32():
    torch.testing.assert_close(pixel_norm(torch.tensor([[3.0, 4.0]])), torch.tensor([[3.0, 4.0]]) / math.sqrt(12.5))
    large = torch.full((1, 4), 60000.0, dtype=torch.float16)  # its square overflows float16
    torch.testing.assert_close(pixel_norm(large), torch.ones(1, 4, dtype=torch.float16))


def correlate(image, taps, *, pad):
    """Zero padding (before, after), then the sum of products, pixel by pixel."""
    kernel = np.outer(taps, taps) / sum(taps) ** 2
    image = np.pad(image, [pad, pad])
    k = len(taps)
    return np.array(
        [[(image[i : i + k, j : j + k] * kernel).sum() for j in range(image.shape[1] - k + 1)] for i in range(image.shape[0] - k + 1)]
    )


TAPS = pytest.mark.parametrize("taps", [BINOMIAL, BOX], ids=str)


@TAPS
def test_upsampling_against_zero_insertion(taps):
    x = noise(2, 3, 4, 5, dtype=torch.float64).float()
    extra = len(taps) - 2
    for image, got in zip(x.flatten(0, 1), upsample(x, taps).flatten(0, 1), strict=True):
        spread = np.zeros((8, 10))
        spread[::2, ::2] = image.numpy()
        expected = 4 * correlate(spread, taps, pad=((extra + 1) // 2 + 1, extra // 2))
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)


@TAPS
def test_downsampling_against_plain_filtering(taps):
    x = noise(2, 3, 8, 10)
    extra = len(taps) - 2
    for image, got in zip(x.flatten(0, 1), downsample(x, taps).flatten(0, 1), strict=True):
        expected = correlate(image.numpy(), taps, pad=((extra + 1) // 2, extra // 2))[::2, ::2]
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)


def test_the_box_repeats_and_averages():
    x = noise(2, 3, 4, 6)
    torch.testing.assert_close(upsample(x, BOX), F.interpolate(x, scale_factor=2, mode="nearest"))
    torch.testing.assert_close(downsample(x, BOX), F.avg_pool2d(x, 2))


@TAPS
def test_resampling_is_twice_differentiable(taps):
    x = noise(1, 2, 4, 4).requires_grad_(True)
    for resample in (upsample, downsample):
        y = resample(x.square(), taps)
        (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(gradient.sum(), x)
        (slope,) = torch.autograd.grad(resample(torch.ones_like(x).requires_grad_(True) * x, taps).sum(), x)
        torch.testing.assert_close(second, 2 * slope)


def test_resampling_keeps_the_dtype_and_computes_in_float32_under_autocast():
    x = noise(1, 2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert upsample(x.bfloat16()).dtype == torch.bfloat16
        inside = downsample(x)
    assert torch.equal(inside, downsample(x))


def inside(x, border):
    return x[:, :, border:-border, border:-border]


def test_an_upsampling_convolution_filters_after_instead_of_before():
    x, weight = noise(2, 3, 6, 5), noise(3, 4, 3, 3)
    expected = F.conv2d(upsample(x), weight.transpose(0, 1).flip(2, 3), padding=1)
    got = upsampling_convolution(x, weight)
    assert got.shape == expected.shape
    torch.testing.assert_close(inside(got, 2), inside(expected, 2))


def test_a_downsampling_convolution_strides_instead_of_dropping():
    x, weight, bias = noise(2, 3, 12, 10), noise(4, 3, 3, 3), noise(4)
    kernel = torch.outer(*[torch.tensor([1.0, 3, 3, 1]) / 8] * 2).expand(3, 1, 4, 4)
    expected = F.conv2d(F.conv2d(x, kernel, padding=2, groups=3), weight, bias)[:, :, ::2, ::2]
    torch.testing.assert_close(downsampling_convolution(x, weight, bias), expected)
    assert expected.shape == (2, 4, 6, 5)
