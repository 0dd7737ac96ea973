"""Augmentations by hand: what each draw does to the pixels, and what R1 needs of them, two derivatives."""

import dataclasses
import math

import pytest
import torch

from ganlib.augment import AUGMENTATIONS, ada, build, parse
from ganlib.augment.ada import Ada
from ganlib.augment.diffaugment import DiffAugment
from ganlib.augment.flip import HorizontalFlip
from ganlib.augment.instance_noise import InstanceNoise
from ganlib.augment.moves import translate
from ganlib.rng import keyed_rng
from ganlib.steering import Steered

# name -> (one that does all it can, one that must change nothing); a new augmentation fails until it is here
CASES = {
    "hflip": (HorizontalFlip(p=0.5), HorizontalFlip(p=0.0)),
    "diffaugment": (DiffAugment(), DiffAugment(policy=())),
    "ada": (Ada(p=0.7, transforms=("blit", "geometry", "color", "filter", "noise", "cutout")), Ada(p=0.0)),
    "instance_noise": (InstanceNoise(std=0.3), InstanceNoise(anneal_images=100, images_seen=100.0)),
}


def draw():
    return keyed_rng(0, "augment")


def pictures(n=8, channels=3, size=(8, 8), dtype=torch.float32):
    return torch.rand(n, channels, *size, generator=keyed_rng(0, "pictures"), dtype=dtype) * 2 - 1


def test_every_registered_augmentation_has_a_case():
    assert {name: type(case[0]) for name, case in CASES.items()} == {entry.name: entry.value for entry in AUGMENTATIONS}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (8, 12)), (4, (9, 7))], ids=str)
def test_contract(name, channels, size):
    strong, idle = CASES[name]
    images = pictures(16, channels, size)
    changed = strong(images, draw())
    assert changed.shape == images.shape
    assert changed.dtype == images.dtype
    assert torch.isfinite(changed).all()
    assert not torch.equal(changed, images)
    assert torch.equal(strong(images, draw()), changed)  # the same numbers, the same images
    assert not torch.equal(strong(images, keyed_rng(1, "augment")), changed)
    assert torch.equal(idle(images, draw()), images)
    moved = (changed - images).flatten(1).abs().amax(1)
    assert len(moved.unique()) > 1  # another draw for each image
    if channels == 4 and name == "ada":  # colours leave alpha alone
        recolored = Ada(p=1.0, transforms=("color",))(images, draw())
        assert torch.equal(recolored[:, 3], images[:, 3])
        assert not torch.equal(recolored[:, :3], images[:, :3])


@pytest.mark.parametrize("name", CASES)
def test_two_derivatives(name):
    images = pictures(2, 3, (4, 4), torch.float64).requires_grad_(True)
    strong = CASES[name][0]

    def augmented(x):
        return strong(x.square(), draw())  # the square has a second derivative that must come through

    assert torch.autograd.gradcheck(augmented, (images,))
    assert torch.autograd.gradgradcheck(augmented, (images,))


@pytest.mark.parametrize("transforms", [("blit",), ("geometry",), ("color",), ("filter",), ("noise",), ("cutout",)], ids=str)
def test_p_is_the_share_of_images_a_transformation_is_applied_to(transforms):
    images = pictures(2000, 1, (8, 8))
    changed = (Ada(p=0.3, transforms=transforms)(images, draw()) != images).flatten(1).any(1).float().mean().item()
    # of 2 flips, 4 turns and moves by -1, 0, 1 pixels down and right (weights 1/4, 1/2, 1/4), these leave the image as it is
    still = {
        "blit": (1 - 0.3 / 2) * (1 - 0.3 * 3 / 4) * (1 - 0.3 * 3 / 4),
        "geometry": (1 - 0.3) ** 2 * (1 - 0.3) * (1 - 0.3),  # scale, stretch; both turns together; right and down together
        "color": (1 - 0.3) ** 2 * (1 - 0.3 / 2) * 1,  # brightness, contrast, luma; one channel: hue and saturation are drawn but do nothing
        "filter": (1 - 0.3) ** 4,  # four bands
        "noise": 1 - 0.3,
        "cutout": 1 - 0.3,
    }[transforms[0]]
    assert changed == pytest.approx(1 - still, abs=0.04)


