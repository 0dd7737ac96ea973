"""BEGAN: the logit is a reconstruction error, and an autoencoder trained on it reconstructs."""

import pytest
import torch

from ganlib import models
from ganlib.models import ImageSpec
from ganlib.models.settings import ModelConfig
from ganlib.rng import keyed_rng

DIM = 12


def noise(*shape):
    return torch.randn(*shape, generator=keyed_rng(0, "x", *shape))


def pair(size=(16, 16), classes=0):
    config = ModelConfig(
        name="began",
        latent_dim=DIM,
        conditional=classes > 0,
        generator={"width": 8},
        discriminator={"width": 8, "code": 6},
    )
    return models.build(config, ImageSpec(channels=3, size=size, class_counts=(5,) * classes), seed=0)


def test_the_logit_is_minus_the_mean_absolute_error():
    _, discriminator = pair()
    images = noise(3, 3, 16, 16)
    judgement = discriminator(images, full=True)
    assert judgement.features.shape == (3, 6)
    for image, code, logit in zip(images, judgement.features, judgement.logits, strict=True):
        errors = (image - discriminator.decoder(code[None])[0]).abs()
        assert logit.item() == pytest.approx(-errors.sum().item() / (3 * 16 * 16), rel=1e-5)


def test_the_image_gets_a_gradient_along_both_ways():
    """Directly as the target, and through the code."""
    _, discriminator = pair()
    images = noise(1, 3, 16, 16).requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images)
    target = -torch.sign(images - discriminator.decoder(discriminator.encoder(images))) / images.numel()
    assert not torch.allclose(gradient, target, atol=1e-6)
    discriminator.encoder.requires_grad_(False)
    (through,) = torch.autograd.grad(discriminator.decoder(discriminator.encoder(images)), images, -target)
    torch.testing.assert_close(gradient, target + through, atol=1e-6, rtol=1e-4)


def test_a_higher_logit_means_a_better_known_image():
    _, discriminator = pair(size=(8, 8))
    known = noise(4, 3, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3).clamp(-1, 1)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=5e-3)
    before = discriminator(known).mean().item()
    for _ in range(30):
        optimizer.zero_grad()
        (-discriminator(known).mean()).backward()
        optimizer.step()
    assert discriminator(known).mean().item() > 0.5 * before
    assert discriminator(known).min() > discriminator(noise(4, 3, 8, 8)).max()


def test_the_encoder_grows_linearly_and_the_decoder_stays():
    _, discriminator = pair(size=(32, 32))
    encoder, decoder = (
        [module.out_channels for module in part.modules() if isinstance(module, torch.nn.Conv2d)]
        for part in (discriminator.encoder, discriminator.decoder)
    )
    assert encoder == [8] * 3 + [16] * 3 + [24] * 3 + [32] * 3
    assert decoder == [8] * 8 + [3]


def test_evaluation_clamps_and_training_does_not():
    generator, _ = pair()
    with torch.no_grad():
        generator.decoder[-1].weight.mul_(10)
    assert generator(noise(16, DIM)).abs().max() > 1
    assert generator.eval()(noise(16, DIM)).abs().max() == 1


def test_both_networks_are_told_the_class():
    generator, discriminator = pair(size=(24, 40), classes=3)
    labels = torch.tensor([0, 1])
    images = generator(noise(1, DIM).expand(2, -1), labels)
    assert not torch.allclose(*images)
    judgement = discriminator(images[:1].expand(2, -1, -1, -1), labels, full=True)
    assert not torch.allclose(*judgement.logits)
    judgement.logits.sum().backward()
    assert all(p.grad is not None for network in (generator, discriminator) for p in network.parameters())
