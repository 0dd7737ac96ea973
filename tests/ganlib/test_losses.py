"""Losses against hand-derived values; sigmoid(x) = 1 / (1 + e^-x), softplus(x) = ln(1 + e^x)."""

import dataclasses
import math

import pytest
import torch

from ganlib.config import construct
from ganlib.losses import LOSSES, Began, Hinge, LeastSquares, Minimax, NonSaturating, Relativistic, Wasserstein
from ganlib.steering import Steered

R = torch.tensor([2.0, -1.0])
F = torch.tensor([0.5, -3.0])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# (loss, expected D per sample, expected G per sample): written out from each paper's formula for the logits above
CASES = [
    (Minimax(), [softplus(-2) + softplus(0.5), softplus(1) + softplus(-3)], [-softplus(0.5), -softplus(-3)]),
    (NonSaturating(), [softplus(-2) + softplus(0.5), softplus(1) + softplus(-3)], [softplus(-0.5), softplus(3)]),
    (LeastSquares(), [0.5 * 1 + 0.5 * 0.25, 0.5 * 4 + 0.5 * 9], [0.5 * 0.25, 0.5 * 16]),
    (Wasserstein(), [0.5 - 2, -3 + 1], [-0.5, 3.0]),
    (Hinge(), [0 + 1.5, 2 + 0], [-0.5, 3.0]),
    (Relativistic(), [softplus(0.5 - 2), softplus(-3 + 1)], [softplus(2 - 0.5), softplus(-1 + 3)]),
    (Began(k=0.25), [-2 + 0.25 * 0.5, 1 - 0.25 * 3], [-0.5, 3.0]),
    # cross entropy with target 0.9: -0.9 ln sigmoid(r) - 0.1 ln(1 - sigmoid(r)); fake targets stay 0, and G's loss as it is
    (
        Minimax(smoothing=0.1),
        [0.9 * softplus(-2) + 0.1 * softplus(2) + softplus(0.5), 0.9 * softplus(1) + 0.1 * softplus(-1) + softplus(-3)],
        [-softplus(0.5), -softplus(-3)],
    ),
    (
        NonSaturating(smoothing=0.1),
        [0.9 * softplus(-2) + 0.1 * softplus(2) + softplus(0.5), 0.9 * softplus(1) + 0.1 * softplus(-1) + softplus(-3)],
        [softplus(-0.5), softplus(3)],
    ),
    # targets of the chi-square form: real 1, fake -1, G wants 0
    (LeastSquares(fake_target=-1.0, generator_target=0.0), [0.5 + 0.5 * 2.25, 0.5 * 4 + 0.5 * 4], [0.5 * 0.25, 0.5 * 9]),
    # means: real 0.5, fake -1.25
    (
        Relativistic(average=True),
        [softplus(-1.25 - 2) + softplus(0.5 - 0.5), softplus(-1.25 + 1) + softplus(-3 - 0.5)],
        [softplus(0.5 - 0.5) + softplus(2 + 1.25), softplus(0.5 + 3) + softplus(-1 + 1.25)],
    ),
]


@pytest.mark.parametrize(("loss", "discriminator", "generator"), CASES, ids=lambda case: type(case).__name__)
def test_values_by_hand(loss, discriminator, generator):
    torch.testing.assert_close(loss.discriminator(R, F), torch.tensor(discriminator))
    torch.testing.assert_close(loss.generator(R, F), torch.tensor(generator))


def test_every_registered_loss_has_a_value_by_hand():
    assert {type(case[0]) for case in CASES} == {entry.value for entry in LOSSES}


@pytest.mark.parametrize("loss", [case[0] for case in CASES], ids=repr)
def test_extreme_logits_stay_finite_and_push_the_right_way(loss):
    for value in (-50.0, -1.0, 0.0, 1.0, 50.0):
        real, fake = (torch.full((3,), value, requires_grad=True) for _ in range(2))
        d, g = loss.discriminator(real, fake), loss.generator(real, fake)
        assert d.shape == g.shape == (3,)
        assert torch.isfinite(d).all()
        assert torch.isfinite(g).all()
    real, fake = (torch.tensor([0.1], requires_grad=True) for _ in range(2))
    d_real, d_fake = torch.autograd.grad(loss.discriminator(real, fake).sum(), (real, fake))
    assert d_real < 0 < d_fake  # D raises real logits and lowers fake ones
    fake = torch.tensor([-0.1], requires_grad=True)
    (g_fake,) = torch.autograd.grad(loss.generator(real, fake).sum(), fake)
    assert g_fake < 0  # G raises fake ones


def test_minimax_saturates_where_non_saturating_does_not():
    # d/df of -softplus(f) is -sigmoid(f): e^-20 at f = -20; of softplus(-f) it is -sigmoid(-f): -1
    fake = torch.tensor([-20.0], requires_grad=True)
    (minimax,) = torch.autograd.grad(Minimax().generator(None, fake).sum(), fake)
    (non_saturating,) = torch.autograd.grad(NonSaturating().generator(None, fake).sum(), fake)
    assert minimax.item() == pytest.approx(-math.exp(-20), rel=1e-3)
    assert non_saturating.item() == pytest.approx(-1.0, rel=1e-6)


def test_smoothing_gives_an_optimum_where_without_it_there_is_none():
    # the slope -0.9 sigmoid(-r) + 0.1 sigmoid(r) is 0 at r = ln 9; without smoothing it is never 0
    real = torch.tensor([math.log(9)], requires_grad=True)
    for smoothing, slope in ((0.1, 0.0), (0.0, -0.1)):
        (gradient,) = torch.autograd.grad(NonSaturating(smoothing=smoothing).discriminator(real, real.detach()).sum(), real)
        assert gradient.item() == pytest.approx(slope, abs=1e-6)
    with pytest.raises(ValueError, match=r"smoothing=0.9: expected 0 to 0.5 \(params.yaml: task.loss_options.smoothing\)"):
        construct(NonSaturating, {"smoothing": 0.9}, key="task.loss_options")


def test_began_k_by_hand():
    # k + rate * (gamma L(x) - L(G(z))), and a logit is minus its L
    loss = Began(k=0.5, gamma=0.5, rate=0.1)
    assert isinstance(loss, Steered)
    assert loss.adapt({"logit_real": -4.0, "logit_fake": -1.0}, 64) == dataclasses.replace(loss, k=0.5 + 0.1 * (2 - 1))
    assert loss.adapt({"logit_real": -4.0, "logit_fake": -3.0}, 64).k == pytest.approx(0.4)
    assert loss.adapt({"logit_real": -4.0, "logit_fake": -30.0}, 64).k == 0.0
    assert loss.adapt({"logit_real": -40.0, "logit_fake": -1.0}, 64).k == 1.0
