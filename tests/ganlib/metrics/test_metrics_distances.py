"""FID, KID, PRDC and memorisation against closed forms, slow loops and an independent implementation."""

import math
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ganlib.metrics import METRICS, interface, intervals, needs
from ganlib.metrics.fid import fid, frechet_distance, moments
from ganlib.metrics.interface import Comparison
from ganlib.metrics.kid import kid, weighted_mmd
from ganlib.metrics.memorization import mann_whitney, memorization, nearest_pairs
from ganlib.metrics.neighbours import kth_neighbour_distance, kth_smallest, nearest
from ganlib.metrics.prdc import membership, prdc
from ganlib.metrics.settings import EvaluateConfig
from ganlib.rng import keyed_rng

CONFIG = EvaluateConfig(split="test", seed=3, prdc_images=200, neighbours=3, bootstrap=5)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The tensors are tiny: threads that wait for each other on a busy machine take longer than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def normal(n: int, d: int, name: str, *, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    return torch.randn(n, d, generator=keyed_rng(0, name)) * scale + shift


def compare(real: Tensor, fake: Tensor, train: Tensor | None = None) -> Comparison:
    return Comparison(real=real, fake=fake, train=real if train is None else train)


def test_frechet_distance_of_gaussians_in_closed_form() -> None:
    """Diagonal covariances commute: |m1 - m2|^2 + sum (s1 - s2)^2 = 9 + 16 + (1 - 3)^2 + (2 - 5)^2."""
    one = (torch.tensor([0.0, 0.0]).double(), torch.diag(torch.tensor([1.0, 4.0]).double()))
    two = (torch.tensor([3.0, 4.0]).double(), torch.diag(torch.tensor([9.0, 25.0]).double()))
    assert frechet_distance(one, two) == pytest.approx(9 + 16 + 4 + 9, rel=1e-12)


def test_frechet_distance_is_symmetric_where_covariances_do_not_commute() -> None:
    one, two = moments(normal(50, 4, "a")), moments(normal(50, 4, "b") @ normal(4, 4, "mix"))
    assert frechet_distance(one, two) == pytest.approx(frechet_distance(two, one), rel=1e-9)


def test_fid_of_a_set_with_itself_is_zero_even_when_covariance_has_no_full_rank() -> None:
    x = normal(6, 10, "x")
    assert frechet_distance(moments(x), moments(x)) == pytest.approx(0, abs=1e-9)


def test_weighted_moments_are_those_of_the_repeated_rows() -> None:
    x, times = normal(5, 3, "x"), torch.tensor([2, 0, 1, 3, 1])
    for got, expected in zip(moments(x, times.double()), moments(x.repeat_interleave(times, 0)), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


class Flat(nn.Module):
    """Features for torchmetrics: the pixels."""

    num_features = 12

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).double()


def test_fid_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    real, fake = (torch.randint(low, 256, (64, 3, 2, 2), generator=keyed_rng(0, str(low)), dtype=torch.uint8) for low in (0, 60))
    theirs = FrechetInceptionDistance(feature=Flat(), input_img_size=(3, 2, 2)).set_dtype(torch.float64)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    ours = fid(compare(real.flatten(1).float(), fake.flatten(1).float()), CONFIG)["fid"]
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-6)


