"""Every registered family, at every size it can make."""

import math

import pytest
import torch

from ganlib import models, rng, transforms
from ganlib.models import MODELS, ImageSpec
from ganlib.models.layers.advancing import AdvancingLayer
from ganlib.models.layers.minibatch import MinibatchDiscrimination, MinibatchStddev
from ganlib.models.layers.noise import Dropout
from ganlib.models.layers.norm import BatchNorm, calibrate
from ganlib.models.settings import ModelConfig
from ganlib.regularizers import discriminator_option
from ganlib.rng import keyed_rng
from ganlib.transforms import TRANSFORMS

SIZES = [(8, 8), (28, 28), (32, 32), (64, 64), (24, 40)]
FAMILIES = [entry.name for entry in MODELS if {"generator", "discriminator"} <= set(entry.value.roles)]
DISCRIMINATORS = [entry.name for entry in MODELS if "discriminator" in entry.value.roles]
TRANSLATORS = [entry.name for entry in MODELS if models.TRANSLATOR in entry.value.roles]
AUTOENCODERS = [entry.name for entry in MODELS if "autoencoder" in entry.value.roles]
BUILT = [(entry.name, role) for entry in MODELS for role in entry.value.roles]
CLASSES = ImageSpec(channels=1, size=(8, 8), class_counts=(5, 3, 2))


def small(name: str, **keys) -> ModelConfig:
    return ModelConfig(name=name, latent_dim=12, generator={"width": 8}, discriminator={"width": 8}, **keys)


def advanced(network):
    """After one update's advance, as the step calls it."""
    for layer in (layer for layer in network.modules() if isinstance(layer, AdvancingLayer)):
        layer.before_update()
    return network


def pair(name, image, **keys):
    return [advanced(network) for network in models.build(small(name, **keys), image, seed=0)]


def judge(name, image, **keys):
    """A discriminator, whatever the family builds beside it."""
    return advanced(models.build_network(small(name, **keys), image, "discriminator", seed=0))


def transform_for(name, image):
    """A registered transform that the family can undo."""
    refusals = []
    for transform in (transforms.of(entry.value.options()) for entry in TRANSFORMS):
        try:
            models.check(ModelConfig(name=name), image, {"first": models.TRANSLATOR}, fed=transform.fed(image))
        except ValueError as error:
            refusals.append(str(error))
        else:
            return transform
    raise AssertionError(refusals)


def fed_for(name, role, image):
    return transform_for(name, image).fed(image) if role == models.TRANSLATOR else None


def noise(step=0):
    return rng.layer_noise(keyed_rng(0, "layers", step))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_shapes_ranges_and_gradients(name, size, channels):
    generator, discriminator = pair(name, ImageSpec(channels=channels, size=size))
    z = torch.randn(4, 12, generator=keyed_rng(0, "z"))
    with noise():
        images = generator(z)
        assert images.shape == (4, channels, *size)
        assert images.dtype == torch.float32
        logits = discriminator(images)
    assert logits.shape == (4,)
    assert logits.dtype == torch.float32
    logits.sum().backward()
    for network in (generator, discriminator):
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
        assert all(torch.isfinite(buffer).all() for buffer in network.buffers())  # NaN: `initialise` forgot it


@pytest.mark.parametrize("conditional", [False, True], ids=["unconditional", "conditional"])
@pytest.mark.parametrize("name", FAMILIES)
def test_an_evaluated_generator_draws_nothing_and_stays_in_range(name, conditional):
    generator, _ = pair(name, CLASSES, conditional=conditional)
    z, labels = torch.randn(4, 12, generator=keyed_rng(0, "z")), torch.tensor([0, 1, 2, 0]) if conditional else None
    moved = keyed_rng(0, "training")
    for parameter in generator.parameters():  # some conditions have no effect before training
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=moved))
    calibrate(generator, [(z, labels)])
    images = generator(z, labels)
    assert images.abs().max() <= 1
    assert torch.equal(images, generator(z, labels))
    assert (images[0] != images[1]).any()
    if conditional:
        assert (images[0] != generator(z, torch.tensor([2, 1, 2, 0]))[0]).any()  # it listens to the label


