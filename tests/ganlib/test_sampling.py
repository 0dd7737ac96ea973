"""Pixels to numbers and back, by hand."""

import numpy as np
import torch

from ganlib.rng import keyed_rng
from ganlib.sampling import Prior, to_float, to_uint8


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


def test_columns_are_spread_over_more_classes_than_there_are_columns():
    """16 columns of 100 classes: every sixth, which is what the formula over all numbers gave where every class had images."""
    prior = Prior(latent_dim=2, distribution="normal", class_counts=(1,) * 100)
    assert prior.column_classes(16) == tuple(range(0, 96, 6))
    assert Prior(latent_dim=2, distribution="normal").column_classes(16) == ()