def test_kid_agrees_with_a_slow_loop() -> None:
    real, fake = normal(7, 3, "r").double(), normal(5, 3, "f", shift=0.5).double()

    def k(x: Tensor, y: Tensor) -> float:
        return float((x @ y / 3 + 1) ** 3)

    slow = (
        sum(k(real[i], real[j]) for i in range(7) for j in range(7) if i != j) / (7 * 6)
        + sum(k(fake[i], fake[j]) for i in range(5) for j in range(5) if i != j) / (5 * 4)
        - 2 * sum(k(x, y) for x in real for y in fake) / 35
    )
    for chunk_rows in (2, 100):
        weights = torch.tensor([[1, 1, 1, 1, 1], [2, 0, 3, 1, 0]]).double()
        values = weighted_mmd(real, fake, weights, chunk_rows=chunk_rows)
        assert float(values[0]) == pytest.approx(slow, rel=1e-10)
        w = weights[1]
        pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
        resampled = (
            sum(k(real[i], real[j]) for i in range(7) for j in range(7) if i != j) / (7 * 6)
            + sum(float(w[i] * w[j]) * k(fake[i], fake[j]) for i, j in pairs) / sum(float(w[i] * w[j]) for i, j in pairs)
            - 2 * sum(float(w[j]) * k(x, fake[j]) for x in real for j in range(5)) / (7 * float(w.sum()))
        )
        assert float(values[1]) == pytest.approx(resampled, rel=1e-10)


def test_kid_by_hand() -> None:
    """d = 1, real {0, 1}, fake {2, 3}: k(0, 1) = 1, k(2, 3) = 343, cross (1 + 1 + 27 + 64) / 4."""
    value = weighted_mmd(torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[2.0], [3.0]]).double(), torch.ones(1, 2).double())
    assert float(value) == pytest.approx(1 + 343 - 2 * 93 / 4)


def test_kid_is_unbiased_where_the_diagonal_would_show() -> None:
    values = [kid(compare(normal(40, 8, f"r{i}"), normal(40, 8, f"f{i}")), CONFIG)["kid"] for i in range(200)]
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert error < 0.02  # the biased estimate is about 0.3 here


@pytest.mark.parametrize("name", ["fid", "kid"])
def test_intervals_hold_the_value_and_widen_with_fewer_fakes(name: str) -> None:
    real = normal(2000, 4, "real")
    widths = []
    for n in (100, 2000):
        result = METRICS.get(name)(compare(real, normal(n, 4, "fake", shift=0.3)), EvaluateConfig(bootstrap=20))
        assert result[f"{name}_low"] < result[name] < result[f"{name}_high"]
        widths.append(result[f"{name}_high"] - result[f"{name}_low"])
    assert widths[0] > 2 * widths[1]


def slow_membership(real: Tensor, fake: Tensor, k: int) -> tuple[float, float, float, float]:
    def radius(x: Tensor, points: Tensor) -> float:
        return sorted(float((x - y).norm()) for y in points)[k]  # [0] is x itself

    def distance(a: Tensor, b: Tensor) -> float:
        return float((a - b).norm())

    real_radii, fake_radii = [radius(x, real) for x in real], [radius(y, fake) for y in fake]
    inside = [[distance(x, y) <= r for x, r in zip(real, real_radii, strict=True)] for y in fake]
    precision = np.mean([any(row) for row in inside])
    density = np.sum(inside) / (k * len(fake))
    recall = np.mean([any(distance(x, y) <= r for y, r in zip(fake, fake_radii, strict=True)) for x in real])
    coverage = np.mean([min(distance(x, y) for y in fake) <= r for x, r in zip(real, real_radii, strict=True)])
    return float(precision), float(recall), float(density), float(coverage)


@pytest.mark.parametrize("chunk_rows", [7, 1000])
def test_prdc_agrees_with_a_slow_loop(chunk_rows: int) -> None:
    real, fake = normal(40, 3, "r").double(), normal(50, 3, "f", shift=0.7, scale=0.8).double()
    found = membership(real, fake, 3, chunk_rows=chunk_rows)
    parts = (found.fake_is_real, found.real_is_fake, found.fake_density, found.real_is_covered)
    expected = slow_membership(real, fake, 3)
    assert len(set(expected)) == 4  # four different numbers, so that swapping any two shows
    assert [float(part.double().mean()) for part in parts] == pytest.approx(list(expected), abs=1e-12)


def test_dropped_mode_costs_recall_and_not_precision() -> None:
    real = torch.cat([normal(100, 4, "left", shift=-20), normal(100, 4, "right", shift=20)])
    result = prdc(compare(real, real[:100].repeat(2, 1) + normal(200, 4, "noise", scale=0.01)), CONFIG)
    assert result["precision"] > 0.97
    assert result["recall"] < 0.55
    assert result["coverage"] < 0.55


