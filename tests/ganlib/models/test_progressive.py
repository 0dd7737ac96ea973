"""Progressive growing: sizes of each level, fading, and that a grown network begins as the one it grew from."""

import pytest
import torch
import torch.nn.functional as F

from ganlib.models import MODELS, ImageSpec
from ganlib.models.progressive import DiscriminatorOptions, GeneratorOptions, levels, size_at
from ganlib.rng import keyed_rng

DIM = 12
IMAGE = ImageSpec(channels=3, size=(24, 40), class_counts=(5, 5, 5))


def noise(*shape):
    return torch.randn(*shape, generator=keyed_rng(0, "x", *shape))


def started(network, seed=0):
    with torch.no_grad():
        network.initialise(keyed_rng(seed, "weights"))
    return network


def generator_at(level, seed=0, image=IMAGE):
    return started(MODELS.get("progressive").generator_at(image, DIM, GeneratorOptions(width=8), level), seed)


def discriminator_at(level, seed=0, image=IMAGE, **options):
    return started(MODELS.get("progressive").discriminator_at(image, 12, DiscriminatorOptions(width=8, **options), level), seed)


LABELS = torch.tensor([0, 1, 2, 0])


def test_levels_and_sizes():
    assert levels(IMAGE) == 2
    assert [size_at(IMAGE, level) for level in range(3)] == [(6, 10), (12, 20), (24, 40)]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_each_level_has_its_own_size_in_training_and_the_full_one_in_evaluation(level):
    generator, discriminator = generator_at(level), discriminator_at(level)
    images = generator(noise(4, DIM), LABELS)
    assert images.shape == (4, 3, *size_at(IMAGE, level))
    logits = discriminator(images, LABELS)
    logits.sum().backward()
    assert all(p.grad is not None for network in (generator, discriminator) for p in network.parameters())
    assert ("alpha" in dict(generator.named_buffers())) == (level > 0)
    repeats = 1 << (2 - level)
    expected = images.repeat_interleave(repeats, 2).repeat_interleave(repeats, 3).clamp(-1, 1)
    torch.testing.assert_close(generator.eval()(noise(4, DIM), LABELS), expected)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_every_parameter_is_in_the_graph_whatever_alpha(alpha):
    generator, discriminator = generator_at(2), discriminator_at(2)
    for network in (generator, discriminator):
        network.alpha.fill_(alpha)
    with torch.autocast("cpu", torch.bfloat16):
        logits = discriminator(generator(noise(4, DIM), LABELS), LABELS)
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert all(p.grad is not None for network in (generator, discriminator) for p in network.parameters())


@pytest.mark.parametrize("level", [1, 2])
def test_a_grown_pair_begins_as_the_one_it_grew_from(level):
    """With the lower level's weights, copied by name, and alpha 0."""
    for at, inputs in ((generator_at, noise(4, DIM)), (discriminator_at, noise(4, 3, *size_at(IMAGE, level)))):
        lower, grown = at(level - 1), at(level, seed=1)
        mine = {name: weight for name, weight in lower.state_dict().items() if name != "alpha"}
        known = {name: weight for name, weight in mine.items() if name in grown.state_dict()}
        assert set(mine) - set(known) <= {name for name in mine if f"image.{level - 2}." in name}  # what is no longer shown
        grown.load_state_dict(known, strict=False)
        grown.alpha.fill_(0.0)
        if at is generator_at:
            expected = F.interpolate(lower(inputs, LABELS), scale_factor=2, mode="nearest")
        else:
            expected = lower(F.avg_pool2d(inputs, 2), LABELS)
        torch.testing.assert_close(grown(inputs, LABELS), expected)


def test_alpha_is_the_share_of_the_new_level():
    generator, z = generator_at(1), noise(4, DIM)
    images = {}
    for alpha in (0.0, 0.25, 1.0):
        generator.alpha.fill_(alpha)
        images[alpha] = generator(z, LABELS)
    torch.testing.assert_close(images[0.25], 0.75 * images[0.0] + 0.25 * images[1.0])
    assert not torch.allclose(images[0.0], images[1.0])
    assert generator_at(1).alpha.item() == 1.0


def test_features_are_normalised_pixel_by_pixel():
    seen = []
    generator = generator_at(2)
    for layer in generator.levels:
        layer.register_forward_hook(lambda _m, _i, y: seen.append(y.square().mean(1)))
    generator(noise(4, DIM), LABELS)
    assert len(seen) == 3
    for squares in seen:
        torch.testing.assert_close(squares, torch.ones_like(squares), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("condition", ["projection", "auxiliary", "concat"])
def test_conditions(condition):
    discriminator = discriminator_at(2, condition=condition)
    images = noise(1, 3, 24, 40).expand(2, -1, -1, -1)
    judgement = discriminator(images, None if condition == "auxiliary" else torch.tensor([0, 1]), full=True)
    assert torch.allclose(*judgement.logits, rtol=1e-4) == (condition == "auxiliary")
    assert (judgement.class_logits is not None) == (condition == "auxiliary")
    z = noise(1, DIM).expand(2, -1)
    assert not torch.allclose(*generator_at(0)(z, torch.tensor([0, 1])))
