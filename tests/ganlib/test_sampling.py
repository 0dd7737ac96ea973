"""Pixels to numbers and back, by hand."""

import numpy as np
import torch

from ganlib.sampling import to_float, to_uint8


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