def test_noise_costs_precision() -> None:
    real = normal(200, 4, "real")
    result = prdc(compare(real, torch.cat([real[:100], normal(100, 4, "far", shift=50)])), CONFIG)
    assert result["precision"] == pytest.approx(0.5)


def test_prdc_with_too_few_images_names_the_setting() -> None:
    with pytest.raises(ValueError, match=r"evaluate\.neighbours=3 needs at least 4 images.*got 3"):
        prdc(compare(normal(3, 2, "a"), normal(3, 2, "b")), CONFIG)


def test_nearest_agrees_with_cdist_for_every_chunk_size() -> None:
    x, y = normal(33, 5, "x", shift=100), normal(47, 5, "y", shift=100)
    y[11] = x[4]
    distance, index = torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
    for chunk_rows in (1, 10, 1000):
        found, where = nearest(x, y, chunk_rows=chunk_rows)
        assert torch.equal(where, index)
        torch.testing.assert_close(found, distance, rtol=1e-10, atol=1e-10)
        assert found[4] == 0
    squares = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist").sort(dim=1).values[:, 2] ** 2
    torch.testing.assert_close(kth_neighbour_distance(x.double(), 2, chunk_rows=10), squares, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("m", "k"), [(7, 3), (160, 3), (173, 5), (173, 1)])
def test_the_kth_smallest_is_that_of_the_sorted_row(m: int, k: int) -> None:
    """With ties, and the smallest in one group. Kills: the columns that fill no group forgotten."""
    values = torch.cat([normal(4, m, "v"), normal(4, m, "w").round(), torch.arange(m).flip(0).float().repeat(2, 1)])
    assert torch.equal(kth_smallest(values, k), values.sort(dim=1).values[:, k - 1])


def test_mann_whitney_agrees_with_scipy() -> None:
    from scipy.stats import mannwhitneyu, norm

    x, y = np.array([1.0, 2.0, 2.0, 5.0, 7.0]), np.array([2.0, 3.0, 4.0, 8.0, 9.0, 10.0])
    theirs = mannwhitneyu(x, y, use_continuity=False, method="asymptotic")
    probability, z = mann_whitney(x, y)
    assert probability == pytest.approx(theirs.statistic / 30)
    assert 2 * norm.sf(abs(z)) == pytest.approx(theirs.pvalue)
    assert z < 0


def test_memorization_finds_copies() -> None:
    train, real = normal(500, 6, "train"), normal(400, 6, "real")
    honest = memorization(compare(real, normal(400, 6, "fake"), train), CONFIG)
    copies = torch.cat([train[:100] + 1e-4, normal(300, 6, "other")])
    copied = memorization(compare(real, copies, train), CONFIG)
    assert honest["memorized_share"] < 0.04
    assert 0.45 < honest["copying_probability"] < 0.55
    assert abs(honest["copying_z"]) < 3
    assert 0.24 < copied["memorized_share"] < 0.29
    assert copied["copying_z"] < -5
    fakes, nearest_train, distance = nearest_pairs(compare(real, copies, train), 100)
    assert torch.equal(fakes.sort().values, torch.arange(100))
    assert torch.equal(nearest_train, fakes)
    assert bool((distance.diff() >= 0).all())


def test_the_interval_of_a_median_is_scipys_and_holds_the_true_one() -> None:
    """Kills: the quartiles, a rank too few at either end (one of them holds the median of 60 draws less often than 95 %)."""
    draws = normal(2000, 61, "median").exp()  # nothing like a normal distribution; the median is 1
    inside = []
    for row in draws:
        low, high = intervals.median_ends(row.tolist())
        expected = stats.quantile_test(row.numpy(), q=1.0, p=0.5).confidence_interval(0.95)
        assert (low, high) == pytest.approx(tuple(expected))
        inside.append(low <= 1.0 <= high)
    assert 0.95 <= np.mean(inside) < 0.985
    assert intervals.median_ends([3.0, 1.0, 2.0]) == (1.0, 3.0)


