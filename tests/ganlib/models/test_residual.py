"""resnet, sagan and biggan, and the blocks they share, against slow references."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganlib import models
from ganlib.models import ImageSpec
from ganlib.models.layers.attention import SelfAttention
from ganlib.models.layers.initialise import initialise_glorot
from ganlib.models.layers.norm import BatchNorm, ConditionalBatchNorm, calibrate
from ganlib.models.layers.residual import DoublingConv2d, DownBlock, HalvingConv2d, SpectralHalvingConv2d, UpBlock, attention_level
from ganlib.models.layers.spectral import Spectral
from ganlib.models.settings import ModelConfig
from ganlib.rng import keyed_rng

FAMILIES = ["resnet", "sagan", "biggan"]


def build(name, *, size=(8, 8), classes=0, latent_dim=11, generator=None, discriminator=None):
    config = ModelConfig(
        name=name,
        latent_dim=latent_dim,
        conditional=classes > 0,
        generator={"width": 4} | (generator or {}),
        discriminator={"width": 4} | (discriminator or {}),
    )
    return models.build(config, ImageSpec(channels=1, size=size, class_counts=(7,) * classes), seed=0)


def draw(*shape, of=0):
    return torch.randn(*shape, generator=keyed_rng(0, "test", of))


def initialised(module):
    with torch.no_grad():
        initialise_glorot(module, keyed_rng(0, "weights"))
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(draw(*parameter.shape) / 4)  # biases of 0 would hide a missing one
    return module


def pooled(x):
    return F.avg_pool2d(x, 2)


def doubled(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.mark.parametrize(
    ("make", "reference"),
    [
        (DoublingConv2d, lambda x, layer: F.conv2d(doubled(x), layer.weight, layer.bias, padding=1)),
        (HalvingConv2d, lambda x, layer: pooled(F.conv2d(x, layer.weight, layer.bias, padding=1))),
        (SpectralHalvingConv2d, lambda x, layer: pooled(F.conv2d(x, layer.weight / layer.sigma(), layer.bias, padding=1))),
    ],
)
def test_one_convolution_for_two_steps_is_equal_in_value_and_gradients(make, reference):
    layer = initialised(make(3, 5))
    x = draw(2, 3, 4, 6).requires_grad_()
    fast, slow = layer(x), reference(x, layer)
    torch.testing.assert_close(fast, slow)
    down = draw(*fast.shape, of=1)
    inputs = (x, layer.weight, layer.bias)
    for ours, theirs in zip(torch.autograd.grad(fast, inputs, down), torch.autograd.grad(slow, inputs, down), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_up_block_step_by_step():
    block = initialised(UpBlock(4, 3, norm=BatchNorm, spectral=False))
    x = draw(2, 4, 3, 5)

    def normalised(norm, x):
        return F.relu(F.batch_norm(x, None, None, norm.weight, norm.bias, training=True))

    h = F.conv2d(doubled(normalised(block.norm1, x)), block.convolution1.weight, padding=1)
    h = block.convolution2(normalised(block.norm2, h))
    torch.testing.assert_close(block(x, None), h + block.shortcut(doubled(x)))


def test_down_block_step_by_step():
    block = initialised(DownBlock(3, 5, hidden=4, spectral=False))
    x = draw(2, 3, 4, 6)
    h = F.conv2d(F.relu(x), block.convolution1.weight, block.convolution1.bias, padding=1)
    h = F.conv2d(F.relu(h), block.convolution2.weight, block.convolution2.bias, padding=1)
    torch.testing.assert_close(block(x), pooled(h) + pooled(block.shortcut(x)))
    first = initialised(DownBlock(3, 5, hidden=4, spectral=False, is_first=True))  # reads an image as it is: of -1, too
    h = F.conv2d(x, first.convolution1.weight, first.convolution1.bias, padding=1)
    h = F.conv2d(F.relu(h), first.convolution2.weight, first.convolution2.bias, padding=1)
    torch.testing.assert_close(first(x), pooled(h) + pooled(first.shortcut(x)))
    last = initialised(DownBlock(3, 3, hidden=3, spectral=False, is_halving=False))
    torch.testing.assert_close(last(x), x + last.convolution2(F.relu(last.convolution1(F.relu(x)))))


@pytest.mark.parametrize("name", FAMILIES)
def test_widths_at_64_pixels(name):
    """SNGAN's table for 64 pixels (arXiv:1802.05957, table 4) in units of the width: 8, 8, 4, 2, 1 up and 1, 2, 4, 8, 8 down.

    Kills: SAGAN's D widened in the second convolution of a block.
    """
    generator, discriminator = build(name, size=(64, 64), generator={"width": 2}, discriminator={"width": 2})
    up = [block for block in generator.modules() if isinstance(block, UpBlock)]
    down = [block for block in discriminator.modules() if isinstance(block, DownBlock)]
    assert [block.shortcut.in_channels // 2 for block in up] == [8, 8, 4, 2]
    assert [block.shortcut.out_channels // 2 for block in up] == [8, 4, 2, 1]
    assert [block.convolution2.out_channels // 2 for block in down] == [1, 2, 4, 8, 8]
    widened = [1, 1, 2, 4, 8] if name == "resnet" else [1, 2, 4, 8, 8]  # in the first convolution: released code of sagan and biggan
    assert [block.convolution1.out_channels // 2 for block in down] == widened


@pytest.mark.parametrize("name", FAMILIES)
def test_which_weights_are_spectrally_normalised(name):
    networks = dict(zip(("generator", "discriminator"), build(name, classes=3), strict=True))
    plain = {
        key
        for role, network in networks.items()
        for key, layer in network.named_modules(prefix=role)
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding) and not isinstance(layer, Spectral)
    }
    if name == "resnet":
        assert plain
        assert all(key.startswith("generator") for key in plain)
    else:
        of_classes = {key for key in plain if key.endswith((".gain", ".shift", ".embedding"))}
        assert plain == of_classes
        assert plain == {"generator.embedding"} if name == "biggan" else plain
    _, discriminator = build("resnet", discriminator={"normalization": "none"})
    assert not any(isinstance(layer, Spectral) for layer in discriminator.modules())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_class_reaches_both_networks(name):
    generator, discriminator = build(name, classes=3)
    labels = torch.arange(6) % 3
    images = generator(draw(6, 11), labels)
    discriminator(images, labels).sum().backward()
    for network in (generator, discriminator):
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None, key
    with torch.no_grad():
        for norm in generator.modules():
            if isinstance(norm, ConditionalBatchNorm) and isinstance(norm.gain, nn.Embedding):
                norm.gain.weight.normal_(generator=keyed_rng(0, "gain"))  # at first every class is the same
        calibrate(generator, [(draw(6, 11), labels)])
        same_z = generator(draw(1, 11).expand(3, -1), torch.arange(3))
        assert (same_z[0] - same_z[1]).abs().max() > 1e-3
        same_x = discriminator(draw(1, 1, 8, 8).expand(3, -1, -1, -1), torch.arange(3))
    assert same_x.std() > 0.01 * same_x.abs().max()


@pytest.mark.parametrize("condition", ["projection", "auxiliary", "concat"])
@pytest.mark.parametrize("name", FAMILIES)
def test_conditions_of_the_discriminator(name, condition):
    _, discriminator = build(name, classes=3, discriminator={"condition": condition})
    x, labels = draw(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    judgement = discriminator(x, None if condition == "auxiliary" else labels, full=True)
    assert (judgement.class_logits is not None) == (condition == "auxiliary")
    assert judgement.features.shape == (4, 4)
    assert judgement.features.min() >= 0  # rectified sums
    judgement.logits.sum().backward()
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_penalties_can_differentiate_twice(name):
    _, discriminator = build(name)
    x = draw(2, 1, 8, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    weights = {key: p for key, p in discriminator.named_parameters() if p.ndim > 1}
    for key, parameter in weights.items():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize(("size", "side"), [((8, 8), 4), ((28, 28), 14), ((32, 32), 16), ((64, 64), 16), ((24, 40), 12), ((20, 20), 10)])
def test_attention_stands_where_a_side_is_nearest_to_14_to_16(size, side):
    seen = []
    for network, inputs in zip(build("sagan", size=size), (draw(2, 11), draw(2, 1, *size)), strict=True):
        (layer,) = (layer for layer in network.modules() if isinstance(layer, SelfAttention))
        layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(min(output.shape[2:])))
        network(inputs)
    assert seen == [side, side]


def test_attention_elsewhere_or_nowhere():
    image = ImageSpec(channels=1, size=(32, 48))
    assert attention_level(8, image, family="sagan", network="generator") == 1
    assert attention_level(0, image, family="sagan", network="generator") is None
    with pytest.raises(ValueError, match=r"model.generator.attention_size=32: .*shorter sides \[4, 8, 16\]"):
        attention_level(32, image, family="sagan", network="generator")
    generator, _ = build("sagan", generator={"attention_size": 0})
    assert not any(isinstance(layer, SelfAttention) for layer in generator.modules())


def test_biggan_gives_each_level_its_chunk_of_z_and_the_shared_embedding():
    generator, _ = build("biggan", size=(28, 28), classes=3, latent_dim=11, generator={"embedding_dim": 5})
    first, second = generator.stack.blocks
    seen = {}
    for key, layer in (("core", generator.stack.linear), ("first", first.norm1.gain), ("second", second.norm2.shift)):
        layer.register_forward_hook(lambda _layer, inputs, _output, key=key: seen.update({key: inputs[0]}))
    z, labels = draw(4, 11), torch.tensor([2, 0, 1, 2])
    generator(z, labels)
    embedded = generator.embedding.weight[labels]
    assert torch.equal(seen["core"], z[:, :5])  # 11 = 5 + 3 + 3
    assert torch.equal(seen["first"], torch.cat([embedded, z[:, 5:8]], 1))
    assert torch.equal(seen["second"], torch.cat([embedded, z[:, 8:]], 1))


def test_biggan_starts_orthogonal():
    generator, _ = build("biggan", size=(28, 28))
    weight = generator.stack.blocks[0].convolution2.weight.detach().flatten(1)
    torch.testing.assert_close(weight @ weight.T, torch.eye(len(weight)), atol=1e-5, rtol=0)


def test_biggan_says_when_the_latent_is_too_small():
    with pytest.raises(ValueError, match=r"model.latent_dim=2 is too small for model.name=biggan .*at least 3"):
        build("biggan", size=(28, 28), latent_dim=2)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_names_itself_when_a_size_is_refused(name):
    with pytest.raises(ValueError, match=rf"model.name={name}"):
        build(name, size=(30, 30))
