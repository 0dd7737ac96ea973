"""The options of dcgan and mlp: sizes, spectral norm, and how the class comes in."""

import pytest
import torch
import torch.nn.functional as F

from ganlib import models
from ganlib.models import ImageSpec, Judgement
from ganlib.models.layers.spectral import Spectral
from ganlib.models.settings import ModelConfig
from ganlib.rng import keyed_rng

SIZES = [(8, 8), (28, 28), (24, 40)]


def build(name="dcgan", *, size=(8, 8), classes=0, generator=None, discriminator=None):
    config = ModelConfig(
        name=name,
        latent_dim=6,
        conditional=classes > 0,
        generator={"width": 4} | (generator or {}),
        discriminator={"width": 4} | (discriminator or {}),
    )
    return models.build(config, ImageSpec(channels=1, size=size, class_counts=(7,) * classes), seed=0)


def draw(*shape, of=0):
    return torch.randn(*shape, generator=keyed_rng(0, "test", of))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("normalization", ["none", "batch"])
@pytest.mark.parametrize("downsampling", ["stride", "maxpool"])
@pytest.mark.parametrize("kernel", [4, 5])
def test_every_kernel_halves_and_doubles_exactly(kernel, downsampling, normalization, size):
    same = {"kernel": kernel, "normalization": normalization}
    generator, discriminator = build(size=size, generator=same, discriminator={**same, "downsampling": downsampling})
    shapes = []
    for layer in (*generator.layers, *discriminator.features):
        layer.register_forward_hook(lambda _layer, _inputs, output: shapes.append(tuple(output.shape[2:])))
    images = generator(draw(5, 6))
    assert images.shape == (5, 1, *size)
    core = tuple(side >> (1 if size == (8, 8) else 2) for side in size)
    assert core in shapes
    del shapes[:]
    assert discriminator(images).shape == (5,)
    assert core in shapes
    assert shapes[-1] == tuple(-(-side // 2) for side in core)


def test_the_textbook_network_for_28_pixels():
    """7x7x256 -> 128 -> image and 64 -> 128 -> logit with 5x5 kernels of stride 2."""
    generator, discriminator = build(
        size=(28, 28), generator={"width": 64, "kernel": 5}, discriminator={"width": 64, "kernel": 5, "extra_levels": 0}
    )
    assert [tuple(p.shape) for p in generator.parameters() if p.ndim > 1] == [(256 * 7 * 7, 6), (256, 128, 5, 5), (128, 1, 5, 5)]
    assert [tuple(p.shape) for p in discriminator.parameters() if p.ndim > 1] == [(64, 1, 5, 5), (128, 64, 5, 5), (1, 128 * 7 * 7)]


def test_max_pooling_before_the_activation_is_max_pooling_after_it():
    _, discriminator = build(discriminator={"downsampling": "maxpool", "kernel": 5, "normalization": "none", "extra_levels": 0})
    convolution, *_ = discriminator.features
    x = draw(3, 1, 8, 8)
    by_hand = F.max_pool2d(F.leaky_relu(F.conv2d(x, convolution.weight, convolution.bias, padding=2), 0.2), 2)
    torch.testing.assert_close(discriminator.features(x), by_hand)


@pytest.mark.parametrize("name", ["dcgan", "mlp"])
def test_spectral_norm_reaches_every_weight_and_bounds_the_slope(name):
    _, discriminator = build(name, classes=3, discriminator={"spectral_norm": True, "normalization": "none", "condition": "projection"})
    layers = [layer for layer in discriminator.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear | torch.nn.Embedding)]
    assert len(layers) >= 4
    for layer in layers:
        assert isinstance(layer, Spectral)
        layer.before_update(100)
        assert torch.linalg.matrix_norm(layer.normalised().detach().flatten(1), 2).item() == pytest.approx(1, rel=1e-4)
    if name == "mlp":  # there the product of the layers' norms bounds the network: 1, and 1 more from the projection
        x, labels = draw(8, 1, 8, 8).requires_grad_(), torch.arange(8) % 3
        (gradient,) = torch.autograd.grad(discriminator(x, labels).sum(), x)
        assert gradient.flatten(1).norm(dim=1).max() <= 2


@pytest.mark.parametrize("condition", ["concat", "projection", "auxiliary"])
@pytest.mark.parametrize("name", ["dcgan", "mlp"])
def test_conditions(name, condition):
    generator, discriminator = build(name, classes=3, discriminator={"condition": condition})
    for network in (generator, discriminator):
        network.eval()
    z, labels = draw(1, 6).expand(3, -1), torch.arange(3)
    images = generator(z, labels)
    assert (images[0] - images[1]).norm() > 0.01 * images[0].norm()  # the same latent, another class
    x = draw(1, 1, 8, 8).expand(3, -1, -1, -1)
    if condition == "auxiliary":
        judgement = discriminator(x, full=True)
        assert judgement.class_logits.shape == (3, 3)
        assert torch.equal(judgement.logits, discriminator(x, labels))
    else:
        judgement = discriminator(x, labels, full=True)
        assert judgement.class_logits is None
        assert judgement.logits.std() > 0.01 * judgement.logits.abs().max()
    assert isinstance(judgement, Judgement)
    assert torch.equal(judgement.logits, discriminator(x, labels))
    head = discriminator.head
    plain = judgement.features @ head.logit.weight[0] + head.logit.bias  # the logit is linear in the features
    if condition == "projection":
        plain = plain + (head.embedding.weight * judgement.features).sum(1)
    torch.testing.assert_close(judgement.logits, plain)
    judgement.logits.sum().backward()
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


@pytest.mark.parametrize("name", ["dcgan", "mlp"])
def test_an_unconditional_network_knows_no_classes_whatever_the_data_have(name):
    config = ModelConfig(name=name, latent_dim=6, generator={"width": 4}, discriminator={"width": 4})
    with_classes = models.build(config, ImageSpec(channels=1, size=(8, 8), class_counts=(5, 5)), seed=0)
    without = models.build(config, ImageSpec(channels=1, size=(8, 8)), seed=0)
    for ours, theirs in zip(with_classes, without, strict=True):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)
