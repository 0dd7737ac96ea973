"""Terms by hand: on a linear discriminator D(x) = <w, x>, whose gradient is w everywhere, on a linear generator, on given features and classes."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from ganlib.models import ImageSpec, Judgement, Synthesis
from ganlib.models.settings import ModelConfig
from ganlib.moment import normalize_gradient
from ganlib.regularizers import (
    R1,
    R2,
    REGULARIZERS,
    ApproximateR1,
    ApproximateR2,
    AuxiliaryClassifier,
    BalancedConsistency,
    Consistency,
    Dragan,
    Drift,
    FeatureMatching,
    GradientPenalty,
    LeCam,
    Orthogonal,
    PathLength,
    discriminator_option,
    input_gradient,
    overlap,
)
from ganlib.rng import keyed_rng
from ganlib.steering import Steered
from ganlib.tasks import TASKS
from ganlib.tasks.adversarial import AdversarialConfig, check_parts
from ganlib.tasks.progressive import ProgressiveConfig
from ganlib.train_settings import TrainConfig

W = torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 2)  # |w| = 5


def linear(images: torch.Tensor) -> torch.Tensor:
    return (images * W).sum((1, 2, 3))


REAL = torch.randn(6, 1, 1, 2, generator=keyed_rng(0, "real"))
FAKE = torch.randn(6, 1, 1, 2, generator=keyed_rng(0, "fake"))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
FAKE_LABELS = torch.tensor([2, 2, 2, 1, 1, 0])
FACTORS = (1.0, 2.0, 2.0)  # of the style of each layer of the linear generator below


class Still:
    """A moment whose images and discriminator are given: its features are the pixels, its class logits (x0, x1, 0)."""

    labels, fake_labels = LABELS, FAKE_LABELS

    def __init__(self, critic=linear, real=REAL, fake=FAKE) -> None:
        self.real, self.fake, self._critic = real, fake, critic
        self.count = len(real)
        self.noted = {}
        self.networks = {"generator": nn.Linear(2, 3), "discriminator": nn.Linear(2, 3)}

    def rng(self, purpose):
        return keyed_rng(0, purpose)

    def critic(self, labels):
        return self._critic

    def change(self, of, step):
        images = self.real if of == "real" else self.fake
        return self._critic(images + step) - self._critic(images)

    def judge(self, images, labels):
        features = images.flatten(1)
        return Judgement(logits=self._critic(images), features=features, class_logits=nn.functional.pad(features[:, :2], (0, 1)))

    @property
    def real_judgement(self):
        return self.judge(self.real, None)

    @property
    def fake_judgement(self):
        return self.judge(self.fake, None)

    def synthesise(self, count):
        styles = torch.ones(count, 3, 4, requires_grad=True)  # [n, L, D]: 4 pixels, each the sum of its style in all layers
        images = (styles * torch.tensor(FACTORS)[:, None]).sum(1).reshape(count, 1, 2, 2)
        return Synthesis(images=images, styles=styles)

    def network(self, name):
        return self.networks[name]

    def note(self, name, values):
        self.noted[name] = values.detach().mean().item()


def cross_entropy(image: torch.Tensor, label: int) -> float:
    """-ln softmax of (x0, x1, 0) at the label."""
    logits = [*image.flatten().tolist(), 0.0]
    return math.log(sum(math.exp(x) for x in logits)) - logits[label]


OF_REAL = [cross_entropy(image, label) for image, label in zip(REAL, LABELS.tolist(), strict=True)]
OF_FAKE = [cross_entropy(image, label) for image, label in zip(FAKE, FAKE_LABELS.tolist(), strict=True)]
AT_REAL, AT_FAKE = linear(REAL), linear(FAKE)
MEANS = [(REAL[:, 0, 0, k].sum().item() - FAKE[:, 0, 0, k].sum().item()) / 6 for k in (0, 1)]  # difference of mean features

# (term, network, value by hand: one number for all samples, or one for each)
CASES = [
    (GradientPenalty(weight=10.0), "discriminator", 10 * (5 - 1) ** 2),
    (Dragan(weight=10.0), "discriminator", 10 * (5 - 1) ** 2),
    (R1(gamma=2.0), "discriminator", 25.0),
    (R2(gamma=0.5), "discriminator", 0.25 * 25),
    # D is 5 e along w, e the noise along it: gamma / 2 * 25 e^2 whatever the std
    (
        ApproximateR1(gamma=2.0, std=0.1),
        "discriminator",
        linear(torch.randn(6, 1, 1, 2, generator=keyed_rng(0, "approximate_r1"))).square(),
    ),
    (ApproximateR2(gamma=0.5), "discriminator", 0.25 * linear(torch.randn(6, 1, 1, 2, generator=keyed_rng(0, "approximate_r2"))).square()),
    (Drift(weight=0.5), "discriminator", 0.5 * AT_REAL.square()),
    # what is on the right side of the other kind's average is left alone
    (
        LeCam(weight=0.5, mean_real=1.0, mean_fake=-2.0, steps=1.0),
        "discriminator",
        0.5 * ((AT_REAL + 2).clamp(min=0).square() + (1 - AT_FAKE).clamp(min=0).square()),
    ),
    (LeCam(weight=0.5, mean_real=1.0, mean_fake=-2.0), "discriminator", 0.0),  # no average yet
    (LeCam(weight=0.5, mean_real=1.0, mean_fake=-2.0, steps=7.0, warmup_steps=7), "discriminator", 0.0),
    # a picture that does not move changes no logit; moves and mirror images are below
    (Consistency(weight=10.0, shift=0.0), "discriminator", 0.0),
    (BalancedConsistency(shift=0.0), "discriminator", 0.0),
    (AuxiliaryClassifier(), "discriminator", [a + b for a, b in zip(OF_REAL, OF_FAKE, strict=True)]),
    (AuxiliaryClassifier(learns_from_fake=False, discriminator_weight=2.0), "discriminator", [2 * a for a in OF_REAL]),
    (AuxiliaryClassifier(generator_weight=0.5), "generator", [0.5 * b for b in OF_FAKE]),
    (FeatureMatching(weight=3.0), "generator", 3 * (MEANS[0] ** 2 + MEANS[1] ** 2)),
]


@pytest.mark.parametrize(("term", "network", "expected"), CASES, ids=str)
def test_value_by_hand(term, network, expected):
    values = getattr(term, network)(Still())
    torch.testing.assert_close(values, torch.as_tensor(expected, dtype=torch.float32).expand(6), rtol=1e-5, atol=1e-4)


def test_every_registered_regularizer_has_a_value_by_hand():
    by_hand = {(type(term), network) for term, network, _ in CASES}
    by_hand |= {(PathLength, "generator"), (Orthogonal, "generator"), (Orthogonal, "discriminator")}  # tests of their own, below
    registered = {
        (entry.value, network) for entry in REGULARIZERS for network in ("discriminator", "generator") if hasattr(entry.value, network)
    }
    assert by_hand == registered


@pytest.mark.parametrize("entry", list(REGULARIZERS), ids=lambda entry: entry.name)
def test_contract(entry):
    term = entry.value()
    assert term.trains
    for network in term.trains:
        values = getattr(term, network)(Still())
        assert values.shape == (6,)
        assert values.dtype == torch.float32
        assert torch.isfinite(values).all()
        assert (values >= 0).all()
        large = getattr(term, network)(Still(lambda x: 50 * x.sign().sum((1, 2, 3)), 50 * REAL.sign(), -50 * REAL.sign()))
        assert torch.isfinite(large).all()
    assert term.interval_steps >= 1
    assert isinstance(term.allows_batch_norm, bool)
    if isinstance(term, Steered):
        moved = term.adapt(dict.fromkeys(term.watches, 3.0), 64)
        assert type(moved) is type(term)
        assert {f.name for f in dataclasses.fields(term) if getattr(moved, f.name) != getattr(term, f.name)} == set(term.steered)


def test_r1_and_r2_look_at_their_own_images():
    def quadratic(images):  # gradient is x itself
        return 0.5 * images.square().sum((1, 2, 3))

    torch.testing.assert_close(R1(gamma=2.0).discriminator(Still(quadratic)), REAL.square().sum((1, 2, 3)))
    torch.testing.assert_close(R2(gamma=2.0).discriminator(Still(quadratic)), FAKE.square().sum((1, 2, 3)))


def seen_by(term, real, fake):
    """Images at which a term takes the gradient."""
    seen = []

    def spy(images):
        seen.append(images.detach())
        return images.sum((1, 2, 3))

    term.discriminator(Still(spy, real, fake))
    (points,) = seen
    return points


def test_gradient_penalty_interpolates_with_one_weight_a_sample():
    points = seen_by(GradientPenalty(), torch.zeros(64, 3, 4, 4), torch.ones(64, 3, 4, 4))
    per_sample = points.reshape(64, -1)
    assert (per_sample.max(1).values == per_sample.min(1).values).all()  # one weight for all pixels of a sample
    assert len(per_sample[:, 0].unique()) == 64  # another for each sample
    assert per_sample.min() >= 0
    assert per_sample.max() <= 1


def test_dragan_looks_near_real_images():
    """Kills: no alpha, which is twice as far; one alpha a pixel, or one for the whole shard."""
    real = 2.0 * torch.randn(256, 3, 4, 4, generator=keyed_rng(0, "real"))
    away = seen_by(Dragan(spread=0.5), real, torch.full_like(real, 100.0)) - real  # alpha * 0.5 * 2 * U(0, 1)
    assert 0 <= away.min() < 0.01
    assert 0.95 < away.max() < 1.05
    assert away.mean().item() == pytest.approx(0.25, abs=0.02)
    assert len(away.flatten().unique()) > 12000  # another for each pixel
    lengths = away.flatten(1).mean(1)  # alpha / 2, all but
    assert lengths.min() < 0.03
    assert lengths.max() > 0.45
    assert lengths.std().item() == pytest.approx(0.5 / 12**0.5, abs=0.02)


def test_penalty_reaches_every_parameter():
    """The last bias has no part in an input gradient; DDP would wait for it for ever."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    input_gradient(lambda x: network(x)[:, 0], REAL).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert network[3].bias.grad.item() == 0.0
    assert network[1].weight.grad.abs().sum() > 0


