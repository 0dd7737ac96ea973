"""Each fault against its right value: scipy, Pillow, a spectrum, a multiset, or what was drawn by hand."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import kstest

from ganlib.metrics.faults import FAULTS, Held, in_order
from ganlib.metrics.faults.altered import PATCHES, cut
from ganlib.metrics.interface import ArrayImages

SHAPES = {"digits": (1, 8, 8), "grey": (1, 28, 28), "rgb": (3, 32, 32), "oblong_rgba": (4, 30, 21), "large": (3, 512, 512)}


def drawn(shape: tuple[int, int, int], n: int, *, seed: int = 0, low: int = 0, high: int = 256) -> np.ndarray:
    """Smooth pictures with some noise: [n, *shape] uint8 from `low` to `high`."""
    if shape[1] > 100:  # a filter as wide as that takes seconds
        return drawn((shape[0], shape[1] // 16, shape[2] // 16), n, seed=seed, low=low, high=high).repeat(16, axis=2).repeat(16, axis=3)
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=(n, *shape)), (0, 0, shape[1] / 6, shape[2] / 6), mode="wrap")
    smooth = smooth / np.abs(smooth).max() + 0.05 * rng.normal(size=smooth.shape)
    middle, reach = (low + high - 1) / 2, (high - 1 - low) / 2
    return np.clip(np.round(middle + reach * smooth), low, high - 1).astype(np.uint8)


def held(images: np.ndarray, *, labels: np.ndarray | None = None, seed: int = 0, spare: int = 0) -> Held:
    """All but `spare` images stand for generated ones, in no order of their own."""
    n = len(images) - spare
    rows = np.random.default_rng(1).permutation(len(images))
    train = drawn(images.shape[1:], 12, seed=99) if images[0].size < 10_000 else images[:2].copy()
    train_labels = None if labels is None else np.arange(len(train)) % (labels.max() + 1)
    return Held(
        images=ArrayImages(images, labels),
        fake=rows[:n],
        spare=rows[n:],
        train=ArrayImages(train, train_labels),
        train_rows=np.arange(0, len(train), 2),
        seed=seed,
    )


def make(name: str, source: Held, strength: float) -> np.ndarray:
    made = FAULTS.get(name)().make(source, strength)
    return made.gather(np.arange(len(made)))


def original(source: Held) -> np.ndarray:
    return source.images.gather(source.fake)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FAULTS.names())
def test_any_size_and_channels_the_same_in_any_batch_and_order(name, shape):
    """Kills: random numbers that depend on the place in a batch, another dtype or number of images, strengths that do not grow with the image."""
    n = 3 if shape == "large" else 12
    labels = np.arange(n) % 3
    source, fault = held(drawn(SHAPES[shape], n), labels=labels), FAULTS.get(name)()
    if (why := fault.why_not(source)) is not None:
        assert name == "colour_shift", why
        assert SHAPES[shape][0] == 1
        return
    strengths = fault.strengths(source)
    steps = np.abs(np.diff([fault.none, *strengths]))
    assert len(strengths) >= 2
    assert len(set(np.sign(np.diff([fault.none, *strengths])))) == 1, "from mild to strong"
    assert (steps > 0).all()
    made = fault.make(source, strengths[-1])
    whole = made.gather(np.arange(len(made)))
    assert whole.dtype == np.uint8
    assert whole.shape == (n, *SHAPES[shape])
    assert made.labels is not None
    assert len(made.labels) == n
    backwards = np.concatenate([made.gather(np.array([i])) for i in range(n)][::-1])
    assert np.array_equal(backwards[::-1], whole)
    assert np.array_equal(fault.make(source, strengths[-1]).gather(np.arange(n)), whole)
    if not fault.picks:
        assert not np.array_equal(whole, original(source))
        still = np.abs(make(name, source, strengths[0]).astype(int) - original(source)).mean()
        assert still < np.abs(whole.astype(int) - original(source)).mean(), "the stronger one changes more"


def test_every_fault_has_a_case_here():
    text = Path(__file__).read_text()
    assert [name for name in FAULTS.names() if f"def test_{name}" not in text] == []
    picks = [FAULTS.get(name).picks for name in in_order()]
    assert picks == sorted(picks)


def test_lengths_grow_with_the_images():
    strengths = {side: FAULTS.get("blur")().strengths(held(drawn((1, side, side), 2))) for side in (8, 32, 128)}
    assert strengths == {8: (0.5, 1.0, 2.0), 32: (0.5, 1.0, 2.0, 4.0), 128: (2.0, 4.0, 8.0, 16.0)}


def test_blur_is_scipys():
    """Kills: zeros beyond the rim, rows blurred twice and columns never, a variance for a standard deviation."""
    source = held(drawn((3, 21, 30), 4))
    expected = gaussian_filter(original(source).astype(np.float64), (0, 0, 1.3, 1.3))
    assert np.abs(make("blur", source, 1.3) - expected).max() <= 0.5 + 1e-3


def test_noise_is_uniform_and_mixed_in_by_its_share():
    source = held(drawn((1, 16, 16), 40))
    alone = make("noise", source, 1.0)
    assert kstest((alone.ravel() + 0.5) / 256, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(alone.ravel(), original(source).ravel())[0, 1]) < 0.05
    mixed = make("noise", source, 0.25)
    assert np.abs(mixed - (0.75 * original(source) + 0.25 * alone)).max() <= 0.5 + 0.25 / 2 + 1e-3  # the same noise in every strength
    assert not np.array_equal(make("noise", held(drawn((1, 16, 16), 40), seed=1), 1.0), alone)


def test_jpeg_is_pillows_and_leaves_opacity_alone():
    source = held(drawn((4, 24, 32), 3))
    made, images = make("jpeg", source, 10.0), original(source)
    for image, expected in zip(made, images, strict=True):
        stream = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(expected[:3].transpose(1, 2, 0))).save(stream, "jpeg", quality=10)
        assert np.array_equal(image[:3].transpose(1, 2, 0), np.asarray(Image.open(stream)))
    assert np.array_equal(made[:, 3], images[:, 3])


def test_colour_shift_moves_red_up_and_blue_down():
    source = held(drawn((4, 10, 10), 3))
    made, images = make("colour_shift", source, 24.0).astype(int), original(source).astype(int)
    assert np.array_equal(made[:, 0], np.minimum(images[:, 0] + 24, 255))
    assert np.array_equal(made[:, 2], np.maximum(images[:, 2] - 24, 0))
    assert np.array_equal(made[:, [1, 3]], images[:, [1, 3]])
    assert FAULTS.get("colour_shift")().why_not(held(drawn((1, 8, 8), 3))) == "grey images have no colour"


def test_checkerboard_turns_at_every_pixel():
    source = held(np.full((2, 1, 8, 10), 100, np.uint8))
    change = make("checkerboard", source, 24.0).astype(int) - 100
    assert set(np.unique(change)) == {-24, 24}
    assert (change[:, :, 1:] == -change[:, :, :-1]).all()
    assert (change[..., 1:] == -change[..., :-1]).all()
    wide = make("checkerboard", held(np.full((1, 1, 96, 96), 100, np.uint8)), 24.0)[0, 0].astype(int) - 100
    assert (wide[:3, :3] == wide[0, 0]).all()  # a 32nd of 96 pixels
    assert wide[0, 3] == wide[3, 0] == -wide[0, 0]


def test_phase_scrambling_keeps_the_spectrum_and_moves_its_share_of_phases():
    """Kills: phases of every channel drawn apart, a spectrum that is no real image's (its imaginary part dropped), the mean moved."""
    source = held(drawn((3, 32, 27), 5, low=90, high=166))  # of little contrast, so that nothing is cut at 0 or 255
    before = np.fft.fft2(original(source).astype(np.float64))
    for share in (0.25, 0.5, 1.0):
        made = make("phase_scrambling", source, share)
        assert 0 < made.min() < made.max() < 255
        after = np.fft.fft2(made.astype(np.float64))
        strong = np.abs(before) > 60  # rounding to uint8 adds white noise of amplitude sqrt(32 * 27 / 12) = 8.5
        assert np.median(np.abs(np.abs(after) / np.abs(before) - 1)[strong]) < 0.08
        np.testing.assert_allclose(after[..., 0, 0].real, before[..., 0, 0].real, rtol=0.01)
        turned = np.abs(np.angle(after / before)) > 0.5
        turned[..., 0, 0] = False
        assert turned[strong].mean() == pytest.approx(share * 0.84, abs=0.15)  # 0.5 rad or less is turned in 16 % of draws
        relative = np.angle(after[:, 0] / after[:, 1] * np.conj(before[:, 0] / before[:, 1]))  # channels turn together
        assert np.median(np.abs(relative)[strong[:, 0] & strong[:, 1]]) < 0.2


