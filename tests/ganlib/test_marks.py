"""The mark in the pixels: found where it was put, and the p-value is one."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from ganlib.marks import detection, embedding, pixels
from ganlib.marks.settings import MarksConfig
from ganlib.rng import keyed_rng

STRENGTH = MarksConfig.model_validate({}).strength


def textures(count: int, size: int, *, channels: int = 1, alike: float = 0.0, seed: int = 0) -> np.ndarray:
    """[count, channels, size, size] uint8 with the spectrum of photographs (amplitudes fall as 1/f: Field 1987, JOSA A 4(12)).

    Args:
        alike: share of the variance that all have in common.
    """
    rng = keyed_rng(seed, "textures")
    k = torch.arange(size, dtype=torch.float32)
    amplitude = 1 / torch.hypot(k[:, None], k[None]).clamp(min=1)
    own, common = (torch.randn(n, size, size, generator=rng) for n in (count, 1))
    waves = embedding.basis(size, size)
    drawn = waves.T @ (((1 - alike) ** 0.5 * own + alike**0.5 * common) * amplitude) @ waves
    grey = (drawn / drawn.std() * 40 + 128).round().clamp(0, 255).to(torch.uint8)[:, None].numpy()
    return np.repeat(grey, channels, axis=1)


def each(images: np.ndarray, change) -> np.ndarray:
    changed = [np.asarray(change(Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)))) for image in images]
    return np.stack([image[None] if image.ndim == 2 else image.transpose(2, 0, 1) for image in changed])


def jpeg(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "jpeg", quality=75)
    return Image.open(stream)


def half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def score(images: np.ndarray, key: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores as they are, and the correlations of what they are of."""
    count = embedding.frequencies(*images.shape[2:])
    waves, ring = embedding.basis(images.shape[2], count), embedding.band(count)
    coefficients = waves @ embedding.luma(images) @ waves.T * ring
    whitened = torch.nn.functional.normalize((coefficients / embedding.spread(coefficients, ring).sqrt()).flatten(1), dim=1)
    return (whitened @ pixels.patterns(key)[:, :count, :count].flatten(1).T).amax(dim=1), whitened @ whitened.T


@pytest.mark.parametrize("alike", [0.0, 0.5, 0.98])
def test_p_values_are_uniform_over_keys(alike: float) -> None:
    """Of one image and of a batch, however alike. Kills: a batch of alike images counted as independent ones, a p-value of one pattern of 64."""
    images = textures(16, 28, alike=alike)
    alone, together = [], []
    for number in range(400):
        scores, likeness = score(images, f"key {number}")
        alone.append(detection.p_value(scores[:1], torch.ones(1, 1)))
        together.append(detection.p_value(scores, likeness))
    for found in (alone, together):
        assert stats.kstest(found, "uniform").pvalue > 0.001
        assert np.mean(np.array(found) < 0.05) < 0.085


@pytest.mark.parametrize("size", [25, 28])  # which may be 28 cropped; which is no crop of a usual size
def test_false_alarms_are_no_more_than_said(size: int) -> None:
    """The whole search, over keys. Kills: a p-value that is not corrected for the places that were tried, certainty where none was."""
    images = textures(8, size)
    found = [detection.detect(images, key=f"key {number}") for number in range(150)]
    alone = np.array([one.p_value for each_alone, _ in found for one in each_alone])
    together = np.array([both.p_value for _, both in found])
    assert np.mean(alone < 0.05) <= 0.07  # of 1,200 and of 150, which vary by chance
    assert np.mean(together < 0.05) <= 0.1
    assert alone.min() > 1e-5


def test_constants_of_the_null() -> None:
    """Against draws. Kills: a typing error in a moment or in the series, one of another number of patterns."""
    rng = keyed_rng(0, "null")
    for r in (0.0, 0.5, 0.8, 1.0):
        a = torch.randn(60_000, embedding.PATTERNS, generator=rng)
        b = r * a + (1 - r * r) ** 0.5 * torch.randn(a.shape, generator=rng)
        one, other = a.amax(dim=1).double(), b.amax(dim=1).double()
        assert float(one.mean()) == pytest.approx(detection.MEAN, abs=0.01)
        expected = sum(weight * r**power for power, weight in detection.COVARIANCE.items())
        assert float(((one - detection.MEAN) * (other - detection.MEAN)).mean()) == pytest.approx(expected, abs=0.006)
    assert sum(detection.COVARIANCE.values()) == pytest.approx(detection.VARIANCE, abs=1e-4)
    assert float(stats.skew(one.numpy())) == pytest.approx(detection.SKEWNESS, abs=0.06)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("change", "place"),
    [(None, "as it is"), (jpeg, "as it is"), (half, "half size"), ("crop", "cropped")],
    ids=["as it is", "jpeg", "half", "crop"],
)
def test_a_mark_is_found_after_what_images_go_through(channels: int, change, place: str) -> None:
    """Kills: a mark in frequencies that are gone at half size, of pixels instead of the image, of one colour; a search without crops."""
    marked = pixels.embed(textures(16, 64, channels=channels), key="ours", strength=STRENGTH)
    went = marked[:, :, 1:59, 3:61] if change == "crop" else marked if change is None else each(marked, change)
    _, together = detection.detect(went, key="ours")
    assert together.p_value < 1e-3
    assert together.place.startswith(place)
    _, others = detection.detect(went, key="theirs")
    assert others.p_value > 1e-3


