"""What the discriminator and the samples betray, against scikit-learn, closed forms and copies that are known."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn

from ganlib.metrics import METRICS
from ganlib.metrics.auc import auc
from ganlib.metrics.discriminator import standardised_gap
from ganlib.metrics.interface import Comparison, LogitComparison
from ganlib.metrics.intervals import Z95
from ganlib.metrics.settings import EvaluateConfig
from ganlib.rng import keyed_rng

CONFIG = EvaluateConfig()


def logits(n: int, mean: float, name: str) -> torch.Tensor:
    return torch.randn(n, generator=keyed_rng(0, name), dtype=torch.float64) + mean


def compare(real: float = 0.0, fake: float = 0.0, train: float = 0.0, *, n: int = 500) -> LogitComparison:
    return LogitComparison(train=logits(n, train, "learnt"), real=logits(n, real, "real"), fake=logits(n, fake, "fake"))


def test_the_area_is_sklearns_with_ties():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 9, 40).astype(float), rng.integers(-2, 6, 70).astype(float)
    labels, scores = np.repeat([1, 0], [40, 70]), np.concatenate([positive, negative])
    area, low, high = auc(positive, negative)
    assert area == pytest.approx(sklearn.roc_auc_score(labels, scores))
    assert low < area < high


def test_the_interval_of_an_area_holds_the_truth_in_95_of_100():
    """Of N(1, 1) against N(0, 1) the area is Phi(1 / sqrt 2). Kills the standard error of one side alone."""
    rng, truth = np.random.default_rng(0), 0.5 * (1 + math.erf(0.5))
    found = [auc(rng.normal(1, 1, 60), rng.normal(0, 1, 200)) for _ in range(1500)]
    assert np.mean([low <= truth <= high for _, low, high in found]) == pytest.approx(0.95, abs=0.02)


def test_perfect_separation_is_not_certain():
    area, low, high = auc(np.arange(10.0) + 20, np.arange(10.0))
    assert (area, high) == (1.0, pytest.approx(1.0))
    assert 0.6 < low < 0.8


def test_the_gap_and_its_interval():
    """Kills: a gap in logits, which a discriminator can scale as it likes, and an interval for equal means alone."""
    x, y = logits(100, 2.0, "x"), logits(100, 0.0, "y")
    assert standardised_gap(10 * x, 10 * y)[0] == pytest.approx(standardised_gap(x, y)[0])
    assert standardised_gap(y, x)[0] == pytest.approx(-standardised_gap(x, y)[0])
    inside = []
    for i in range(1000):
        gap, error = standardised_gap(logits(40, 1.5, f"x{i}"), logits(90, 0.0, f"y{i}"))
        inside.append(abs(gap - 1.5) < Z95 * error)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.025)
    constant = torch.ones(9, dtype=torch.float64)
    assert standardised_gap(constant, constant)[0] == 0.0


def test_accuracy_precision_and_recall_are_sklearns():
    data = compare(real=0.4, fake=-0.3, train=1.0, n=200)
    found = METRICS.get("discriminator")(data, CONFIG)
    for suffix, real in (("", data.real), ("_train", data.train)):
        truth = np.repeat([1, 0], 200)
        said = (torch.cat([real, data.fake]).sigmoid() > 0.5).int().numpy()
        assert found[f"discriminator_accuracy{suffix}"] == pytest.approx(sklearn.accuracy_score(truth, said))
        assert found[f"discriminator_precision{suffix}"] == pytest.approx(sklearn.precision_score(truth, said))
        assert found[f"discriminator_recall{suffix}"] == pytest.approx(sklearn.recall_score(truth, said))
    assert found["discriminator_fooled"] == pytest.approx(float((data.fake > 0).double().mean()))


def test_what_is_learnt_by_heart_shows_in_the_gap_and_the_membership_alone():
    honest = METRICS.get("discriminator")(compare(real=1.0, fake=-1.0, train=1.0), CONFIG)
    learnt = METRICS.get("discriminator")(compare(real=1.0, fake=-1.0, train=3.0), CONFIG)
    assert honest["overfitting_gap_low"] < 0 < honest["overfitting_gap_high"]
    assert honest["membership_white_box_low"] < 0.5 < honest["membership_white_box_high"]
    assert learnt["overfitting_gap"] == pytest.approx(2.0, abs=0.25)
    assert learnt["membership_white_box"] > 0.88
    assert learnt["discriminator_accuracy"] == honest["discriminator_accuracy"]


def test_a_discriminator_that_calls_nothing_real_has_no_precision_to_speak_of():
    found = METRICS.get("discriminator")(compare(real=-50.0, fake=-50.0, train=-50.0), CONFIG)
    assert (found["discriminator_precision"], found["discriminator_precision_low"], found["discriminator_precision_high"]) == (
        0.5,
        0.0,
        1.0,
    )
    assert found["discriminator_accuracy"] == 0.5


def test_logits_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="fake images hold NaN or infinity"):
        LogitComparison(train=torch.zeros(3).double(), real=torch.zeros(3).double(), fake=torch.tensor([0.0, torch.nan]).double())
    with pytest.raises(ValueError, match="real logits: got"):
        LogitComparison(train=torch.zeros(3).double(), real=torch.zeros(3, 1).double(), fake=torch.zeros(3).double())


def test_samples_that_copy_betray_who_was_trained_on():
    def drawn(n: int, name: str) -> torch.Tensor:
        return torch.randn(n, 6, generator=keyed_rng(0, name))

    train, real = drawn(300, "train"), drawn(300, "real")
    attack = METRICS.get("membership")
    honest = attack(Comparison(real=real, fake=drawn(400, "fake"), train=train), CONFIG)
    copied = attack(Comparison(real=real, fake=train + 0.01 * drawn(300, "noise"), train=train), CONFIG)
    unseen = attack(Comparison(real=real, fake=real + 0.01 * drawn(300, "noise"), train=train), CONFIG)
    assert honest["membership_black_box_low"] < 0.5 < honest["membership_black_box_high"]
    assert copied["membership_black_box"] > 0.99
    assert unseen["membership_black_box"] < 0.01  # kills the attack that takes the far ones for members