def test_translation_by_hand():
    image = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    moved = translate(image.expand(2, 1, 3, 3), torch.tensor([1, 0]), torch.tensor([0, -2]))
    assert moved[0, 0].tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert moved[1, 0].tolist() == [[3, 0, 0], [6, 0, 0], [9, 0, 0]]


def test_cutout_is_a_square_of_zeros():
    cut = DiffAugment(policy=("cutout",))(torch.ones(200, 1, 8, 8), draw())[:, 0]
    sides = {(int((c == 0).any(1).sum()), int((c == 0).any(0).sum())) for c in cut}
    assert max(sides) == (4, 4)
    assert min(min(side) for side in sides) == 2  # its centre at the edge: half of it is outside
    assert all((c == 0).sum() == (c == 0).any(1).sum() * (c == 0).any(0).sum() for c in cut)


def test_diffaugment_colors_by_hand():
    brightness, saturation, contrast = torch.rand(3, 1, generator=draw()).flatten().tolist()
    images = pictures(1)
    expected = images + (brightness - 0.5)
    expected = (expected - expected.mean(1, keepdim=True)) * 2 * saturation + expected.mean(1, keepdim=True)
    expected = (expected - expected.mean()) * (contrast + 0.5) + expected.mean()
    torch.testing.assert_close(DiffAugment(policy=("color",))(images, draw()), expected)


def recolored(image, **changed):
    neutral = {"brightness": 0.0, "contrast": 1.0, "luma": 1.0, "hue": 0.0, "saturation": 1.0} | changed
    return ada.recolor(image, **{name: torch.tensor([value]) for name, value in neutral.items()})


def test_ada_colors_by_hand():
    image = torch.tensor([0.9, 0.3, 0.0]).reshape(1, 3, 1, 1)  # grey 0.4, the rest 0.5, -0.1, -0.4
    for changed, expected in [
        ({}, [0.9, 0.3, 0.0]),
        ({"brightness": 0.1}, [1.0, 0.4, 0.1]),
        ({"contrast": 2.0}, [1.8, 0.6, 0.0]),
        ({"luma": -1.0}, [0.1, -0.5, -0.8]),
        ({"saturation": 0.0}, [0.4, 0.4, 0.4]),
        ({"hue": 2 * math.pi / 3}, [0.0, 0.9, 0.3]),  # a third of a turn about grey: red is green, green is blue
    ]:
        torch.testing.assert_close(recolored(image, **changed).flatten(), torch.tensor(expected))
    grey = torch.tensor([0.5]).reshape(1, 1, 1, 1)
    assert recolored(grey, brightness=0.1, contrast=2.0, luma=-1.0, hue=1.0, saturation=3.0).item() == pytest.approx(-1.2)


def test_ada_blit_keeps_every_pixel_value():
    images = torch.arange(64.0).reshape(1, 1, 8, 8).repeat(50, 1, 1, 1)
    changed = Ada(p=0.8, transforms=("blit",))(images, draw())
    assert torch.equal(changed, changed.round())
    assert len({tuple(image.flatten().tolist()) for image in changed}) > 20
    wide = torch.arange(32.0).reshape(1, 1, 4, 8).repeat(50, 1, 1, 1)  # flips and moves alone: the rows of pixels stay rows
    rows = Ada(p=0.8, transforms=("blit",))(wide, draw())[:, 0] // 8
    assert torch.equal(rows, rows[:, :, :1].expand_as(rows))


@pytest.mark.parametrize("transforms", [("blit",), ("geometry",)], ids=str)
def test_ada_moves_both_ways_or_neither(transforms):
    """One decision an image for a translation. Kills: one for each axis, by which 0.09 of the images move both ways and 0.42 one way alone."""
    images = torch.zeros(4000, 2, 16, 64)
    images[:, 0] = torch.arange(16.0)[:, None]  # changes when it is moved down, not when it is mirrored
    images[:, 1] = (torch.arange(64.0) - 31.5).abs()  # when it is moved to the right
    moving = Alone(p=0.3, transforms=transforms)
    down, right = (moving(images, draw()) != images).flatten(2).any(2).T
    # a shift of up to 2 rows is 0 after rounding in a quarter of the cases, one of up to 8 columns in a sixteenth
    both = 0.3 * (45 / 64 if transforms == ("blit",) else 1)
    assert (down & right).float().mean().item() == pytest.approx(both, abs=0.03)
    assert (down ^ right).float().mean().item() == pytest.approx(0.3 * 18 / 64 if transforms == ("blit",) else 0.0, abs=0.03)