def test_consistency_by_hand():
    """Every picture is symmetric but for its left column; D reads the left column's mean."""

    def left(images):
        return images[:, 0, :, 0].mean(1)

    real, fake = torch.zeros(400, 1, 4, 4), torch.zeros(400, 1, 4, 4)
    real[..., 0], fake[..., 0] = 1.0, 3.0
    still = Still(left, real, fake)
    # mirrored, the column is on the right: the logit falls from 1 to 0, or from 3 to 0
    values = Consistency(weight=10.0, shift=0.0, flip=True).discriminator(still)
    assert set(values.tolist()) == {0.0, 10.0}
    assert values.mean().item() == pytest.approx(5, abs=1)
    both = BalancedConsistency(real_weight=1.0, fake_weight=2.0, shift=0.0, flip=True).discriminator(still)
    assert set(both.tolist()) == {0.0, 1.0, 18.0, 19.0}  # draws of their own
    # moved right or left by one pixel the column is gone: 1; up or down it loses a quarter: 1/16; stays in one case of nine: 0
    values = Consistency(weight=1.0, shift=0.25).discriminator(still)
    counts = {value: (values == value).float().mean().item() for value in (0.0, 1 / 16, 1.0)}
    assert list(counts.values()) == pytest.approx([1 / 9, 2 / 9, 6 / 9], abs=0.07)


