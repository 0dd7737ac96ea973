"""Every registered family, at every size it can make."""

import pytest
import torch

from ganlib import models, rng
from ganlib.config import ModelConfig
from ganlib.models import MODELS, ImageSpec
from ganlib.models.layers.minibatch import MinibatchStddev
from ganlib.models.layers.noise import Dropout
from ganlib.models.layers.norm import BatchNorm, calibrate

SIZES = [(8, 8), (28, 28), (32, 32), (64, 64), (24, 40)]
FAMILIES = MODELS.names()


def small(name: str, **keys) -> ModelConfig:
    return ModelConfig(name=name, latent_dim=12, generator={"width": 8}, discriminator={"width": 8}, **keys)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_shapes_ranges_and_gradients(name, size, channels):
    generator, discriminator = models.build(small(name), ImageSpec(channels=channels, size=size), seed=0)
    z = torch.randn(5, 12, generator=rng.generator(0, "z"))
    images = generator(z)
    assert images.shape == (5, channels, *size)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    logits = discriminator(images)
    assert logits.shape == (5,)
    assert logits.dtype == torch.float32
    logits.sum().backward()
    for network in (generator, discriminator):
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
        assert all(torch.isfinite(buffer).all() for buffer in network.buffers())  # NaN: `initialise` forgot it


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_depend_on_the_seed_alone(name):
    image = ImageSpec(channels=1, size=(8, 8))

    def weights(seed):
        return torch.cat([p.flatten() for network in models.build(small(name), image, seed=seed) for p in network.parameters()])

    torch.rand(3)  # whatever the global generator did before
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("name", FAMILIES)
def test_unknown_options_are_refused(name):
    with pytest.raises(ValueError, match=r"model.generator.widht=8 is not a known key \(did you mean 'width'\?\)"):
        models.check(ModelConfig(name=name, generator={"widht": 8}), ImageSpec(channels=1, size=(8, 8)))


@pytest.mark.parametrize(
    ("size", "nearest"), [((30, 30), r"\[28, 28\] or \[32, 32\]"), ((7, 7), r"\[8, 8\]"), ((28, 30), r"\[28, 28\] or \[28, 32\]")]
)
def test_dcgan_says_which_sizes_it_can_make(size, nearest):
    with pytest.raises(
        ValueError, match=rf"data.image_size=\[{size[0]}, {size[1]}\] cannot be made by model.name=dcgan.*nearest: .*{nearest}"
    ):
        models.check(small("dcgan"), ImageSpec(channels=1, size=size))


def test_batch_norm_calibration_against_the_plain_average():
    layer = BatchNorm(3)
    with torch.no_grad():
        layer.initialise(rng.generator(0, "bn"), std=0.02)
    batches = [torch.randn(16, 3, 4, 4, generator=rng.generator(0, "x", i)) * 2 + 1 for i in range(10)]
    with torch.no_grad():
        layer.train()
        for batch in batches:
            layer(batch)
    assert layer.running_mean.eq(0).all()  # training keeps no running average
    calibrate(torch.nn.Sequential(layer), ((batch,) for batch in batches))
    assert not layer.training
    torch.testing.assert_close(layer.running_mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0))
    torch.testing.assert_close(layer.running_var, torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0))


def test_batch_norm_in_training_is_torchs_own():
    x = torch.randn(8, 3, 5, 5, generator=rng.generator(0, "x"))
    ours, theirs = BatchNorm(3), torch.nn.BatchNorm2d(3)
    torch.testing.assert_close(ours(x), theirs(x))


def test_minibatch_stddev_by_hand():
    x = torch.tensor([[1.0, 10.0], [3.0, 10.0]])  # deviations over the batch: 1 and 0, mean 0.5
    torch.testing.assert_close(MinibatchStddev()(x)[:, 2], torch.tensor([0.5, 0.5]), rtol=0, atol=1e-4)


def test_dropout_is_keyed_scaled_and_off_in_evaluation():
    layer, x = Dropout(0.25), torch.ones(10_000)

    def draw(step):
        with rng.layer_noise(rng.generator(0, "layers", step)):
            return layer(x)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert draw(1).mean().item() == pytest.approx(1.0, abs=0.03)
    assert draw(1).unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(layer.eval()(x), x)
