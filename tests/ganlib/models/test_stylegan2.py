"""StyleGAN2 against slow references: a weight a sample, styles crossed over, the mean latent."""

import math

import pytest
import torch
import torch.nn.functional as F

from ganlib import models, rng
from ganlib.models import ImageSpec
from ganlib.models.layers.norm import calibrate
from ganlib.models.layers.resample import upsampling_convolution
from ganlib.models.settings import ModelConfig
from ganlib.models.stylegan2 import Modulated
from ganlib.rng import keyed_rng

DIM = 12


def noise(*shape):
    return torch.randn(*shape, generator=keyed_rng(0, "x", *shape))


def pair(size=(16, 16), classes=0, generator=None, discriminator=None):
    config = ModelConfig(
        name="stylegan2",
        latent_dim=DIM,
        conditional=classes > 0,
        generator={"width": 8, **(generator or {})},
        discriminator={"width": 8, **(discriminator or {})},
    )
    return models.build(config, ImageSpec(channels=3, size=size, class_counts=(5,) * classes), seed=0)


def training(network, *args, key=0, **options):
    with rng.layer_noise(keyed_rng(0, "layers", key)):
        return network(*args, **options)


@pytest.mark.parametrize("up", [False, True], ids=["same", "up"])
@pytest.mark.parametrize("demodulate", [False, True], ids=["plain", "demodulated"])
def test_modulation_equals_a_weight_of_its_own_for_each_sample(up, demodulate):
    layer = Modulated(6, 5, 3, DIM, up=up, demodulate=demodulate)
    with torch.no_grad():
        layer.initialise(keyed_rng(0, "weight"))
        layer.style.initialise(keyed_rng(0, "style"))
    x, w = noise(3, 6, 4, 5).requires_grad_(True), noise(3, DIM).requires_grad_(True)
    y, factors = layer(x, w)
    assert (factors is not None) == demodulate
    got = y if factors is None else y * factors

    def one(image, latent):  # section 2.2, equations 1 to 3
        weight = layer.weight / math.sqrt(6 * 9) * layer.style(latent[None])[0][None, :, None, None]
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        return upsampling_convolution(image[None], weight.transpose(0, 1)) if up else F.conv2d(image[None], weight, padding=1)

    expected = torch.cat([one(image, latent) for image, latent in zip(x, w, strict=True)])
    torch.testing.assert_close(got, expected)
    for inputs in (x, w, layer.weight):
        (a,), (b,) = (torch.autograd.grad(value.square().sum(), inputs, retain_graph=True) for value in (got, expected))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_demodulated_layer_forgets_the_size_of_its_style():
    layer = Modulated(6, 5, 3, DIM)
    with torch.no_grad():
        layer.initialise(keyed_rng(0, "weight"))
        layer.style.initialise(keyed_rng(0, "style"))
        layer.style.bias.zero_()
    x, w = noise(1, 6, 4, 4), noise(1, DIM)
    torch.testing.assert_close(*(y * factors for y, factors in (layer(x, w), layer(x, 50 * w))), rtol=1e-3, atol=1e-4)


def test_noise_is_drawn_in_training_and_constant_in_evaluation():
    generator, _ = pair(generator={"mixing_probability": 0.0})
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("strength"):
                parameter.fill_(0.5)
    z = noise(4, DIM)
    assert torch.equal(training(generator, z), training(generator, z))
    assert not torch.equal(training(generator, z), training(generator, z, key=1))
    with pytest.raises(RuntimeError, match="layer_noise"):
        generator(z)
    generator.eval()
    torch.testing.assert_close(generator(z)[1:], generator(z[1:]))


def test_mixing_crosses_two_latents_over_at_one_layer():
    generator, _ = pair(generator={"mixing_probability": 0.5})
    z = noise(400, DIM)
    styles = training(generator, z, full=True).styles
    assert styles.shape == (400, 6, DIM)
    own = generator.mapping(z, None)
    is_own = torch.isclose(styles, own[:, None], atol=1e-4).all(2).int()
    assert is_own[:, 0].all()
    assert (is_own.diff(dim=1) <= 0).all()  # once the other latent has taken over it stays
    assert is_own.all(1).float().mean().item() == pytest.approx(0.5, abs=0.08)
    places = is_own[~is_own.bool().all(1)].sum(1).bincount(minlength=6)[1:]
    assert (places > 20).all()  # 200 samples over 5 places
    assert (generator.eval()(z[:3], full=True).styles == generator.mapping(z[:3], None)[:, None]).all()


