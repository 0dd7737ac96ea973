"""What is minimised at a moment, with networks one can do by hand: G(z) = 1 z, D(x) = <w, x>, |w| = 5."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F

from ganlib.augment.flip import HorizontalFlip
from ganlib.losses import NonSaturating, Relativistic, Wasserstein
from ganlib.models import Judgement
from ganlib.regularizers import ApproximateR1, ApproximateR2, Orthogonal
from ganlib.rng import keyed_rng
from ganlib.sampling import Inputs
from ganlib.steering import Steering
from ganlib.tasks.adversarial import AdversarialConfig, Rules

W = torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 2)
REAL = torch.randn(200, 1, 1, 2, generator=keyed_rng(0, "real"))
Z = torch.randn(200, 2, generator=keyed_rng(0, "latents"))
REAL_LOGITS, FAKE_LOGITS = (REAL * W).sum((1, 2, 3)), (Z.reshape(REAL.shape) * W).sum((1, 2, 3))


class Shard:
    count, real = len(REAL), REAL

    def __init__(self, labels=None, fake_labels=None) -> None:
        self.labels, self._fake_labels = labels, fake_labels

    def rng(self, purpose):
        return keyed_rng(0, purpose)

    def inputs(self, purpose="latents"):
        return Inputs(Z, self._fake_labels)


class Nets:
    is_bf16 = False

    def __init__(self) -> None:
        self.calls = []
        self.told = []  # (network, labels) of every call
        self.weight = torch.ones((), requires_grad=True)  # the generator's

    def __call__(self, name, x, labels=None, *, full=False, is_precise=False):
        self.calls.append((name, x))
        self.told.append((name, labels))
        if name == "generator":
            return (self.weight * x).reshape(REAL.shape)
        return Judgement(logits=(x * W).sum((1, 2, 3)), features=x.flatten(1))


class Noted(dict):
    def add(self, name, values):
        self[name] = values.detach()


def run(network, *, loss, parts=(), **task):
    """(values, what was noted, calls) of one phase; `parts` are the regularizers and augmentations by name."""
    parts = dict(parts)
    rules = Rules(AdversarialConfig(**task), Steering({"loss": loss, **parts}))
    nets, noted = Nets(), Noted()
    return getattr(rules, network)(nets, Shard(), noted), noted, nets.calls


def test_label_noise_swaps_pairs():
    values, noted, _ = run("discriminator", loss=NonSaturating(), label_noise=0.3)
    is_swapped = torch.rand(200, generator=keyed_rng(0, "label noise")) < 0.3
    assert 40 < is_swapped.sum() < 80
    kept = F.softplus(-REAL_LOGITS) + F.softplus(FAKE_LOGITS)
    swapped = F.softplus(-FAKE_LOGITS) + F.softplus(REAL_LOGITS)
    torch.testing.assert_close(values, torch.where(is_swapped, swapped, kept))
    torch.testing.assert_close(noted["logit_real"], REAL_LOGITS)  # what is noted is true
    torch.testing.assert_close(noted["logit_fake"], FAKE_LOGITS)
    torch.testing.assert_close(run("discriminator", loss=NonSaturating())[0], kept)
    torch.testing.assert_close(
        run("generator", loss=NonSaturating(), label_noise=0.3)[0], F.softplus(-FAKE_LOGITS)
    )  # G's loss has no labels


@pytest.mark.parametrize(
    ("network", "loss", "expected"),
    [
        ("discriminator", Wasserstein(), [("generator", "fake"), ("discriminator", "real"), ("discriminator", "fake")]),
        ("generator", Wasserstein(), [("generator", "fake"), ("discriminator", "fake")]),
        ("generator", Relativistic(), [("generator", "fake"), ("discriminator", "fake"), ("discriminator", "real")]),
    ],
    ids=["discriminator", "generator", "relativistic generator"],
)
def test_each_network_is_told_the_classes_of_the_images_it_makes_or_sees(network, loss, expected):
    """Kills the mutant that tells D the real labels for generated images (`Moment.fake_judgement`), and its mirror image."""
    labels = {"real": torch.arange(200) % 3, "fake": torch.arange(200) % 5}
    nets = Nets()
    getattr(Rules(AdversarialConfig(), Steering({"loss": loss})), network)(nets, Shard(labels["real"], labels["fake"]), Noted())
    named = {id(tensor): name for name, tensor in labels.items()}
    assert [(name, named.get(id(told))) for name, told in nets.told] == expected


def test_generator_loss_weight():
    expected = F.softplus(REAL_LOGITS - FAKE_LOGITS)
    values, noted, _ = run("generator", loss=Relativistic(), generator_loss_weight=0.25)
    torch.testing.assert_close(values, 0.25 * expected)
    torch.testing.assert_close(noted["loss_generator"], expected)
    values, noted, calls = run("generator", loss=Relativistic(), generator_loss_weight=0.0)
    assert values.tolist() == [0.0] * 200
    assert {name for name, _ in calls} == {"generator"}  # D is not even asked
    assert "loss_generator" not in noted


def test_gradient_normalization():
    values, noted, _ = run("discriminator", loss=Wasserstein(), gradient_normalization=True)
    real, fake = (f / (5 + f.abs()) for f in (REAL_LOGITS, FAKE_LOGITS))
    torch.testing.assert_close(values, fake - real)
    torch.testing.assert_close(noted["logit_real"], real)
    values = run("generator", loss=Wasserstein(), gradient_normalization=True)[0]
    torch.testing.assert_close(values, -fake)
    assert values.requires_grad  # it reaches G through the normalised logit


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """An augmentation that watches signs and doubles."""

    p: float = 0.0
    steered: ClassVar[tuple[str, ...]] = ("p",)
    watches: ClassVar[tuple[str, ...]] = ("sign_real",)

    def __call__(self, images, rng):
        return 2 * images

    def adapt(self, means, images):
        return self


def test_signs_are_noted_for_who_watches_them():
    _, noted, calls = run("discriminator", loss=Wasserstein(), parts={"watcher": Watcher()}, augment={"watcher": {}})
    torch.testing.assert_close(noted["sign_real"], REAL_LOGITS.sign())
    seen = {name: x for name, x in calls if name == "discriminator"}
    assert len([name for name, _ in calls if name == "discriminator"]) == 2
    torch.testing.assert_close(seen["discriminator"].detach().abs().sum(), 2 * Z.abs().sum())  # generated ones, too, are augmented
    assert "sign_real" not in run("discriminator", loss=Wasserstein())[1]


def test_each_call_of_the_discriminator_draws_its_own_augmentation():
    flip = {"parts": {"hflip": HorizontalFlip()}, "augment": {"hflip": {}}}
    _, _, calls = run("discriminator", loss=Wasserstein(), **flip)
    real, fake = (
        (x - original).abs().sum((1, 2, 3)) > 0 for (_, x), original in zip(calls[1:], (REAL, Z.reshape(REAL.shape)), strict=True)
    )
    assert 60 < real.sum() < 140
    assert (real != fake).any()
    values, _, _ = run("generator", loss=Wasserstein(), **flip)
    values.sum().backward()  # G's images reach D augmented, and the gradient comes back


class Counted(torch.autograd.Function):
    """The identity; its backward counts, and cannot be differentiated."""

    backwards = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        Counted.backwards += 1
        return gradient


class CountedNets(Nets):
    """D with a weight, through which every backward is counted, and in half precision unless it is precise."""

    def __init__(self, *, is_bf16=False) -> None:
        super().__init__()
        self.is_bf16 = is_bf16
        self.precise = []
        self.of_discriminator = torch.ones((), requires_grad=True)

    def __call__(self, name, x, labels=None, *, full=False, is_precise=False):
        judgement = super().__call__(name, x, labels, full=full, is_precise=is_precise)
        if name == "generator":
            return judgement
        self.precise.append(is_precise)
        logits = Counted.apply(judgement.logits * self.of_discriminator)
        logits = logits if is_precise or not self.is_bf16 else logits.bfloat16().float()
        return Judgement(logits=logits, features=judgement.features)


@pytest.mark.parametrize("is_bf16", [False, True], ids=["fp32", "bf16"])
def test_a_finite_difference_costs_one_more_forward_and_no_second_derivative(is_bf16):
    """A logit of bfloat16 is off by up to 0.05 here, and a difference of two by more than all of it: there D(x) is computed again in float32."""
    part = ApproximateR1(gamma=2.0, std=1e-3)
    rules = Rules(AdversarialConfig(regularizers={"approximate_r1": {}}), Steering({"loss": Wasserstein(), "approximate_r1": part}))
    nets, noted = CountedNets(is_bf16=is_bf16), Noted()
    Counted.backwards = 0
    values = rules.discriminator(nets, Shard(), noted)
    expected = (torch.randn(REAL.shape, generator=keyed_rng(0, "approximate_r1")) * W).sum((1, 2, 3)).square()
    torch.testing.assert_close(noted["penalty_approximate_r1"], expected, rtol=0.05, atol=0.05)
    assert len(nets.precise) == (4 if is_bf16 else 3)  # real, fake, moved
    values.sum().backward()  # once through each; a second derivative would raise
    assert Counted.backwards == len(nets.precise)
    assert nets.of_discriminator.grad is not None


def test_a_finite_difference_is_taken_under_one_draw_of_the_augmentation():
    """Kills: draws of its own for the moved images; half of the differences would be those of an image and its mirror image."""
    parts = {"approximate_r2": ApproximateR2(gamma=2.0, std=1e-3), "hflip": HorizontalFlip()}
    _, noted, calls = run("discriminator", loss=Wasserstein(), parts=parts, augment={"hflip": {}}, regularizers={"approximate_r2": {}})
    (_, fake), (_, moved) = [call for call in calls if call[0] == "discriminator"][1:]
    assert (moved - fake).abs().max() < 0.01
    assert noted["penalty_approximate_r2"].max() < 1000


def test_a_term_of_weight_0_costs_nothing():
    parts = {"orthogonal": Orthogonal(generator_weight=0.0)}
    values, noted, _ = run("generator", loss=Wasserstein(), parts=parts, regularizers={"orthogonal": {}})
    torch.testing.assert_close(values, -FAKE_LOGITS)
    assert not [name for name in noted if "orthogonal" in name]


@dataclass(frozen=True, kw_only=True)
class Three:
    """A term of 3 for each network."""

    interval_steps: int = 1
    trains = ("discriminator", "generator")

    def discriminator(self, moment):
        return torch.full((moment.count,), 3.0)

    generator = discriminator


@pytest.mark.parametrize("network", ["discriminator", "generator"])
def test_a_lazy_term_is_as_strong_as_the_steps_it_stands_for(network):
    eager, lazy = Three(), Three(interval_steps=4)
    plain = run(network, loss=Wasserstein())[0]
    torch.testing.assert_close(run(network, loss=Wasserstein(), parts={"three": eager}, regularizers={"three": {}})[0], plain + 3)
    torch.testing.assert_close(run(network, loss=Wasserstein(), parts={"three": lazy}, regularizers={"three": {}})[0], plain)
    rules = Rules(AdversarialConfig(regularizers={"three": {}}), Steering({"loss": Wasserstein(), "three": lazy}))
    assert rules.lazy("three", network)(Nets(), Shard(), Noted()).tolist() == [12.0] * 200
