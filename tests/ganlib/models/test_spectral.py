"""Spectral normalisation against the singular value decomposition; what is built on it: attention, conditional batch norm."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganlib.models.layers.attention import SelfAttention
from ganlib.models.layers.initialise import initialise_glorot, initialise_orthogonal
from ganlib.models.layers.norm import ConditionalBatchNorm, calibrate
from ganlib.models.layers.spectral import Spectral, SpectralConv2d, SpectralEmbedding, SpectralLinear
from ganlib.rng import keyed_rng


def draw(*shape: int, of: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=keyed_rng(0, "test", of))


def initialised(module: nn.Module, initialise=initialise_glorot) -> nn.Module:
    with torch.no_grad():
        initialise(module, keyed_rng(0, "weights"))
    return module


def largest_singular_value(layer: Spectral) -> float:
    return torch.linalg.svdvals(layer.weight.detach().double().flatten(1))[0].item()


LAYERS = [lambda: SpectralConv2d(6, 10, 3), lambda: SpectralLinear(20, 7), lambda: SpectralLinear(9, 1), lambda: SpectralEmbedding(5, 12)]


@pytest.mark.parametrize("make", LAYERS)
def test_sigma_is_the_largest_singular_value_before_and_after_the_weight_moves(make):
    layer = initialised(make())
    assert layer.sigma().item() == pytest.approx(largest_singular_value(layer), rel=0.02)
    layer.before_update(200)
    assert layer.sigma().item() == pytest.approx(largest_singular_value(layer), rel=1e-5)
    assert torch.linalg.matrix_norm(layer.normalised().flatten(1), 2).item() == pytest.approx(1, rel=1e-5)
    with torch.no_grad():
        layer.weight += draw(*layer.weight.shape, of=1)
    moved = largest_singular_value(layer)
    assert layer.sigma().item() < 0.98 * moved or layer.weight.shape[0] == 1  # u and v are of the weight before ...
    layer.before_update(200)
    assert layer.sigma().item() == pytest.approx(moved, rel=1e-5)  # ... until they are advanced


def test_forward_changes_no_state_and_an_update_is_one_power_iteration():
    layer = initialised(SpectralLinear(20, 7))
    with torch.no_grad():
        layer.weight += draw(7, 20, of=1)
    u, w = layer.u.clone(), layer.weight.detach()
    layer(draw(3, 20))
    assert torch.equal(layer.u, u)
    layer.before_update()
    v = w.T @ u / (w.T @ u).norm()
    torch.testing.assert_close(layer.v, v)
    torch.testing.assert_close(layer.u, w @ v / (w @ v).norm())


def test_gradient_of_sigma_is_the_outer_product_of_the_vectors():
    layer = initialised(SpectralConv2d(3, 4, 3))
    (gradient,) = torch.autograd.grad(layer.sigma(), layer.weight)
    by_hand = torch.outer(layer.u, layer.v).unflatten(1, (3, 3, 3)).permute(0, 3, 1, 2)  # v runs over rows, columns, channels
    torch.testing.assert_close(gradient, by_hand)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_layers_are_torchs_own_divided_by_sigma(memory_format):
    convolution = initialised(SpectralConv2d(3, 4, 3, stride=2, padding=1)).to(memory_format=memory_format)
    x = draw(2, 3, 8, 8).contiguous(memory_format=memory_format)
    plain = F.conv2d(x, convolution.weight, None, 2, 1) / convolution.sigma()
    torch.testing.assert_close(convolution(x), plain)
    embedding = initialised(SpectralEmbedding(5, 12))
    torch.testing.assert_close(embedding(torch.tensor([4, 0])), (embedding.weight / embedding.sigma())[[4, 0]])
    linear = initialised(SpectralLinear(20, 7))
    torch.testing.assert_close(linear(draw(3, 20)), draw(3, 20) @ linear.weight.T / linear.sigma())


def test_sigma_stays_float32_under_autocast():
    layer = initialised(SpectralLinear(64, 64))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.sigma(), layer.sigma().float())
        sigma = layer.sigma()
    assert sigma.item() == layer.sigma().item()


def test_orthogonal_weights():
    layer = initialised(SpectralConv2d(6, 10, 3), initialise_orthogonal)
    matrix = layer.weight.detach().flatten(1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(10), atol=1e-5, rtol=0)
    assert layer.sigma().item() == pytest.approx(1, rel=1e-5)


def test_self_attention_pixel_by_pixel():
    layer = initialised(SelfAttention(16))
    x = draw(2, 16, 4, 6) * 3
    assert torch.equal(layer(x), x)  # gamma starts at 0
    with torch.no_grad():
        layer.gamma.fill_(0.7)

    def pointwise(convolution: SpectralConv2d, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("oc,nchw->nohw", convolution.weight[:, :, 0, 0] / convolution.sigma(), x)

    query = pointwise(layer.query, x)
    key, value = (F.max_pool2d(pointwise(convolution, x), 2) for convolution in (layer.key, layer.value))
    mixed = torch.empty(2, 8, 4, 6)
    for n, row, column in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(6)).tolist():
        weights = (query[n, :, row, column, None, None] * key[n]).sum(0).exp()
        mixed[n, :, row, column] = (value[n] * weights / weights.sum()).sum((1, 2))
    torch.testing.assert_close(layer(x), x + 0.7 * pointwise(layer.output, mixed), atol=1e-5, rtol=1e-4)


def test_self_attention_can_be_differentiated_twice():
    layer = initialised(SelfAttention(8))
    with torch.no_grad():
        layer.gamma.fill_(0.5)
    x, direction = draw(1, 8, 4, 4, of=1).requires_grad_(), draw(1, 8, 4, 4, of=2)

    def gradient(x: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)[0]

    (curvature,) = torch.autograd.grad((gradient(x) * direction).sum(), x)
    with torch.enable_grad():
        difference = (gradient(x + 1e-2 * direction) - gradient(x - 1e-2 * direction)) / 2e-2
    assert (curvature - difference).norm() < 0.02 * difference.norm()


def test_conditional_batch_norm_is_plain_at_first_then_each_class_has_its_own_affine_map():
    layer = ConditionalBatchNorm(3, gain=nn.Embedding(4, 3), shift=nn.Embedding(4, 3))
    initialised(layer)
    x, labels = draw(8, 3, 5, 5) * 2 + 1, torch.tensor([0, 1, 2, 3, 3, 1, 0, 2])
    plain = F.batch_norm(x, None, None, training=True)
    torch.testing.assert_close(layer(x, labels), plain)
    with torch.no_grad():
        layer.gain.weight.copy_(draw(4, 3, of=1))
        layer.shift.weight.copy_(draw(4, 3, of=2))
    expected = torch.stack(
        [plain[n] * (1 + draw(4, 3, of=1)[k])[:, None, None] + draw(4, 3, of=2)[k][:, None, None] for n, k in enumerate(labels)]
    )
    torch.testing.assert_close(layer(x, labels), expected)


def test_conditional_batch_norm_is_calibrated():
    layer = initialised(ConditionalBatchNorm(3, gain=nn.Embedding(4, 3), shift=nn.Embedding(4, 3)))
    x = draw(16, 3, 5, 5) * 2 + 1
    calibrate(layer, [(x, torch.zeros(16, dtype=torch.int64))])
    torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(layer.running_var, x.var((0, 2, 3)))
