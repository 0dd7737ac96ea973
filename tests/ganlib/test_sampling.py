"""Pixels to numbers and back, by hand."""

from typing import get_args

import numpy as np
import pytest
import torch

from ganlib.rng import keyed_rng
from ganlib.sampling import Distribution, Prior, interpolate, latents, only, to_float, to_uint8


def test_pixels_by_hand_are_rounded_to_the_nearest():
    """Kills the mutant that cuts off instead of rounding: 0 lies halfway, at 127.5, and the next two on either side of a half."""
    images = torch.tensor([-1.0, 1.0, 0.0, 99.6 / 127.5 - 1, 99.4 / 127.5 - 1, -1.5, 7.0]).reshape(1, 1, 1, 7)
    made = to_uint8(images)
    assert made.dtype == np.uint8
    assert made.flatten().tolist() == [0, 255, 128, 100, 99, 0, 255]


def test_every_pixel_comes_back_as_it_was():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    images = to_float(pixels)
    assert images.dtype == torch.float32
    assert [images.flatten()[k].item() for k in (0, 51, 255)] == [-1.0, np.float32(51 / 127.5) - 1, 1.0]
    assert np.array_equal(to_uint8(images), pixels)


def test_a_class_without_training_images_is_neither_drawn_nor_shown():
    """Kills the mutants that count columns over all numbers, and that let a draw fall on an empty class at the start, within or at the end."""
    prior = Prior(latent_dim=2, distribution="normal", class_counts=(0, 30, 0, 10, 20, 0))
    assert prior.classes == (1, 3, 4)
    drawn = prior.draw(6000, keyed_rng(0, "test")).labels.bincount(minlength=6)
    assert drawn.tolist()[::5] == [0, 0]
    np.testing.assert_allclose(drawn / 6000, np.array([0, 30, 0, 10, 20, 0]) / 60, atol=0.03)
    assert set(prior.seeded(0, range(200)).labels.tolist()) == {1, 3, 4}
    assert prior.seeded_of_classes(0, range(10), columns=5).labels.tolist() == [1, 3, 4, 1, 3] * 2
    assert prior.seeded_of_classes(0, range(3), columns=2).labels.tolist() == [1, 3, 1]


def test_a_prior_of_some_classes_has_them_as_often_among_each_other_as_before():
    prior = Prior(latent_dim=2, distribution="normal", class_counts=(5, 30, 7, 10))
    assert only(prior, (1, 3)).class_counts == (0, 30, 0, 10)
    assert only(prior, ()) == prior


def test_columns_are_spread_over_more_classes_than_there_are_columns():
    """16 columns of 100 classes: every sixth, which is what the formula over all numbers gave where every class had images."""
    prior = Prior(latent_dim=2, distribution="normal", class_counts=(1,) * 100)
    assert prior.column_classes(16) == tuple(range(0, 96, 6))
    assert Prior(latent_dim=2, distribution="normal").column_classes(16) == ()


def test_a_walk_of_normal_latents_starts_and_ends_at_them_and_keeps_their_length():
    z = latents(4, 64, "normal", keyed_rng(0, "z"))
    path = interpolate(z, steps=9, distribution="normal").reshape(2, 9, 64)
    torch.testing.assert_close(path[:, 0], z[0::2])
    torch.testing.assert_close(path[:, -1], z[1::2])
    lengths = path.norm(dim=2)
    between = torch.stack([torch.linspace(*z[2 * r : 2 * r + 2].norm(dim=1).tolist(), 9) for r in range(2)])
    torch.testing.assert_close(lengths, between)  # a straight line would pass near the origin


@pytest.mark.parametrize("dim", [1, 2, 8])
@pytest.mark.parametrize("factor", [2.0, 1.0, -1.0, -0.5, 0.0])
@pytest.mark.parametrize("distribution", get_args(Distribution))
def test_a_walk_between_latents_on_one_line(distribution, factor, dim):
    """Parallel, opposite, equal and zero latents, for every distribution. Kills a division by the length of zero (NaN), and one by the sine of pi:
    lengths of opposite latents of 8 dimensions, 1e6 instead of 1.
    """
    a = torch.linspace(0.2, 0.45, dim)[None]
    path = interpolate(torch.cat([a, factor * a]), steps=5, distribution=distribution)
    assert bool(torch.isfinite(path).all())
    torch.testing.assert_close(path[0], a[0])
    torch.testing.assert_close(path[-1], factor * a[0], atol=1e-6, rtol=1e-5)
    if distribution == "uniform":
        assert float(path.abs().max()) <= 1
    elif factor > 0 or dim > 1:  # in one dimension the way to the other side leads through zero
        torch.testing.assert_close(path.norm(dim=1), torch.linspace(1, abs(factor), 5) * a.norm())


@pytest.mark.parametrize("t", [0, 1, 2, 3, 4])
def test_a_walk_of_uniform_latents_is_uniform_at_every_step(t):
    """The quantiles of each step against the identity: a straight line has a triangle in the middle, a great circle leaves [-1, 1]."""
    z = latents(2 * 2_000, 8, "uniform", keyed_rng(3, "z"))
    values = interpolate(z, steps=5, distribution="uniform").reshape(-1, 5, 8)[:, t].flatten()
    assert float(values.abs().max()) <= 1
    quantiles = torch.linspace(0.05, 0.95, 19)
    torch.testing.assert_close(values.quantile(quantiles), 2 * quantiles - 1, atol=0.03, rtol=0)  # 16,000 draws: four standard errors