def test_the_nearest_training_image_has_an_interval() -> None:
    """Kills the ends of the real images at the fakes' median."""
    train, real, fake = normal(200, 4, "train"), normal(300, 4, "real"), normal(300, 4, "fake") * 2
    found = memorization(compare(real, fake, train), CONFIG)
    for key, images in (("nearest_train_distance", fake), ("nearest_train_distance_real", real)):
        low, high = intervals.median_ends(torch.cdist(images.double(), train.double()).min(dim=1).values.tolist())
        assert (found[f"{key}_low"], found[f"{key}_high"]) == pytest.approx((low, high), rel=1e-5)
        assert low < found[key] < high


def test_memorization_where_real_images_are_copies_too() -> None:
    """Duplicates between the splits put the threshold at 0; a copy must still count."""
    train = normal(50, 3, "train")
    result = memorization(compare(train[:40], torch.cat([train[:10], normal(30, 3, "f")]), train), CONFIG)
    assert result["memorized_share"] == pytest.approx(0.25)


def test_class_coverage_sees_a_missing_class() -> None:
    measure = METRICS.get("class_coverage")
    x = normal(40, 2, "x")
    classes = np.arange(40) % 4
    whole = Comparison(real=x, fake=x, train=x, real_classes=classes, fake_classes=classes, num_classes=4)
    found = measure(whole, CONFIG)
    expected = {"class_coverage": 1.0, "class_kl": pytest.approx(0, abs=1e-12), "smallest_class_share": 0.25}
    assert {key: found[key] for key in expected} == expected
    assert found["smallest_class_share_low"] < 0.2  # of 40 images
    fake_classes = np.where(classes == 3, 0, classes)
    labels = np.zeros(40, np.int64)
    partial = Comparison(real=x, fake=x, train=x, real_classes=classes, fake_classes=fake_classes, fake_labels=labels, num_classes=4)
    result = measure(partial, CONFIG)
    assert result["class_coverage"] == 0.75
    p, q = np.array([20.5, 10.5, 10.5, 0.5]) / 42, np.full(4, 0.25)
    assert result["class_kl"] == pytest.approx(float((p * np.log(p / q)).sum()))
    assert result["label_agreement"] == 0.5
    with pytest.raises(ValueError, match=r"reference\.extractor=classifier"):
        measure(compare(x, x), CONFIG)


def test_a_class_without_training_images_does_not_count() -> None:
    """An extractor's output for a class that it never saw is no class. Kills the mutant that adds half an image to it, or lets it win."""
    features = normal(40, 2, "x")

    class Certain:
        def class_logits(self, features: Tensor) -> Tensor:
            return torch.tensor([9.0, 1.0, 0.0]).repeat(len(features), 1) + torch.eye(3)[torch.arange(len(features)) % 2 + 1] * 5

    classes = interface.predicted_classes(Certain(), features, features[:20], (0, 3, 3))  # type: ignore[arg-type]
    assert set(classes["fake_classes"]) == {1, 2}
    fake = np.array([1] * 15 + [2] * 5)
    data = Comparison(real=features, fake=features[:20], train=features, **classes | {"fake_classes": fake})
    p, q = np.array([15.5, 5.5]) / 21, np.full(2, 0.5)
    assert METRICS.get("class_coverage")(data, CONFIG)["class_kl"] == pytest.approx(float((p * np.log(p / q)).sum()))