def test_shuffled_patches_are_the_same_patches():
    """Kills: a patch lost or shown twice, patches that stay, another number of them, a rim that moves."""
    images = drawn((3, 34, 33), 6)
    source = held(images)
    for share in (0.25, 0.5, 1.0):
        for image, before in zip(make("shuffled_patches", source, share), original(source), strict=True):
            now, then = ([patch.tobytes() for patch in cut(each)] for each in (image, before))
            assert Counter(now) == Counter(then)
            assert sum(a != b for a, b in zip(now, then, strict=True)) == share * PATCHES**2
            assert np.array_equal(image[:, 32:], before[:, 32:])
            assert np.array_equal(image[:, :, 32:], before[:, :, 32:])
    assert FAULTS.get("shuffled_patches")().why_not(held(drawn((1, 3, 9), 3))) is not None


def test_dropped_class_has_no_image_of_it():
    labels = np.repeat([0, 1, 2, 3, 4], [10, 40, 20, 10, 10])
    source = held(drawn((1, 8, 8), 90), labels=labels, spare=30)
    fault = FAULTS.get("dropped_class")()
    assert fault.strengths(source) == (1.0, 2.0)
    for strength, gone in ((1.0, {1}), (2.0, {1, 2})):
        made = fault.make(source, strength)
        assert len(made) == len(source.fake)
        assert made.labels is not None
        assert set(made.labels) == {0, 1, 2, 3, 4} - gone
        assert set(made.rows) <= {*source.fake, *source.spare}  # never of the real side
    one = fault.make(source, 1.0)
    assert max(Counter(one.rows.tolist()).values()) <= 2
    assert fault.why_not(held(drawn((1, 8, 8), 9))) == "the images have no classes"
    assert fault.why_not(held(drawn((1, 8, 8), 9), labels=np.zeros(9, np.int64))) == "the held-out images have 1 class"


def test_one_mode_is_one_class_or_one_cluster():
    labels = np.repeat([0, 1, 2], [10, 40, 20])
    source, fault = held(drawn((1, 8, 8), 70), labels=labels), FAULTS.get("one_mode")()
    assert set(fault.make(source, 1.0).labels) == {1}
    half = fault.make(source, 0.5)
    assert (half.labels[35:] == 1).all()
    assert np.array_equal(half.rows[:35], source.fake[35:])
    images = drawn((1, 12, 12), 40)
    images[10:14] = 200 + np.arange(4, dtype=np.uint8)[:, None, None, None]  # four of forty are almost the same
    unlabelled = held(images)
    assert set(fault.make(unlabelled, 1.0).rows) == {10, 11, 12, 13}


def test_train_duplicates_are_training_images():
    source = held(drawn((1, 8, 8), 20))
    known = {image.tobytes() for image in source.train.gather(source.train_rows)}
    for strength in FAULTS.get("train_duplicates")().strengths(source):
        made = make("train_duplicates", source, strength)
        assert sum(image.tobytes() in known for image in made) == round(20 * strength)
