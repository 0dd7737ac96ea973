"""R3GAN: residual blocks that start as the identity and keep the variance, groups, and the basis layers against plain sums."""

import pytest
import torch
import torch.nn.functional as F

from ganlib import models
from ganlib.models import ImageSpec
from ganlib.models.r3gan import Block, R3GANOptions, groups
from ganlib.models.settings import ModelConfig
from ganlib.rng import keyed_rng

DIM = 12


def noise(*shape):
    return torch.randn(*shape, generator=keyed_rng(0, "x", *shape))


def pair(size=(16, 16), classes=0, width=16, **discriminator):
    config = ModelConfig(
        name="r3gan", latent_dim=DIM, conditional=classes > 0, generator={"width": width}, discriminator={"width": width, **discriminator}
    )
    return models.build(config, ImageSpec(channels=3, size=size, class_counts=(5,) * classes), seed=0)


@pytest.mark.parametrize(("channels", "width", "expected"), [(64, 16, 4), (64, 64, 1), (8, 16, 1), (56, 16, 2), (24, 5, 4), (7, 2, 1)])
def test_groups_divide_and_are_at_least_as_wide_as_asked(channels, width, expected):
    assert groups(channels, width) == expected


def test_a_grouped_convolution_sees_its_own_group_alone():
    block = Block(16, R3GANOptions(width=16, group_width=8))
    with torch.no_grad():
        block.initialise(keyed_rng(0, "block"), blocks=1)
    x = noise(1, 32, 5, 5)
    before = block.mix(x)
    x[:, 8:16] += 1
    changed = (block.mix(x) - before).abs().sum((0, 2, 3)) > 1e-4
    assert changed.tolist() == [False] * 8 + [True] * 8 + [False] * 16


def test_a_block_starts_as_the_identity_and_learns_at_once():
    block = Block(16, R3GANOptions(width=16))
    with torch.no_grad():
        block.initialise(keyed_rng(0, "block"), blocks=5)
    x = noise(4, 16, 6, 6)
    y = block(x)
    assert torch.equal(y, x)
    (y * noise(*y.shape)).sum().backward()
    assert block.project.weight.grad.abs().sum() > 0


def test_the_more_blocks_the_smaller_the_first_weights():
    """Fixup, section 3: L blocks of 3 weights are scaled by L^(-1/4) each, all but the last."""
    sizes = []
    for blocks in (1, 16):
        block = Block(64, R3GANOptions(width=64))
        with torch.no_grad():
            block.initialise(keyed_rng(0, "block"), blocks=blocks)
        sizes.append(block.mix.weight.std().item())
    assert sizes[0] / sizes[1] == pytest.approx(2.0, rel=1e-5)


def test_basis_layers_against_plain_sums():
    generator, discriminator = pair()
    z, images = noise(2, DIM), noise(2, 3, 16, 16)
    seen = {}
    generator.layers[0].register_forward_pre_hook(lambda _m, inputs: seen.update(core=inputs[0]))
    discriminator.layers.register_forward_hook(lambda _m, _i, y: seen.update(top=y))
    generator(z)
    judgement = discriminator(images, full=True)
    for n in range(2):
        for c in range(generator.linear.out_features):
            weight = (z[n] * generator.linear.weight[c]).sum()
            torch.testing.assert_close(seen["core"][n, c], generator.basis[0, c] * weight)
            torch.testing.assert_close(
                judgement.features[n, c], (seen["top"][n, c] * discriminator.basis[0, c]).sum(), rtol=1e-4, atol=1e-5
            )


def test_signals_have_unit_size_at_the_start():
    generator, discriminator = pair(size=(32, 32), width=32)
    core = generator.basis * generator.linear(noise(64, DIM))[:, :, None, None]
    assert core.square().mean().item() == pytest.approx(1.0, rel=0.3)
    smooth = F.interpolate(noise(64, 3, 4, 4), size=(32, 32))
    assert discriminator(smooth).std().item() == pytest.approx(0.7, abs=0.5)
    assert generator(noise(64, DIM)).std().item() == pytest.approx(0.7, abs=0.5)


def test_evaluation_clamps_and_training_does_not():
    generator, _ = pair()
    assert generator(noise(64, DIM)).abs().max() > 1
    assert generator.eval()(noise(64, DIM)).abs().max() == 1


@pytest.mark.parametrize("condition", ["projection", "auxiliary", "concat", "inner_product"])
def test_conditions(condition):
    generator, discriminator = pair(size=(24, 40), classes=3, condition=condition)
    same, labels = noise(1, DIM).expand(2, -1), torch.tensor([0, 1])
    images = generator(same, labels)
    assert not torch.allclose(*images)
    judgement = discriminator(images[:1].expand(2, -1, -1, -1), None if condition == "auxiliary" else labels, full=True)
    assert torch.allclose(*judgement.logits, rtol=1e-4) == (condition == "auxiliary")
    discriminator(images, labels).sum().backward()
    assert all(p.grad is not None for network in (generator, discriminator) for p in network.parameters())


def test_every_row_of_the_image_has_its_part_in_the_logit():
    """At the start D is linear. The expected square of its gradient, each entry of the basis with the same variance, is the same from the top as
    from the bottom. Kills: (1, 2, 1), which gave the last rows 0.3 and the first ones 1.4 of the mean.
    """
    _, discriminator = pair(size=(32, 32), width=4)
    squares = torch.zeros(32, 32)
    with torch.no_grad():
        discriminator.head.logit.weight.fill_(1.0)
    for place in range(16):
        with torch.no_grad():
            discriminator.basis.zero_()
            discriminator.basis.flatten(2)[:, :, place] = 1.0
        images = noise(1, 3, 32, 32).requires_grad_()
        squares += torch.autograd.grad(discriminator(images).sum(), images)[0][0].square().sum(0)
    for profile in (squares.mean(1).sqrt(), squares.mean(0).sqrt()):
        torch.testing.assert_close(profile, profile.flip(0), rtol=1e-4, atol=0)
        assert 0.5 * profile.mean() < profile.min()  # zeros beyond the border have no gradient
        assert profile.max() < 1.2 * profile.mean()


def test_an_inner_product_is_all_of_the_logit():
    """The released conditional discriminator. Kills: a logit beside it, an embedding of another size at the start."""
    _, discriminator = pair(classes=3, condition="inner_product", embedding_dim=64)
    images, labels = noise(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    judgement = discriminator(images, labels, full=True)
    head = discriminator.head
    expected = [(head.linear.weight @ f) @ head.embedding.weight[label] for f, label in zip(judgement.features, labels, strict=True)]
    torch.testing.assert_close(judgement.logits, torch.stack(expected))
    assert head.embedding.weight.std().item() == pytest.approx((3 * 64) ** -0.5, rel=0.15)
    assert set(dict(head.named_parameters())) == {"linear.weight", "embedding.weight"}
    plain = pair(condition="inner_product")[1]  # no classes: the plain logit
    assert plain(images).shape == (4,)