@pytest.mark.parametrize(
    "entry",
    [e for e in METRICS if not (needs.of(e.value).pixels or needs.of(e.value).reads_networks)],
    ids=lambda entry: entry.name,
)
def test_every_metric_of_features_is_finite_flat_repeatable_and_ordered(entry) -> None:
    classes = np.arange(60) % 3
    data = Comparison(
        real=normal(60, 5, "r"),
        fake=normal(60, 5, "f", shift=0.2),
        train=normal(80, 5, "t"),
        real_classes=classes,
        fake_classes=classes,
        fake_probabilities=normal(60, 3, "p").double().softmax(dim=1),
        num_classes=3,
    )
    before = torch.random.get_rng_state()
    result = entry.value(data, CONFIG)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert list(result.items()) == list(entry.value(data, CONFIG).items())
    for key, value in result.items():
        assert isinstance(value, float), key
        assert math.isfinite(value), key
        if key.endswith("_low"):
            name = key.removesuffix("_low")
            assert value <= result[name] <= result[f"{name}_high"]


@pytest.mark.parametrize("bad", [torch.zeros(1, 4), torch.zeros(5, 3), torch.full((5, 4), torch.nan)])
def test_comparison_refuses_features_that_do_not_fit(bad: Tensor) -> None:
    with pytest.raises(ValueError, match="fake features"):
        compare(normal(5, 4, "r"), bad)


def test_resamples_of_two_sets_are_paired_and_make_the_interval() -> None:
    """Resample i draws the same fakes of both sets, however many there are. Kills: a key for each set, and values that do not make the interval."""
    real, noise = normal(80, 3, "real"), normal(60, 3, "fake")
    one, other = compare(real, noise), compare(real, noise + 0.5)
    few, many = CONFIG, CONFIG.model_copy(update={"bootstrap": 40})
    found = fid(one, few) | kid(one, few) | prdc(one, few)
    short = {key: values.clone() for key, values in one.resampled.items()}
    assert set(short) == {"fid", "kid", "precision", "recall", "density", "coverage"}
    assert float(short["fid"].std()) * 1.959963984540054 == pytest.approx(found["fid_high"] - found["fid"])
    for data in (one, other):
        fid(data, many), kid(data, many), prdc(data, many)
    for key, values in short.items():
        assert len(values) == 5
        torch.testing.assert_close(one.resampled[key][:5], values)
        difference = other.resampled[key] - one.resampled[key]
        if key in ("fid", "kid"):  # one draw moves both alike
            assert float(difference.std()) < 0.8 * float(torch.cat([other.resampled[key], one.resampled[key]]).std())
    assert one.parts(np.arange(40), np.arange(40, 80)).resampled == {}  # real against real has its own


class Sizes(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that is made while it is on."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else (out,):
            if isinstance(made, Tensor):
                self.largest = max(self.largest, made.untyped_storage().nbytes())
        return out


OF_FEATURES = [
    name
    for name in METRICS.names()
    if not ((need := needs.of(METRICS.get(name))).pixels or need.discriminator or need.generator or need.pairs)
]


@pytest.mark.parametrize("name", OF_FEATURES)
def test_no_metric_holds_all_pairs(name: str) -> None:
    """With four times as many images the largest array is four times as large, not sixteen times. Kills: a matrix of all pairs, in torch or numpy."""
    peaks = []
    for n in (512, 2048):
        real, fake, train = (normal(n, 8, kind) for kind in ("real", "fake", "train"))
        classes = np.arange(n) % 4
        probabilities = torch.from_numpy(np.eye(4)[classes])
        data = Comparison(
            real=real,
            fake=fake,
            train=train,
            real_classes=classes,
            fake_classes=classes,
            real_probabilities=probabilities,
            fake_probabilities=probabilities,
            fake_labels=classes,
            num_classes=4,
        )
        config = CONFIG.model_copy(update={"prdc_images": n})
        METRICS.get(name)(replace(data), config)  # what is imported or kept once
        tracemalloc.start()
        with Sizes() as sizes:
            METRICS.get(name)(data, config)
        peaks.append((sizes.largest, tracemalloc.get_traced_memory()[1]))
        tracemalloc.stop()
    for few, many in zip(*peaks, strict=True):
        assert many <= 5 * few, peaks