@pytest.mark.parametrize("name", FAMILIES)
def test_a_conditional_pair_is_told_the_class(name):
    generator, discriminator = pair(name, CLASSES, conditional=True)
    z, labels = torch.randn(4, 12, generator=keyed_rng(0, "z")), torch.tensor([0, 1, 2, 0])
    with noise():
        images = generator(z, labels)
    with noise():
        judgement = discriminator(images, labels, full=True)
    judgement.logits.sum().backward()
    for network in (generator, discriminator):
        assert all(p.grad is not None for p in network.parameters())
    assert judgement.features.shape[0] == 4
    assert judgement.features.ndim == 2
    discriminator.eval()
    told = [discriminator(images.detach(), torch.full((4,), label)) for label in range(3)]
    names_the_class = discriminator_option(small(name), "condition") == "auxiliary"  # else it is told
    assert (judgement.class_logits is not None) == names_the_class
    assert (told[0] != told[1]).any() == (not names_the_class)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", TRANSLATORS)
def test_a_translator_makes_the_image_of_what_is_left_of_it(name, size, channels):
    """Shape, range and a gradient in every parameter; each image by itself once it is trained, and no number drawn."""
    image = ImageSpec(channels=channels, size=size)
    transform = transform_for(name, image)
    config = ModelConfig(name=name, generator={"width": 4})
    network = models.build_network(config, image, "generator", role=models.TRANSLATOR, seed=0, fed=transform.fed(image))
    images = torch.rand(4, channels, *size, generator=keyed_rng(0, "x")) * 2 - 1
    fed = transform(images, keyed_rng(0, "transform"))
    made = network(fed)
    assert made.shape == images.shape
    assert made.dtype == torch.float32
    assert made.abs().max() <= 1
    (made - images).square().sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().max() > 0, key
    assert all(torch.isfinite(buffer).all() for buffer in network.buffers())  # NaN: `initialise` forgot it
    network.eval()
    torch.testing.assert_close(network(fed)[1:2], network(fed[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_the_logit_is_that_of_its_features_and_patches(name):
    """Linear in the features, where nothing else is told; the mean over patches, where there are any."""
    image = ImageSpec(channels=1, size=(8, 8))
    discriminator = judge(name, image).eval()
    images = torch.rand(6, 1, 8, 8, generator=keyed_rng(0, "x")) * 2 - 1
    judgement = discriminator(images, full=True)
    assert torch.equal(judgement.logits, discriminator(images))
    assert judgement.features.dtype == judgement.logits.dtype == torch.float32
    assert judgement.verdicts.shape[0] == 6
    assert judgement.verdicts.ndim == (1 if judgement.patch_logits is None else 2)
    torch.testing.assert_close(
        judgement.verdicts.flatten(1).mean(1) if judgement.patch_logits is not None else judgement.verdicts, judgement.logits
    )


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_a_discriminator_can_be_differentiated_twice(name):
    """What every gradient penalty does; under the network's own training mode."""
    discriminator = judge(name, ImageSpec(channels=1, size=(8, 8)))
    images = torch.randn(4, 1, 8, 8, generator=keyed_rng(0, "x")).requires_grad_(True)
    with noise():
        logits = discriminator(images)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    (gradient.square().sum() + 0.0 * logits.sum()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in discriminator.parameters())
    assert sum(p.grad.abs().sum() for p in discriminator.parameters()) > 0


def test_class_conditions_need_classes():
    with pytest.raises(ValueError, match=r"model.conditional=true needs labelled data.*set model.conditional: false"):
        models.check(small("dcgan", conditional=True), ImageSpec(channels=1, size=(8, 8)))


@pytest.mark.parametrize(("name", "role"), BUILT)
def test_weights_depend_on_the_seed_and_the_name_alone(name, role):
    image = ImageSpec(channels=1, size=(8, 8))

    def weights(seed, network):
        config = ModelConfig(name=name, latent_dim=12, **{network: {"width": 8}})
        built = models.build_network(config, image, network, role=role, seed=seed, fed=fed_for(name, role, image))
        assert all(torch.isfinite(value).all() for value in built.state_dict().values())  # NaN: `initialise` forgot it
        return torch.cat([p.flatten() for p in built.parameters()])

    torch.rand(3)  # whatever the global generator did before
    assert torch.equal(weights(1, "a"), weights(1, "a"))
    assert not torch.equal(weights(1, "a"), weights(2, "a"))
    assert not torch.equal(weights(1, "a"), weights(1, "b"))  # two networks in one role


@pytest.mark.parametrize(("name", "role"), BUILT)
def test_unknown_options_are_refused(name, role):
    image = ImageSpec(channels=1, size=(8, 8))
    with pytest.raises(ValueError, match=r"model.first.widht=8 is not a known key \(did you mean 'width'\?\)"):
        models.check(ModelConfig(name=name, first={"widht": 8}), image, {"first": role}, fed=fed_for(name, role, image))


def test_a_role_that_a_family_does_not_build_is_refused():
    with pytest.raises(
        ValueError,
        match=r"model.name='dcgan' builds generator and discriminator, .* role of autoencoder; take a family whose options begin with",
    ):
        models.check(ModelConfig(name="dcgan"), ImageSpec(channels=1, size=(8, 8)), {"first": "autoencoder"})


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", AUTOENCODERS)
def test_an_autoencoder_codes_images_and_decodes_what_it_coded(name, size, channels):
    """Every parameter has a gradient; the mean's decoding is that of a z without noise, and noise counts."""
    config = ModelConfig(name=name, latent_dim=12, autoencoder={"width": 8})
    network = models.build_network(config, ImageSpec(channels=channels, size=size), "autoencoder", seed=0)
    images = torch.rand(4, channels, *size, generator=keyed_rng(0, "x")) * 2 - 1
    coding = network(images, noise=torch.randn(4, 12, generator=keyed_rng(0, "z")))
    assert coding.mean.shape == coding.log_variance.shape == (4, 12)
    assert coding.activation.shape == images.shape
    (coding.activation.sum() + coding.mean.sum() + coding.log_variance.sum() + coding.log_sigma).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    network.eval()
    still = network(images, noise=torch.zeros(4, 12))
    made = network.decoder(network.encoder(images)[0])
    torch.testing.assert_close(made, still.activation.tanh())
    assert made.abs().max() <= 1
    assert not torch.equal(still.activation, coding.activation)


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
        layer.initialise(keyed_rng(0, "bn"), std=0.02)
    batches = [torch.randn(16, 3, 4, 4, generator=keyed_rng(0, "x", i)) * 2 + 1 for i in range(10)]
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
    x = torch.randn(8, 3, 5, 5, generator=keyed_rng(0, "x"))
    ours, theirs = BatchNorm(3), torch.nn.BatchNorm2d(3)
    torch.testing.assert_close(ours(x), theirs(x))


def test_minibatch_discrimination_by_hand():
    layer = MinibatchDiscrimination(1, 2, dims=1)
    layer.projection.weight.data.copy_(torch.tensor([[1.0], [2.0]]))
    appended = layer(torch.tensor([[0.0], [1.0], [3.0]]))[:, 1:]
    expected = [[math.exp(-a * k) + math.exp(-b * k) for k in (1, 2)] for a, b in ((1, 3), (1, 2), (3, 2))]
    torch.testing.assert_close(appended, torch.tensor(expected))


@pytest.mark.parametrize("name", ["mlp", "dcgan"])
def test_minibatch_discrimination_is_an_option(name):
    config = ModelConfig(name=name, latent_dim=12, discriminator={"width": 8, "minibatch_discrimination": 3})
    discriminator = models.build_discriminator(config, ImageSpec(channels=1, size=(8, 8)), seed=0)
    images = torch.randn(4, 1, 8, 8, generator=keyed_rng(0, "x"))
    assert (discriminator(images)[0] - discriminator(torch.cat([images[:1], images[:1], images[2:]]))[0]).abs() > 0  # the others count


def test_minibatch_stddev_by_hand():
    x = torch.tensor([[1.0, 10.0], [3.0, 10.0]])  # deviations over the batch: 1 and 0, mean 0.5
    torch.testing.assert_close(MinibatchStddev()(x)[:, 2], torch.tensor([0.5, 0.5]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("group", [1, 2, 3, 6])
def test_minibatch_stddev_of_groups_by_hand(group):
    """Sample i is with i + N / group, ...: each group alone is a shard. Kills: neighbours in one group, one deviation for all."""
    x = torch.randn(6, 3, 2, 2, generator=keyed_rng(0, "x"))
    appended = MinibatchStddev(group)(x)
    groups = 6 // group
    for first in range(groups):
        torch.testing.assert_close(appended[first::groups], MinibatchStddev()(x[first::groups]))
    assert torch.equal(MinibatchStddev(8)(x), MinibatchStddev()(x))  # fewer than a group: the shard


@pytest.mark.parametrize("name", ["stylegan2", "progressive"])
def test_the_group_of_the_minibatch_stddev_is_an_option(name):
    config = ModelConfig(name=name, latent_dim=12, discriminator={"width": 8, "minibatch_stddev_group": 2})
    discriminator = models.build_discriminator(config, ImageSpec(channels=1, size=(8, 8)), seed=0)
    images = torch.randn(4, 1, 8, 8, generator=keyed_rng(0, "x"))
    before, after = discriminator(images), discriminator(torch.cat([images[:1], images[:2], images[3:]]))
    torch.testing.assert_close(before[1::2], torch.stack([discriminator(images[1::2])[0], discriminator(images[1::2])[1]]))
    assert before[0] != after[0]  # its partner is another image now


def test_dropout_is_keyed_scaled_and_off_in_evaluation():
    layer, x = Dropout(0.25), torch.ones(10_000)

    def draw(step):
        with rng.layer_noise(keyed_rng(0, "layers", step)):
            return layer(x)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert draw(1).mean().item() == pytest.approx(1.0, abs=0.03)
    assert draw(1).unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(layer.eval()(x), x)


CORE = (5, 7)  # of 40 x 56 pixels: no width here is a multiple of 35, so a linear layer with such a side makes or reads a map
LEARNED = {"began"}  # its encoder halves by learned 3x3 convolutions of stride 2, as in the paper, and no filter


def symmetric(network):
    """The network with every kernel, map and noise its own mirror image, both ways; what then is not symmetric is the resampling."""

    def mirrored(values, *dims):
        return (values + values.flip(dims[0]) + values.flip(dims[1]) + values.flip(dims)) / 4

    cores = CORE[0] * CORE[1]
    with torch.no_grad():
        for values in [*network.parameters(), *network.buffers()]:
            if values.ndim == 4:
                values.copy_(mirrored(values, 2, 3))
        for layer in network.modules():
            if isinstance(layer, torch.nn.Linear) and layer.out_features % cores == 0:
                layer.weight.copy_(mirrored(layer.weight.unflatten(0, (-1, *CORE)), 1, 2).flatten(0, 2))
                if layer.bias is not None:
                    layer.bias.copy_(mirrored(layer.bias.unflatten(0, (-1, *CORE)), 1, 2).flatten())
            elif isinstance(layer, torch.nn.Linear) and layer.in_features % cores == 0:
                layer.weight.copy_(mirrored(layer.weight.unflatten(1, (-1, *CORE)), 2, 3).flatten(1, 3))
    return network


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "mlp"])  # which knows no neighbours
def test_resampling_commutes_with_a_flip(name):
    """Kills: a filter of an odd number of taps, (1, 2, 1), in either direction: it moves the image by half a pixel a level."""
    options = {"dcgan": {"extra_levels": 0}}.get(name, {})  # the level below the core is a learned 3x3 convolution of stride 2
    config = ModelConfig(name=name, latent_dim=12, generator={"width": 4}, discriminator={"width": 4} | options)
    generator, discriminator = models.build(config, ImageSpec(channels=2, size=(40, 56)), seed=0)
    moved = keyed_rng(0, "moved")
    for parameter in [*generator.parameters(), *discriminator.parameters()]:  # some layers are zero at the start
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=moved))
    z = torch.randn(4, 12, generator=keyed_rng(0, "z"))
    calibrate(symmetric(generator), [(z, None)])
    images = generator(z)
    assert images.std(dim=(2, 3)).min() > 1e-3
    x = torch.randn(4, 2, 40, 56, generator=keyed_rng(0, "x"))
    logits = symmetric(discriminator)(x)
    for axis in (2, 3):
        torch.testing.assert_close(images, images.flip(axis), rtol=1e-4, atol=1e-4)
        if name not in LEARNED:
            torch.testing.assert_close(discriminator(x.flip(axis)), logits, rtol=1e-3, atol=1e-3 * logits.std().item())