def test_calibration_measures_the_mean_latent_and_truncation_pulls_to_it():
    generator, _ = pair()
    batches = [noise(16, DIM), noise(16, DIM) + 1]
    assert generator.mean_latent.mean.eq(0).all()
    calibrate(generator, [(batch,) for batch in batches])
    mean = torch.stack([generator.mapping(batch, None).mean(0) for batch in batches]).mean(0)
    torch.testing.assert_close(generator.mean_latent.mean, mean)
    z = noise(3, DIM)
    with torch.no_grad():
        images = generator(z, truncation=0.0)
        torch.testing.assert_close(images, images[:1].expand(3, -1, -1, -1))
        half = generator(z, full=True, truncation=0.5).styles[:, 0]
    torch.testing.assert_close(half, (generator.mapping(z, None) + mean) / 2)


def test_evaluation_clamps_and_training_does_not():
    generator, _ = pair()
    assert training(generator, noise(64, DIM)).abs().max() > 1
    assert generator.eval()(noise(64, DIM)).abs().max() == 1


def test_path_lengths_reach_every_weight_that_makes_the_image():
    """The gradient of the image with respect to the styles is itself differentiable (section 3.2)."""
    generator, _ = pair(generator={"mixing_probability": 0.0})
    made = training(generator, noise(3, DIM), full=True)
    (gradient,) = torch.autograd.grad((made.images * noise(*made.images.shape)).sum(), made.styles, create_graph=True)
    assert gradient.square().sum(2).min() > 0  # each layer's style matters
    gradient.square().sum().backward()
    for name, parameter in generator.named_parameters():
        if "convolution" in name and "to_image" not in name:
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("architecture", ["residual", "skip", "orig"])
@pytest.mark.parametrize("condition", ["projection", "auxiliary", "concat"])
def test_conditions_and_architectures(architecture, condition):
    generator, discriminator = pair(size=(24, 40), classes=3, discriminator={"architecture": architecture, "condition": condition})
    labels = torch.tensor([0, 1, 2, 0])
    images = training(generator, noise(4, DIM), labels)
    judgement = discriminator(images, None if condition == "auxiliary" else labels, full=True)
    judgement.logits.sum().backward()
    assert all(p.grad is not None for network in (generator, discriminator) for p in network.parameters())
    generator.eval()
    same = noise(1, DIM).expand(2, -1)
    assert not torch.allclose(*generator(same, torch.tensor([0, 1])))
    assert (judgement.class_logits is not None) == (condition == "auxiliary")


def test_orig_is_convolutions_one_after_the_other():
    """StyleGAN2-ADA's discriminator for CIFAR-10, step by step. Kills: a linear path beside them, and sqrt(1/2) of one that is not there."""
    _, discriminator = pair(discriminator={"architecture": "orig", "minibatch_stddev": False})
    assert not [name for name, _ in discriminator.named_parameters() if "shortcut" in name]
    assert len(discriminator.from_image) == 1

    def rectified(
        x,
    ):  # sqrt(2) after the rectifier, and weights N(0, 1) / sqrt(fan in), equal folding it into the weights where biases are 0
        return F.leaky_relu(x, 0.2) * math.sqrt(2)

    def convolved(x, layer, **options):
        return F.conv2d(x, layer.weight / math.sqrt(layer.weight[0].numel()), **options)

    x = images = noise(2, 3, 16, 16)
    kernel = torch.outer(*[torch.tensor([1.0, 3, 3, 1]) / 8] * 2)
    x = rectified(convolved(x, discriminator.from_image[0]))
    for level in discriminator.levels:
        x = rectified(convolved(x, level.first, padding=1))
        blurred = F.conv2d(x, kernel.expand(x.shape[1], 1, 4, 4), padding=2, groups=x.shape[1])
        x = rectified(convolved(blurred, level.second, stride=2))
    x = rectified(convolved(x, discriminator.core, padding=1)).flatten(1)
    hidden, logit = discriminator.hidden.weight, discriminator.head.logit.weight
    x = rectified(x @ hidden.T / math.sqrt(hidden.shape[1])) @ logit.T / math.sqrt(logit.shape[1])
    torch.testing.assert_close(discriminator(images), x[:, 0], rtol=1e-4, atol=1e-5)


def test_layers_keep_their_variance_at_the_start():
    """Equalised weights with sqrt(2) gains: features stay near unit size from the first level to the core, residual sums included."""
    _, discriminator = pair(size=(32, 32), discriminator={"width": 32})
    sizes = []
    for level in discriminator.levels:
        level.register_forward_hook(lambda _m, _i, y: sizes.append(y.square().mean().item()))
    discriminator(noise(16, 3, 32, 32))
    assert len(sizes) == 3
    assert all(0.1 < size < 2 for size in sizes)  # white noise loses energy in each low-pass filter
