"""Perceptual path length from features: the trimmed mean of the released code, on numbers by hand."""

import numpy as np
import pytest
import torch

from ganlib.metrics import METRICS
from ganlib.metrics.interface import PathComparison
from ganlib.metrics.path_length import trimmed_mean
from ganlib.metrics.settings import EvaluateConfig
from ganlib.rng import keyed_rng

PATH_LENGTH = METRICS.get("path_length")


def walked(lengths: torch.Tensor, *, epsilon: float = 1e-2) -> PathComparison:
    """Steps [n] long, each in a direction of its own, from different places."""
    direction = torch.nn.functional.normalize(torch.randn(len(lengths), 3, generator=keyed_rng(0, "direction")), dim=1)
    start = torch.randn(len(lengths), 3, generator=keyed_rng(0, "start"))
    return PathComparison(steps={"z": (start, start + epsilon * lengths[:, None] * direction)}, epsilon=epsilon)


def test_the_lowest_and_highest_per_cent_are_left_out():
    """0 to 200: percentiles 1 and 99 are 2 and 198, which stay. Between items they are rounded outwards: of 11 nothing is left out."""
    x = torch.arange(201, dtype=torch.float64)[torch.randperm(201, generator=keyed_rng(0, "order"))]
    x[x == 200] = 1e9
    assert trimmed_mean(x) == np.mean(np.arange(2, 199))
    assert trimmed_mean(torch.arange(11, dtype=torch.float64) ** 2) == 35


def test_a_length_is_squared_and_in_units_of_the_path():
    """All steps of 3 paths' lengths: 9, whatever a step's share. Kills a distance without its square, and one divided by epsilon once."""
    for epsilon in (1e-1, 1e-3):
        found = PATH_LENGTH(walked(torch.full((50,), 3.0), epsilon=epsilon), EvaluateConfig())
        assert found["path_length_z"] == pytest.approx(9, rel=1e-3)
    assert set(found) == {"path_length_z", "path_length_z_low", "path_length_z_high"}


def test_the_interval_holds_the_mean_of_more_pairs_as_often_as_it_says():
    """40 sets of 200 pairs with exponential squared lengths of mean 1. Kills an interval that does not narrow with n, or is half as wide."""
    config = EvaluateConfig(bootstrap=50)
    squares = -torch.rand(40, 200, generator=keyed_rng(0, "lengths"), dtype=torch.float64).log()
    truth = trimmed_mean(-torch.rand(400_000, generator=keyed_rng(1, "lengths"), dtype=torch.float64).log())
    found = [PATH_LENGTH(walked(each.sqrt().float()), config) for each in squares]
    inside = sum(each["path_length_z_low"] <= truth <= each["path_length_z_high"] for each in found)
    assert 33 <= inside <= 40  # 38 expected; fewer than 33 in 1 of 700
    widths = [each["path_length_z_high"] - each["path_length_z_low"] for each in found]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 0.94 / 200**0.5, rel=0.15)


@pytest.mark.parametrize("bad", [torch.zeros(1, 3), torch.zeros(4, 2), torch.full((4, 3), torch.nan)], ids=["one", "shapes", "NaN"])
def test_steps_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match=r"steps in z|NaN"):
        PathComparison(steps={"z": (torch.zeros(4, 3) if len(bad) > 1 else bad, bad)}, epsilon=1e-4)