def test_path_length_by_hand():
    """d sum(x y) / d style of layer l is factor_l * y: the norm is |y| * sqrt((1 + 4 + 4) / 3)."""
    still = Still(real=torch.zeros(8, 1, 2, 2))
    term = PathLength(weight=2.0, mean=0.5, shrink=2)
    noise = torch.randn(4, 4, generator=still.rng("path_length")) / 2  # 4 = 8 / 2 images; 1 / sqrt(4 pixels)
    lengths = noise.square().sum(1).sqrt() * math.sqrt(3)
    torch.testing.assert_close(term.generator(still), (2 * (lengths - 0.5).square()).mean().expand(8))
    assert still.noted == {"path_length": pytest.approx(lengths.mean().item())}
    assert term.adapt(still.noted, 64).mean == pytest.approx(0.99 * 0.5 + 0.01 * lengths.mean().item())


def test_lecam_averages_follow_the_logits():
    """An average of the first t steps with weights in the ratio of the decay that add up to 1: the plain sum. Kills: averages that start at 0."""
    term, seen = LeCam(decay=0.9), {"logit_real": [3.0, -1.0, 5.0, 2.0], "logit_fake": [0.5, 0.5, 0.5, 0.5]}
    for t in range(4):
        term = term.adapt({name: values[t] for name, values in seen.items()}, 64)
        weights = [0.9**age for age in range(t, -1, -1)]
        expected = sum(w * x for w, x in zip(weights, seen["logit_real"], strict=False)) / sum(weights)
        assert (term.mean_real, term.mean_fake, term.steps) == pytest.approx((expected, 0.5, t + 1))


