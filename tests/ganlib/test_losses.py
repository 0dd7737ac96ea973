"""Losses against hand-derived values; sigmoid(x) = 1 / (1 + e^-x), softplus(x) = ln(1 + e^x)."""

import math

import pytest
import torch

from ganlib.losses import LOSSES, Hinge, LeastSquares, Minimax, NonSaturating, Relativistic, Wasserstein

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
]


@pytest.mark.parametrize(("loss", "discriminator", "generator"), CASES, ids=lambda case: type(case).__name__)
def test_values_by_hand(loss, discriminator, generator):
    torch.testing.assert_close(loss.discriminator(R, F), torch.tensor(discriminator))
    torch.testing.assert_close(loss.generator(R, F), torch.tensor(generator))


def test_every_registered_loss_has_a_value_by_hand():
    assert {type(case[0]) for case in CASES} == {entry.value for entry in LOSSES}


@pytest.mark.parametrize("entry", list(LOSSES), ids=lambda entry: entry.name)
def test_extreme_logits_stay_finite_and_push_the_right_way(entry):
    loss = entry.value()
    for value in (-50.0, -1.0, 0.0, 1.0, 50.0):
        real, fake = (torch.full((3,), value, requires_grad=True) for _ in range(2))
        d, g = loss.discriminator(real, fake), loss.generator(real, fake)
        assert d.shape == g.shape == (3,)
        assert torch.isfinite(d).all()
        assert torch.isfinite(g).all()
    real, fake = (torch.tensor([0.1], requires_grad=True) for _ in range(2))
    d_real, d_fake = torch.autograd.grad(loss.discriminator(real, fake).sum(), (real, fake))
    assert d_real < 0 < d_fake  # D raises real logits and lowers fake ones
    (g_fake,) = torch.autograd.grad(loss.generator(real, fake).sum(), fake)
    assert g_fake < 0  # G raises fake ones


def test_minimax_saturates_where_non_saturating_does_not():
    # d/df of -softplus(f) is -sigmoid(f): e^-20 at f = -20; of softplus(-f) it is -sigmoid(-f): -1
    fake = torch.tensor([-20.0], requires_grad=True)
    (minimax,) = torch.autograd.grad(Minimax().generator(None, fake).sum(), fake)
    (non_saturating,) = torch.autograd.grad(NonSaturating().generator(None, fake).sum(), fake)
    assert minimax.item() == pytest.approx(-math.exp(-20), rel=1e-3)
    assert non_saturating.item() == pytest.approx(-1.0, rel=1e-6)
