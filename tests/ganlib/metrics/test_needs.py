"""What metrics say they need and give, against what they do."""

import numpy as np
import pytest
import torch

from ganlib.metrics import METRICS, needs, trunk
from ganlib.metrics.fid import frechet_distance, moments
from ganlib.metrics.interface import ArrayImages, Comparison, LogitComparison, PathComparison, PixelComparison
from ganlib.metrics.settings import EvaluateConfig
from ganlib.rng import keyed_rng

CONFIG = EvaluateConfig(seed=0, prdc_images=50, neighbours=5, bootstrap=20)


def compare(real: int, fake: int, *, is_conditional: bool = False) -> Comparison:
    def drawn(n: int, name: str) -> torch.Tensor:
        return torch.randn(n, 4, generator=keyed_rng(0, name))

    classes = {"real_classes": np.arange(real) % 2, "fake_classes": np.arange(fake) % 2, "num_classes": 2}
    for side, n in (("real", real), ("fake", fake)):
        classes[f"{side}_probabilities"] = torch.rand(n, 2, generator=keyed_rng(0, "probabilities"), dtype=torch.float64).softmax(dim=1)
    labels = np.arange(fake) % 2 if is_conditional else None
    return Comparison(real=drawn(real, "real"), fake=drawn(fake, "fake"), train=drawn(30, "train"), fake_labels=labels, **classes)


def shown(metric, real: int, fake: int, *, is_conditional: bool = False) -> Comparison | PixelComparison | LogitComparison | PathComparison:
    """What a metric of its kind looks at."""
    if needs.of(metric).pixels:
        images = np.random.default_rng(0).integers(0, 256, (real + fake, 1, 8, 8)).astype(np.uint8)
        labels = np.arange(real + fake) % 2
        shown = ArrayImages(images[real:], labels[real:] if is_conditional else None)
        return PixelComparison(real=ArrayImages(images[:real], labels[:real]), fake=shown, train=ArrayImages(images, labels))
    if needs.of(metric).discriminator:
        logits = torch.randn(2 * real + fake, generator=keyed_rng(0, "logits"), dtype=torch.float64)
        return LogitComparison(train=logits[:real], real=logits[real : 2 * real], fake=logits[2 * real :])
    if needs.of(metric).generator:
        seen = torch.randn(6, 2, fake, 4, generator=keyed_rng(0, "steps"))
        return PathComparison(steps={name: (*pair,) for name, pair in zip(("z", "w", "w_end"), seen, strict=False)}, epsilon=1e-4)
    return compare(real, fake, is_conditional=is_conditional)


@pytest.mark.parametrize("name", METRICS.names())
def test_a_metric_of_as_few_images_as_it_asks_for_is_finite(name, monkeypatch):
    """Kills a need that is stated too low: of two fakes, KID's bootstrap divides by the zero pairs of one image drawn twice."""
    metric = METRICS.get(name)
    need = needs.of(metric)
    least = CONFIG.neighbours + 1 if need.above_neighbours else 2
    monkeypatch.setattr(trunk, "MIN_STEPS", 5)
    values = metric(shown(metric, max(least, need.real), max(least, need.fake)), CONFIG)
    assert np.isfinite(list(values.values())).all(), values
    assert values or need.conditional


@pytest.mark.parametrize("is_conditional", [False, True])
@pytest.mark.parametrize("name", METRICS.names())
def test_a_metric_gives_the_numbers_that_it_says(name, is_conditional, monkeypatch):
    monkeypatch.setattr(trunk, "MIN_STEPS", 5)
    metric = METRICS.get(name)
    need = needs.of(metric)
    values = metric(shown(metric, 40, 40, is_conditional=is_conditional), CONFIG)
    given = [key for key in values if not key.endswith(("_low", "_high"))]
    expected = [value.key for value in need.gives if is_conditional or not value.is_conditional]
    assert expected or need.conditional, "nothing that a decision could stand on"
    assert [key for key in given if key not in need.also_gives] == expected
    assert set(need.also_gives) <= set(given) or not expected
    for key in expected:  # every number has its interval
        assert values[f"{key}_low"] <= values[key] <= values[f"{key}_high"], key


def test_no_two_metrics_give_one_key_and_each_value_is_explained():
    declared = [value for entry in METRICS for value in needs.of(entry.value).gives]
    also = [key for entry in METRICS for key in needs.of(entry.value).also_gives]
    keys = [value.key for value in declared] + also
    assert len(set(keys)) == len(keys)
    for value in declared:
        assert value.title
        assert value.meaning.endswith(".")
        assert not value.key.endswith(("_low", "_high"))
        assert "@" not in value.key


@pytest.mark.parametrize(
    ("key", "better", "worse"),
    [("fid", 1.0, 2.0), ("recall_high", 0.6, 0.5), ("density", 0.9, 1.4), ("memorized_share", 0.012, 0.0), ("fid_low@rotation", 1.0, 2.0)],
)
def test_a_key_says_which_way_is_better(key, better, worse):
    """Kills "lower is better" for all, and a target that only counts from one side."""
    value = needs.value_of(key)
    assert value.is_better(better, worse)
    assert not value.is_better(worse, better)
    assert not value.is_better(better, better)
    assert needs.value_of("nearest_train_distance") is None


def test_a_target_without_an_ideal_is_refused():
    with pytest.raises(ValueError, match="ideal"):
        needs.Value(key="x", title="X", meaning="X.", better="target")


@pytest.mark.parametrize("n", [7, 40, 100])
def test_the_bias_of_few_images_is_that_of_draws(n):
    """Against twenty draws of a distribution that is known; kills a bias of 1 / n, an order too small."""
    exact = torch.zeros(128, dtype=torch.float64), torch.eye(128, dtype=torch.float64)
    drawn = [frechet_distance(moments(torch.randn(n, 128, generator=keyed_rng(0, "draws", n, i))), exact) / 128 for i in range(20)]
    assert needs.frechet_bias(n, 128) == pytest.approx(np.mean(drawn), rel=0.05)