def curved(images: torch.Tensor) -> torch.Tensor:
    """D(x) = <w, x> + x0^2 - 2 x1^2: the gradient (3 + 2 x0, 4 - 4 x1), the Hessian diag(2, -4)."""
    x0, x1 = images[:, 0, 0, 0], images[:, 0, 0, 1]
    return linear(images) + x0.square() - 2 * x1.square()


@pytest.mark.parametrize(("approximate", "exact"), [(ApproximateR1, R1), (ApproximateR2, R2)])
def test_a_finite_difference_becomes_the_exact_penalty_as_its_noise_becomes_small(approximate, exact):
    """With g the gradient and H the Hessian, E((D(x + s e) - D(x)) / s)^2 = |g|^2 + s^2 / 4 (tr(H)^2 + 2 tr(H^2)); here 4 + 40 = 44.

    Kills: a wrong power of std, the factor gamma / 2 left out, the other kind of images.
    """
    draws = 200_000
    still = Still(curved, REAL[:1].expand(draws, 1, 1, 2), FAKE[:1].expand(draws, 1, 1, 2))
    penalty = exact(gamma=3.0).discriminator(still)[0].item()
    for std in (0.01, 0.1, 1.0):
        values = approximate(gamma=3.0, std=std).discriminator(still).double()
        error = 4 * values.std().item() / draws**0.5
        assert values.mean().item() == pytest.approx(penalty + 1.5 * std**2 * 44 / 4, abs=error)


def test_orthogonal_by_hand():
    layer = nn.Linear(2, 3, bias=False)  # filters (1, 0), (1, 2), (0, 3): products 1, 0, 6, each counted twice
    layer.weight.data = torch.tensor([[1.0, 0.0], [1.0, 2.0], [0.0, 3.0]])
    turned = nn.ConvTranspose2d(2, 3, 1)  # stores [in, out]
    turned.weight.data = layer.weight.data.T[:, :, None, None].clone()
    alone = nn.Conv2d(5, 1, 3)  # one filter, nothing to be orthogonal to
    network = nn.Sequential(layer, turned, alone, nn.Embedding(7, 2), nn.BatchNorm2d(3))
    assert overlap(network).item() == pytest.approx(2 * 74)
    still = Still()
    still.networks = {"generator": network, "discriminator": layer}
    torch.testing.assert_close(Orthogonal(generator_weight=0.5).generator(still), torch.full((6,), 74.0))
    torch.testing.assert_close(Orthogonal(discriminator_weight=0.5).discriminator(still), torch.full((6,), 37.0))
    assert Orthogonal().trains == ("generator",)
    assert Orthogonal(generator_weight=0.0, discriminator_weight=1.0).trains == ("discriminator",)


def test_feature_matching_trains_the_generator_alone():
    real, fake = REAL.clone().requires_grad_(True), FAKE.clone().requires_grad_(True)
    FeatureMatching().generator(Still(real=real, fake=fake)).sum().backward()
    assert real.grad is None
    # d (m_f - m_r)^2 / d x_i = 2 (m_f - m_r) / 6, of each of six equal values
    torch.testing.assert_close(fake.grad[:, 0, 0], torch.tensor([-2 * mean for mean in MEANS]).expand(6, 2))


def test_gradient_normalization_on_a_linear_discriminator():
    def judge(images):
        return Judgement(logits=linear(images), features=images.flatten(1))

    f = linear(REAL)
    torch.testing.assert_close(normalize_gradient(judge, REAL).logits, f / (5 + f.abs()))
    far = normalize_gradient(judge, 1e4 * REAL).logits
    assert (far.abs() <= 1).all()
    # its own slope is 5 * 5 / (5 + |f|)^2, at most 1
    images = REAL.detach().clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(normalize_gradient(judge, images).logits.sum(), images)
    torch.testing.assert_close(slope.square().sum((1, 2, 3)).sqrt(), 25 / (5 + f.abs()).square())


