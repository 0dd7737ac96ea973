"""Penalties on a linear discriminator D(x) = <w, x>, whose gradient is w everywhere, so that each has a closed form."""

import pytest
import torch

from ganlib import rng
from ganlib.models import Judgement
from ganlib.regularizers import R1, R2, REGULARIZERS, GradientPenalty, input_gradient

W = torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 2)  # |w| = 5


def linear(images: torch.Tensor) -> torch.Tensor:
    return (images * W).sum((1, 2, 3))


REAL = torch.randn(6, 1, 1, 2, generator=rng.generator(0, "real"))
FAKE = torch.randn(6, 1, 1, 2, generator=rng.generator(0, "fake"))


class Still:
    """A moment whose images and discriminator are given."""

    labels = fake_labels = None

    def __init__(self, critic=linear, real=REAL, fake=FAKE) -> None:
        self.real, self.fake, self._critic = real, fake, critic

    def rng(self, purpose):
        return rng.generator(0, purpose)

    def critic(self, labels):
        return self._critic

    def judge(self, images, labels):
        return Judgement(logits=self._critic(images), features=images.flatten(1))

    @property
    def real_judgement(self):
        return self.judge(self.real, None)

    @property
    def fake_judgement(self):
        return self.judge(self.fake, None)


@pytest.mark.parametrize(
    ("penalty", "expected"), [(GradientPenalty(weight=10.0), 10 * (5 - 1) ** 2), (R1(gamma=2.0), 25.0), (R2(gamma=0.5), 0.25 * 25)]
)
def test_closed_form_on_a_linear_discriminator(penalty, expected):
    values = penalty.discriminator(Still())
    torch.testing.assert_close(values, torch.full((6,), float(expected)), rtol=1e-5, atol=1e-4)


def test_r1_and_r2_look_at_their_own_images():
    def quadratic(images):  # gradient is x itself
        return 0.5 * images.square().sum((1, 2, 3))

    torch.testing.assert_close(R1(gamma=2.0).discriminator(Still(quadratic)), REAL.square().sum((1, 2, 3)))
    torch.testing.assert_close(R2(gamma=2.0).discriminator(Still(quadratic)), FAKE.square().sum((1, 2, 3)))


def test_gradient_penalty_interpolates_with_one_weight_a_sample():
    seen = []

    def spy(images):
        seen.append(images.detach())
        return images.sum((1, 2, 3))

    GradientPenalty().discriminator(Still(spy, torch.zeros(64, 3, 4, 4), torch.ones(64, 3, 4, 4)))
    (points,) = seen
    per_sample = points.reshape(64, -1)
    assert (per_sample.max(1).values == per_sample.min(1).values).all()  # one weight for all pixels of a sample
    assert len(per_sample[:, 0].unique()) == 64  # another for each sample
    assert per_sample.min() >= 0
    assert per_sample.max() <= 1


def test_penalty_reaches_every_parameter():
    """The last bias has no part in an input gradient; DDP would wait for it for ever."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    input_gradient(lambda x: network(x)[:, 0], REAL).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert network[3].bias.grad.item() == 0.0
    assert network[1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("entry", list(REGULARIZERS), ids=lambda entry: entry.name)
def test_contract(entry):
    penalty = entry.value()
    values = penalty.discriminator(Still())
    assert values.shape == (6,)
    assert values.dtype == torch.float32
    assert (values >= 0).all()
    assert penalty.interval_steps == 1