class Alone(Ada):
    """Ada of which nothing but the moves [N, 2] is applied."""

    def _applied(self, values, neutral, rng, p=None):
        return super()._applied(values, neutral, rng, p if values.ndim == 2 else 0.0)


class Turned(Ada):
    """Ada whose draws are given instead of drawn, in the order of `_geometry`."""

    def _applied(self, values, neutral, rng, p=None):
        return torch.tensor(self.draws.pop(0), dtype=torch.float32).expand(values.shape)


@pytest.mark.parametrize(
    ("draws", "expected"),
    [
        ([1, 0, 1, 0, (0, 0)], lambda x: x),
        ([1, math.pi / 2, 1, 0, (0, 0)], lambda x: x.rot90(-1, (2, 3))),  # rows run downwards: a positive angle turns clockwise
        ([1, 0, 1, math.pi, (0, 0)], lambda x: x.rot90(2, (2, 3))),
        ([1, 0, 1, 0, (0.25, 0)], lambda x: x.roll(2, 3)),  # to the right by a quarter of 8 pixels
        ([1, 0, 1, 0, (0, -0.125)], lambda x: x.roll(-1, 2)),
    ],
    ids=lambda value: "expected" if callable(value) else str(value),
)
def test_ada_geometry_by_hand(draws, expected):
    images = torch.zeros(2, 1, 8, 8)
    images[:, :, 2:4, 3:6] = pictures(2, 1, (2, 3)) + 2
    turned = Turned(p=0.5)
    object.__setattr__(turned, "draws", list(draws))
    torch.testing.assert_close(turned._geometry(images, draw()), expected(images), atol=1e-5, rtol=0)


def test_ada_geometry_scales_about_the_centre_and_knows_the_aspect():
    column = torch.arange(16.0).expand(1, 1, 8, 16)
    turned = Turned(p=0.5)
    object.__setattr__(turned, "draws", [2.0, 0.0, 1.0, 0.0, (0.0, 0.0)])
    torch.testing.assert_close(turned._geometry(column, draw())[0, 0, 0], 7.5 + (torch.arange(16.0) - 7.5) / 2, atol=1e-4, rtol=0)
    object.__setattr__(turned, "draws", [1.0, math.pi / 2, 1.0, 0.0, (0.0, 0.0)])
    upright = turned._geometry(column, draw())[0, 0]  # columns became rows, one pixel apart still
    torch.testing.assert_close(upright[:, 5], 7.5 + torch.arange(8.0) - 3.5, atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", [8, 64])
def test_ada_bands_add_up_to_the_image_and_are_bands(side):
    """On a cosine, which its reflection continues, a band is the wavelet's response at that frequency: |H|^2 / 2 of arXiv:2006.06676, appendix B."""
    bands = ada.band_matrices(side).double()
    torch.testing.assert_close(bands.sum(0), torch.eye(side, dtype=torch.float64), atol=1e-6, rtol=0)

    def low(w):  # |H(w)|^2 / 2 of a wavelet with two vanishing moments: cos^4(w / 2) (1 + 2 sin^2(w / 2)) (Daubechies, 1988)
        return math.cos(w / 2) ** 4 * (1 + 2 * math.sin(w / 2) ** 2)

    for k in range(side):
        w = math.pi * k / (side - 1)  # half a period from pixel 0 to the last, or k of them
        wave = torch.tensor([math.cos(w * x) for x in range(side)], dtype=torch.float64)
        first, second, third = low(w), low(2 * w), low(4 * w)
        expected = [first * second * third, first * second * (1 - third), first * (1 - second), 1 - first]
        for band, response in zip(bands, expected, strict=True):
            torch.testing.assert_close(band @ wave, response * wave, atol=1e-5, rtol=0)


def test_ada_filters_amplify_at_the_power_of_natural_images():
    """One image of each band alone: all are amplified by gains whose mean square, weighted by 10, 1, 1, 1, is 13, band after band."""
    draws = [4.0, 1.0, 0.25, 1.0]
    turned = Turned(p=0.5)
    object.__setattr__(turned, "draws", list(draws))
    x = pictures(1, 2, (8, 12))
    gains = torch.ones(4)
    for band, draw_of_band in enumerate(draws):
        gain = torch.ones(4)
        gain[band] = draw_of_band
        gains = gains * gain / ((10 * gain[0] ** 2 + gain[1] ** 2 + gain[2] ** 2 + gain[3] ** 2) / 13).sqrt()
    down, across = (sum(g * band for g, band in zip(gains, ada.band_matrices(side), strict=True)) for side in (8, 12))
    torch.testing.assert_close(turned._filter(x, draw()), torch.einsum("ij,ncjk,lk->ncil", down, x, across))


def test_ada_cutout_is_a_square_of_half_the_side():
    cut = Ada(p=1.0, transforms=("cutout",))(torch.ones(300, 1, 8, 16), draw())[:, 0]
    sides = [(int((c == 0).any(1).sum()), int((c == 0).any(0).sum())) for c in cut]
    assert max(height for height, _ in sides) == 4
    assert max(width for _, width in sides) == 8
    assert min(height for height, _ in sides) == 2  # its centre at the edge: half of it is outside
    assert all((c == 0).sum() == (c == 0).any(1).sum() * (c == 0).any(0).sum() for c in cut)


def test_ada_noise_has_a_size_of_its_own_for_each_image():
    sizes = Ada(p=1.0, transforms=("noise",))(torch.zeros(2000, 1, 16, 16), draw()).flatten(1).std(1)
    assert sizes.square().mean().sqrt().item() == pytest.approx(0.1, rel=0.05)  # |N(0, 0.1)|
    assert sizes.mean().item() == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.05)