IMAGE = ImageSpec(channels=1, size=(8, 8), class_counts=(5, 5))


@pytest.mark.parametrize(
    ("name", "model", "message"),
    [
        ("path_length", {"name": "dcgan"}, r"path_length measures paths .* model.name='dcgan' has none; set model.name: stylegan2"),
        ("path_length", {"name": "stylegan2"}, None),
        ("auxiliary_classifier", {"name": "dcgan"}, r"auxiliary_classifier needs .* set model.conditional: true"),
        ("auxiliary_classifier", {"name": "dcgan", "conditional": True}, r"set .* model.discriminator.condition: auxiliary"),
        ("auxiliary_classifier", {"name": "dcgan", "conditional": True, "discriminator": {"condition": "auxiliary"}}, None),
        ("approximate_r1", {"name": "dcgan"}, r"approximate_r1 penalises .* set model.discriminator.normalization: none"),
        (
            "approximate_r2",
            {"name": "dcgan", "discriminator": {"normalization": "none", "dropout": 0.1}},
            r"approximate_r2 compares two calls .* set model.discriminator.dropout: 0, or take r2",
        ),
        ("approximate_r1", {"name": "r3gan"}, None),
        ("dragan", {"name": "dcgan"}, r"dragan penalises .* set model.discriminator.normalization: none"),
        ("dragan", {"name": "dcgan", "discriminator": {"normalization": "none"}}, None),
    ],
    ids=str,
)
def test_a_term_without_what_it_needs_is_refused_before_work(name, model, message):
    chosen, task = ModelConfig(**model), AdversarialConfig(regularizers={name: {}})
    if message is None:
        check_parts(chosen, task, IMAGE)
        return
    with pytest.raises(ValueError, match=message):
        check_parts(chosen, task, IMAGE)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("approximate_r1", {"std": 0.0}, r"approximate_r1.std=0.0: expected a number above 0"),
        ("lecam", {"decay": 1.0}, r"lecam.decay=1.0: expected at least 0 and below 1"),
    ],
)
def test_a_number_that_would_divide_by_zero_is_refused_before_work(name, options, message):
    with pytest.raises(ValueError, match=message):
        check_parts(ModelConfig(name="r3gan"), AdversarialConfig(regularizers={name: options}), IMAGE)


@pytest.mark.parametrize("name", ["stylegan2", "progressive"])
def test_groups_that_do_not_divide_a_shard_are_refused_before_work(name):
    model = ModelConfig(name=name, discriminator={"minibatch_stddev_group": 3})
    task = ProgressiveConfig(name="progressive") if name == "progressive" else AdversarialConfig()
    check = TASKS.get(task.name)().check
    with pytest.raises(ValueError, match=r"minibatch_stddev_group=3 does not divide the 8 images of a logical worker .* a divisor of 8"):
        check(model, task, TrainConfig(total_images=1000, batch_images=32, logical_workers=4), IMAGE)
    check(model, task, TrainConfig(total_images=1000, batch_images=24, logical_workers=4), IMAGE)
    check(model, task, TrainConfig(total_images=1000, batch_images=8, logical_workers=4), IMAGE)  # two images: fewer than a group


def test_a_generator_without_anything_to_learn_from_is_refused():
    model = ModelConfig(name="dcgan")
    check_parts(model, AdversarialConfig(generator_loss_weight=0.0, regularizers={"feature_matching": {}}), IMAGE)
    for regularizers in ({}, {"r1": {}}, {"orthogonal": {"generator_weight": 0.0, "discriminator_weight": 1.0}}):
        with pytest.raises(ValueError, match=r"task.generator_loss_weight=0 .* add a term for it"):
            check_parts(model, AdversarialConfig(generator_loss_weight=0.0, regularizers=regularizers), IMAGE)


def test_discriminator_option_knows_defaults():
    assert discriminator_option(ModelConfig(name="dcgan"), "normalization") == "batch"
    assert discriminator_option(ModelConfig(name="dcgan", discriminator={"normalization": "none"}), "normalization") == "none"
    assert discriminator_option(ModelConfig(name="dcgan"), "no such option") is None