def test_one_image_alone_is_found_where_it_is_large() -> None:
    marked = pixels.embed(textures(4, 256), key="ours", strength=STRENGTH)
    alone, _ = detection.detect(each(marked, jpeg), key="ours", crops=False)
    assert max(found.p_value for found in alone) < 1e-3


def test_the_mark_is_as_strong_as_asked_and_leaves_alpha_alone() -> None:
    """Kills: a strength that is a peak or depends on the picture, and marks in what is no colour."""
    images = np.concatenate([textures(4, 32, channels=3) // 2 + 60, textures(4, 32, seed=1)], axis=1)
    marked = pixels.embed(images, key="ours", strength=2.0)
    added = marked.astype(float) - images
    assert np.sqrt((added[:, :3] ** 2).mean(axis=(1, 2, 3))) == pytest.approx(2.0, rel=0.06)
    assert not added[:, 3].any()
    assert np.array_equal(added[:, 0], added[:, 1])
    assert np.array_equal(marked, pixels.embed(images, key="ours", strength=2.0))
    alone = np.concatenate([pixels.embed(image[None], key="ours", strength=2.0) for image in images])
    assert np.mean(alone != marked) < 1e-3  # the same alone and in a batch, but for sums of floats on the edge of a level


def slowly(image: np.ndarray, patterns: np.ndarray, strength: float) -> np.ndarray:
    """One image [C, H, W] with its mark before rounding, as the module's docstring defines it: sums in float64, one frequency after another."""
    height, width = image.shape[1:]
    colours = image[:3].astype(float)
    luma = 0.299 * colours[0] + 0.587 * colours[1] + 0.114 * colours[2] if len(image) in (3, 4) else colours.mean(axis=0)
    count = min(64, int(0.46 * min(height, width)))

    def wave(k: int, size: int) -> np.ndarray:
        return np.cos(np.pi * k * (np.arange(size) + 0.5) / size) * np.sqrt((2 if k else 1) / size)

    waves = {(i, j): np.outer(wave(i, height), wave(j, width)) for i in range(count) for j in range(count) if 2 <= np.hypot(i, j) < count}
    found = {place: float((luma * waves[place]).sum()) for place in waves}
    hides = {}
    for i, j in waves:
        near = [found[i + a, j + b] ** 2 for a in range(-2, 3) for b in range(-2, 3) if (i + a, j + b) in waves]
        hides[i, j] = np.sqrt(np.mean(near) + 2)
    likeness = [sum(found[place] / hides[place] * pattern[place] for place in waves) for pattern in patterns]
    chosen = patterns[int(np.argmax(likeness))]
    added = sum(chosen[place] / np.sqrt(hides[place]) * waves[place] for place in waves)
    is_marked = (colours > 0) & (colours < 255)
    share = is_marked.mean()
    mark = added * (np.ones_like(colours) if share < 1 / 16 else is_marked)
    loudness = 1.0 if share < 1 / 16 else min(1.0, 2 * np.sqrt(share))
    return np.concatenate([colours + mark * strength * loudness / np.sqrt((mark**2).mean()), image[3:]]).clip(0, 255)


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 20, 33), (4, 25, 17), (2, 16, 16)])
def test_marks_are_those_of_the_definition(channels: int, height: int, width: int) -> None:
    """Against direct loops, but for sums on the edge of a level, images much or all black or white and images that are views among them.

    Kills: a way to be faster that marks otherwise.
    """
    images = np.concatenate([textures(8, max(height, width), seed=seed)[:, :, :height, :width] for seed in range(channels)], axis=1)
    images[0] = np.where(images[0] > 128, 255, 0)
    images[1, :, : height // 2] = 0
    images[2:4, :1] //= 2
    images[4, :, : height - 2] = 255
    given, of_a_key = images.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2), pixels.patterns("ours")
    given.flags.writeable = False
    marked = pixels.embed(given, key="ours", strength=3.0)
    for image, found in zip(images, marked, strict=True):
        expected = slowly(image, of_a_key.numpy().astype(float), 3.0)
        assert np.abs(found - expected).max() <= 0.501
    assert np.array_equal(given, images)


