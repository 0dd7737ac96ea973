"""What metrics say they need and give, against what they do."""

import numpy as np
import pytest
import torch

from ganlib.metrics import METRICS, needs
from ganlib.metrics.fid import frechet_distance, moments
from ganlib.metrics.interface import Comparison
from ganlib.metrics.settings import EvaluateConfig
from ganlib.rng import keyed_rng

CONFIG = EvaluateConfig(seed=0, prdc_images=50, neighbours=5, bootstrap=20)


def compare(real: int, fake: int, *, is_conditional: bool = False) -> Comparison:
    def drawn(n: int, name: str) -> torch.Tensor:
        return torch.randn(n, 4, generator=keyed_rng(0, name))

    classes = {"real_classes": np.arange(real) % 2, "fake_classes": np.arange(fake) % 2, "num_classes": 2}
    labels = np.arange(fake) % 2 if is_conditional else None
    return Comparison(real=drawn(real, "real"), fake=drawn(fake, "fake"), train=drawn(30, "train"), fake_labels=labels, **classes)


@pytest.mark.parametrize("name", METRICS.names())
def test_a_metric_of_as_few_images_as_it_asks_for_is_finite(name):
    """Kills a need that is stated too low: of two fakes, KID's bootstrap divides by the zero pairs of one image drawn twice."""
    metric = METRICS.get(name)
    need = needs.of(metric)
    least = CONFIG.neighbours + 1 if need.above_neighbours else 2
    values = metric(compare(max(least, need.real), max(least, need.fake)), CONFIG)
    assert np.isfinite(list(values.values())).all(), values


@pytest.mark.parametrize("is_conditional", [False, True])
@pytest.mark.parametrize("name", METRICS.names())
def test_a_metric_gives_the_numbers_that_it_says(name, is_conditional):
    metric = METRICS.get(name)
    need = needs.of(metric)
    given = [key for key in metric(compare(40, 40, is_conditional=is_conditional), CONFIG) if not key.endswith(("_low", "_high"))]
    assert need.gives is not None
    assert given == [*need.gives, *(need.gives_conditional if is_conditional else ())]


@pytest.mark.parametrize("n", [7, 40, 100])
def test_the_bias_of_few_images_is_that_of_draws(n):
    """Against twenty draws of a distribution that is known; kills a bias of 1 / n, an order too small."""
    exact = torch.zeros(128, dtype=torch.float64), torch.eye(128, dtype=torch.float64)
    drawn = [frechet_distance(moments(torch.randn(n, 128, generator=keyed_rng(0, "draws", n, i))), exact) / 128 for i in range(20)]
    assert needs.frechet_bias(n, 128) == pytest.approx(np.mean(drawn), rel=0.05)