def follow(augmentation, signs, images=64):
    ps = []
    for sign in signs:
        augmentation = augmentation.adapt({"sign_real": sign}, images)
        ps.append(augmentation.p)
    return ps


def test_ada_p_follows_the_signs():
    step = 64 * 4 / 1000
    at = Ada(p=0.3, speed_images=1000, interval_steps=4)
    assert follow(at, [1.0] * 8) == pytest.approx([0.3] * 3 + [0.3 + step] * 4 + [min(0.8, 0.3 + 2 * step)])
    assert follow(at, [0.0] * 8) == pytest.approx([0.3] * 3 + [0.3 - step] * 4 + [0.0])
    assert follow(at, [1.0] * 40)[-1] == 0.8
    assert follow(at, [-1.0] * 40)[-1] == 0.0
    # the mean over the interval counts, not the last step: 0.55 < 0.6 < 0.65
    assert follow(at, [0.2, 0.0, 1.0, 1.0])[-1] < 0.3 < follow(at, [1.0, 1.0, 0.6, 0.0])[-1]
    once = dataclasses.replace(at, interval_steps=1, target=0.5)
    assert follow(once, [0.5])[-1] == 0.3  # at the target it stays


def test_instance_noise_anneals():
    noise = InstanceNoise(std=0.4, anneal_images=1000)
    assert isinstance(noise, Steered)
    images = torch.zeros(64, 1, 16, 16)
    for seen, std in ((0, 0.4), (250, 0.3), (750, 0.1)):
        now = dataclasses.replace(noise, images_seen=float(seen))
        assert now(images, draw()).std().item() == pytest.approx(std, rel=0.02)
    assert noise.adapt({}, 250).adapt({}, 500) == dataclasses.replace(noise, images_seen=750.0)
    assert torch.equal(noise.adapt({}, 2000)(images, draw()), images)


def test_what_follows_the_discriminator_stands_with_it():
    with pytest.raises(ValueError, match=r"train.augment.ada follows .* task.augment only"):
        build({"ada": {}})
    with pytest.raises(ValueError, match=r"task.augment.diffaugment.policy.0='colour'"):
        parse({"diffaugment": {"policy": ["colour"]}}, key="task.augment")
    built = parse({"diffaugment": {"policy": ["cutout"]}, "ada": {"p": 0.5}, "instance_noise": {}}, key="task.augment")
    assert [part.start for part in built.values()] == [DiffAugment(policy=("cutout",)), Ada(p=0.5), InstanceNoise()]
