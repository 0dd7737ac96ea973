"""Transforms: every registered one keeps its promises; the two that are there against slow or older ways to do the same."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ganlib import transforms
from ganlib.models import ImageSpec
from ganlib.rng import keyed_rng
from ganlib.sampling import to_float, to_uint8
from ganlib.transforms import TRANSFORMS, Transform
from ganlib.transforms.holes import Holes, HolesConfig
from ganlib.transforms.low_resolution import LowResolution, LowResolutionConfig

NAMES = TRANSFORMS.names()


def made(name: str) -> Transform:
    return transforms.of(TRANSFORMS.get(name).options())


def pictures(count: int, channels: int = 1, size: tuple[int, int] = (16, 24)) -> torch.Tensor:
    levels = np.random.default_rng(0).integers(0, 256, (count, channels, *size), dtype=np.uint8)
    return to_float(levels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_shapes_ranges_and_the_way_back(name, channels):
    transform, images = made(name), pictures(5, channels)
    fed = transform(images, keyed_rng(0, "x"))
    expected = transform.fed(ImageSpec(channels=channels, size=(16, 24)))
    assert fed.shape == (5, expected.channels, *expected.size)
    for way in (transform.shown, transform.plain):
        found = way(fed)
        assert found.shape == images.shape
        assert found.dtype == fed.dtype == torch.float32
        assert found.abs().max() <= 1
    assert transform.words


@pytest.mark.parametrize("name", NAMES)
def test_it_is_data(name):
    """Its options survive JSON; the transform made of them does the same."""
    transform = made(name)
    values = json.loads(json.dumps(transform.config.model_dump(mode="json")))
    again = transforms.of(TRANSFORMS.get(values["name"]).options(**values))
    assert again == transform
    assert torch.equal(again(pictures(3), keyed_rng(0, "x")), transform(pictures(3), keyed_rng(0, "x")))


@pytest.mark.parametrize("name", NAMES)
def test_images_do_not_know_each_other(name):
    """Image i depends on itself and on the numbers drawn before it. Kills: a draw of the whole batch, one mask for all, the global generator."""
    transform, images = made(name), pictures(6)
    whole = transform(images, keyed_rng(0, "x"))
    rng = keyed_rng(0, "x")
    one_by_one = [transform(images[i : i + 1], rng) for i in range(6)]
    assert torch.equal(torch.cat(one_by_one), whole)
    assert torch.equal(transform(images[:4], keyed_rng(0, "x")), whole[:4])
    other = transform(images, keyed_rng(1, "x"))
    assert torch.equal(other, whole) == (not transform.draws)


@pytest.mark.parametrize("factor", [2, 4])
def test_the_area_is_averaged_as_by_hand(factor):
    """Kills: every factor-th pixel, a mean that is rounded down."""
    images = pictures(4, 3)
    levels = to_uint8(images).astype(int)
    expected = np.zeros((4, 3, 16 // factor, 24 // factor), np.uint8)
    for y in range(16 // factor):
        for x in range(24 // factor):
            block = levels[:, :, y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
            expected[:, :, y, x] = np.floor(block.mean((2, 3)) + 0.5)
    transform = LowResolution(config=LowResolutionConfig(factor=factor))
    assert np.array_equal(to_uint8(transform(images, keyed_rng(0, "x"))), expected)
    assert torch.equal(to_float(expected), transform(images, keyed_rng(0, "x")))  # to the bit, as of a file


def test_bicubic_is_pillows():
    """Both ways, on a smooth picture. Kills: no antialiasing, corners aligned, torch's other kernel."""
    y, x = np.mgrid[:32, :32]
    level = (127 + 100 * np.sin(x / 5) * np.cos(y / 7)).astype(np.uint8)
    transform = LowResolution(config=LowResolutionConfig(factor=4, filter="bicubic"))
    small = transform(to_float(level[None, None]), keyed_rng(0, "x"))
    theirs = np.asarray(Image.fromarray(level).resize((8, 8), Image.Resampling.BICUBIC))
    assert np.abs(to_uint8(small)[0, 0].astype(int) - theirs).max() <= 1
    large = to_uint8(transform.plain(small))[0, 0].astype(int)
    wanted = np.asarray(Image.fromarray(theirs).resize((32, 32), Image.Resampling.BICUBIC))
    assert np.abs(large - wanted).max() <= 2  # one for the picture before, one for Pillow's fixed point


def test_what_is_known_is_kept_and_the_hole_is_told():
    transform, images = Holes(config=HolesConfig()), pictures(40, 3)
    fed = transform(images, keyed_rng(0, "x"))
    hole = fed[:, -1:]
    assert set(hole.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(fed[:, :-1], torch.where(hole > 0, 0.0, images))
    assert torch.equal(transform.shown(fed), fed[:, :-1])
    filled = transform.plain(fed)
    assert torch.equal(torch.where(hole > 0, 0.0, filled), fed[:, :-1])
    means = [[image[c][mask[0] == 0].mean() for c in range(3)] for image, mask in zip(images, hole, strict=True)]
    for image, mask, mean in zip(filled, hole, means, strict=True):
        torch.testing.assert_close(image[:, mask[0] > 0], torch.tensor(mean)[:, None].expand(-1, int(mask.sum())))


@pytest.mark.parametrize("kinds", [("box",), ("strokes",), ("box", "strokes")], ids=str)
@pytest.mark.parametrize(("low", "high"), [(0.1, 0.4), (0.25, 0.3), (0.7, 0.8)])
def test_the_area_of_a_hole_is_within_its_bounds(kinds, low, high):
    transform = Holes(config=HolesConfig(kinds=kinds, min_share=low, max_share=high))
    rng = keyed_rng(0, "holes")
    shares = np.array([transform.mask((28, 28), rng).mean() for _ in range(60)])
    assert ((shares >= low) & (shares <= high)).all()
    assert len(set(shares)) > 5


def test_boxes_are_boxes_and_strokes_are_not():
    """Kills: one kind for both, always the same place."""
    rng = keyed_rng(0, "holes")
    for kind in ("box", "strokes"):
        transform = Holes(config=HolesConfig(kinds=(kind,)))
        masks = np.stack([transform.mask((28, 28), rng) for _ in range(60)])
        rows, columns = masks.any(2).sum(1), masks.any(1).sum(1)
        is_box = masks.sum((1, 2)) == rows * columns
        assert is_box.all() if kind == "box" else is_box.mean() < 0.1
        assert masks.any(0).mean() > 0.97  # a hole may be anywhere
        assert masks.mean(0).max() < 0.65


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        (LowResolutionConfig(factor=4), (8, 10), r"task.transform.factor=4 does not divide data.image_size=\[8, 10\]"),
        (HolesConfig(min_share=0.5, max_share=0.501), (8, 8), None),
        (HolesConfig(min_share=0.51, max_share=0.515), (8, 8), r"task.transform.min_share=0.51 and max_share=0.515 leave no box"),
        (HolesConfig(min_share=0.5, max_share=0.2), (8, 8), r"task.transform.min_share=0.5 and max_share=0.2 leave no box"),
    ],
)
def test_what_does_not_fit_the_image_is_refused(config, size, message):
    image = ImageSpec(channels=1, size=size)
    if message is None:
        assert transforms.of(config).fed(image).channels == 2
        return
    with pytest.raises(ValueError, match=message):
        transforms.of(config).fed(image)