def test_black_and_white_stay() -> None:
    """The mark lies in the rest, a pixel no louder than twice its strength. Kills: a black background with grey grains, which is what cost FID."""
    images = np.maximum(textures(64, 28), 120) - 120
    images[:, :, :2] = 255
    marked = pixels.embed(images, key="ours", strength=2.0)
    is_bare = (images == 0) | (images == 255)
    assert np.array_equal(marked[is_bare], images[is_bare])
    added = marked.astype(float) - images
    assert np.sqrt((added**2).mean(axis=(1, 2, 3))) == pytest.approx(2.0, rel=0.1)
    _, together = detection.detect(marked, key="ours", crops=False)
    assert together.p_value < 1e-3
    images[:, :, :, 8:] = 0
    loud = pixels.embed(images, key="ours", strength=2.0).astype(float) - images
    assert np.sqrt((loud[(images > 0) & (images < 255)] ** 2).mean()) == pytest.approx(4.0, rel=0.06)


@pytest.mark.parametrize("grey_rows", [0, 1])
def test_an_image_of_black_and_white_is_marked_all_the_same(grey_rows: int) -> None:
    """Also with a row of grey. Kills: a mark that is nowhere, without a word, in drawings and digits, or in their few grey pixels."""
    images = np.where(textures(64, 28) > 128, 255, 0).astype(np.uint8)
    images[:, :, 14 : 14 + grey_rows] = 100
    _, together = detection.detect(pixels.embed(images, key="ours", strength=4.0), key="ours", crops=False)
    assert together.p_value < 1e-3


def test_flat_and_small_images() -> None:
    flat = np.zeros((3, 1, 32, 32), np.uint8)
    alone, together = detection.detect(flat, key="ours")
    assert {found.p_value for found in [*alone, together]} == {1.0}
    with pytest.raises(ValueError, match=r"images of 8x8 are too small for a mark in the pixels: expected 16 pixels"):
        pixels.embed(np.zeros((1, 1, 8, 8), np.uint8), key="ours", strength=1.0)
    with pytest.raises(ValueError, match="too small to look for a mark"):
        detection.detect(np.zeros((1, 1, 5, 5), np.uint8), key="ours")


FOUND = {  # size -> what it went through -> share of images found alone, of batches of 64, at p < 0.001: docs/marks.md has these figures
    28: {"as it is": (0.03, 1.0), "JPEG 75": (0.03, 1.0), "half size": (0.03, 1.0), "10 % crop": (0.0, 1.0)},
    64: {"as it is": (1.0, 1.0), "JPEG 75": (1.0, 1.0), "half size": (0.99, 1.0), "10 % crop": (0.07, 1.0)},
    256: {"as it is": (1.0, 1.0), "JPEG 75": (1.0, 1.0), "half size": (1.0, 1.0), "10 % crop": (1.0, 1.0)},
}


@pytest.mark.parametrize("size", [28, 64, pytest.param(256, marks=pytest.mark.slow)])
def test_shares_that_the_docs_promise(size: int) -> None:
    """On textures with the spectrum of photographs. Kills: a weaker mark or a blinder search that nobody notices."""
    marked = pixels.embed(textures(64 if size == 256 else 256, size), key="ours", strength=STRENGTH)
    cut, start = round(0.9 * size), round(0.05 * size)
    went = {
        "as it is": marked,
        "JPEG 75": each(marked, jpeg),
        "half size": each(marked, half),
        "10 % crop": marked[:, :, start : start + cut, start // 2 : start // 2 + cut],
    }
    for name, images in went.items():
        found = [detection.detect(images[i : i + 64], key="ours", crops="crop" in name) for i in range(0, len(images), 64)]
        alone = np.mean([one.p_value < 1e-3 for many, _ in found for one in many])
        together = np.mean([both.p_value < 1e-3 for _, both in found])
        assert alone == pytest.approx(FOUND[size][name][0], abs=0.05), name
        assert together == pytest.approx(FOUND[size][name][1], abs=0.25), name
