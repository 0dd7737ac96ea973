"""Real against real: halves that share no image, an interval that holds a further draw, and nothing that is mixed up on the way."""

import numpy as np
import pytest
import torch

from ganlib.metrics import METRICS, needs
from ganlib.metrics.interface import ArrayImages, Comparison, PixelComparison
from ganlib.metrics.null import halves, null, spread, summary
from ganlib.metrics.settings import EvaluateConfig
from ganlib.rng import keyed_rng

CONFIG = EvaluateConfig(seed=3, prdc_images=200, neighbours=3, bootstrap=5, null_draws=4)


def compared(n: int, *, shift: float = 0.0) -> Comparison:
    def drawn(name: str, count: int) -> torch.Tensor:
        return torch.randn(count, 4, generator=keyed_rng(0, name))

    classes = {"real_classes": np.arange(n) % 3, "fake_classes": np.arange(60) % 3, "num_classes": 3}
    return Comparison(real=drawn("real", n), fake=drawn("fake", 60) + shift, train=drawn("train", 150), **classes)


@pytest.mark.parametrize("n", [10, 11])
def test_halves_share_nothing_and_differ_by_draw(n):
    drawn = [halves(n, draw, seed=0) for draw in range(3)]
    for first, second in drawn:
        assert len(first) == len(second) == 5
        assert len(np.union1d(first, second)) == 10
    assert len({tuple(first) for first, _ in drawn}) == 3
    assert all(np.array_equal(a, b) for a, b in zip(halves(n, 1, seed=0), drawn[1], strict=True))


@pytest.mark.parametrize(("name", "keys"), [("fid", ["fid"]), ("kid", ["kid"]), ("prdc", ["precision", "recall", "density", "coverage"])])
def test_fresh_real_images_lie_within_the_null(name, keys):
    """Of 80 sets of real images that no half has seen, as many as a half has. Kills a null of the mean, and one of one draw's bootstrap."""
    config = CONFIG.model_copy(update={"null_draws": 5})
    inside = {key: [] for key in keys}
    for trial in range(80):
        real, fresh, train = (
            torch.randn(n, 4, generator=keyed_rng(trial, part)) for part, n in (("real", 120), ("fresh", 60), ("train", 10))
        )
        found = null(METRICS.get(name), Comparison(real=real, fake=fresh, train=train), config)
        values = METRICS.get(name)(Comparison(real=real[:60], fake=fresh, train=train), config)
        for key in keys:
            inside[key].append(found[key]["low"] <= values[key] <= found[key]["high"])
    assert all(np.mean(each) >= 0.87 for each in inside.values()), {key: np.mean(each) for key, each in inside.items()}


def test_the_spread_holds_a_further_draw_in_95_of_100():
    """Kills 1.96 standard deviations, which five draws make 84 of 100, and the interval of the mean, which is narrower still."""
    draws = np.random.default_rng(0).normal(2.0, 3.0, (4000, 6))
    inside = [abs(row[5] - row[:5].mean()) <= spread(row[:5]) for row in draws]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.012)


def test_parts_are_what_a_fresh_search_finds():
    """Kills: classes or distances to training images of the other half."""
    data = compared(40)
    first, second = halves(40, 0, seed=0)
    alone = data.parts(first, second)
    _ = data.real_to_train  # from now on it is known
    sliced = data.parts(first, second)
    assert torch.equal(alone.real, data.real[torch.from_numpy(first)])
    assert torch.equal(alone.fake, data.real[torch.from_numpy(second)])
    assert "fake_to_train" in sliced.__dict__
    for name in ("fake_to_train", "real_to_train"):
        for a, b in zip(getattr(alone, name), getattr(sliced, name), strict=True):
            assert torch.equal(a, b)
    assert np.array_equal(alone.fake_classes, data.real_classes[second])
    assert alone.fake_labels is None


def test_the_null_of_kid_is_about_zero_and_a_shifted_generator_lies_outside():
    data = compared(400, shift=0.6)
    found = null(METRICS.get("kid"), data, CONFIG)["kid"]
    assert (found["draws"], found["images"]) == (4, 200)
    assert found["low"] < 0 < found["high"]
    assert METRICS.get("kid")(data, CONFIG)["kid"] > 2 * found["high"]


def test_a_share_stays_one_and_too_few_images_have_no_null():
    value = needs.Value(key="x", title="X", meaning="X.", better="higher", is_share=True)
    found = summary(value, [{"x": 0.99}, {"x": 1.0}])
    assert found["high"] == 1.0
    assert found["mean"] == pytest.approx(0.995)
    assert null(METRICS.get("kid"), compared(18), CONFIG) == {}  # halves of 9; it needs 10
    assert null(METRICS.get("fid"), compared(18), CONFIG.model_copy(update={"null_draws": 0})) == {}


def test_a_distance_that_cannot_be_negative_has_no_interval_below_zero():
    """Two draws of FID far apart. Kills an interval from -5, and one of KID, whose estimate is negative half the time, that is cut."""
    for key, low in (("fid", 0.0), ("swd", 0.0), ("kid", pytest.approx(0.5 - spread([0.0, 1.0])))):
        value = needs.value_of(key)
        assert value is not None
        assert summary(value, [{key: 0.0}, {key: 1.0}])["low"] == low


def test_the_pixels_of_a_null_are_held_out_images_alone():
    images = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8)).astype(np.uint8)
    data = PixelComparison(real=ArrayImages(images), fake=ArrayImages(np.zeros_like(images)), real_indices=np.arange(10, 30))
    first, second = halves(data.num_real, 0, seed=0)
    parts = data.parts(first, second)
    seen = np.concatenate([parts.drawn(side, 10, seed=0) for side in parts.SIDES])
    assert {image.tobytes() for image in seen} == {image.tobytes() for image in images[10:]}
