"""Feature extractors: a contract every registered one meets, and what each of them says about data it cannot use."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ganlib.metrics import EXTRACTORS, interface, trunk
from ganlib.metrics.interface import ArrayImages
from ganlib.metrics.rotation import turn
from ganlib.metrics.spread import channel_statistics, units
from ganlib.metrics.trunk import batches, working_size


def stripes(shape: tuple[int, int, int], n: int = 300, classes: int = 3) -> ArrayImages:
    """Images whose class is the position of a bright band, with noise; an image turned upside down looks different."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, classes, n)
    images = draw.integers(0, 60, (n, *shape)).astype(np.uint8)
    width = max(1, shape[2] // (classes + 1))
    for image, label in zip(images, labels, strict=True):
        image[:, : max(1, shape[1] // 2), label * width : (label + 1) * width] += 150
    return ArrayImages(images, labels)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunk, "MIN_STEPS", 30)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The tensors are tiny: threads that wait for each other on a busy machine take longer than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


ANY_DATA = [name for name in EXTRACTORS.names() if name != "torchscript"]  # which needs a file: test_torchscript.py
TRAINED = ["classifier", "rotation"]


@pytest.fixture(params=ANY_DATA)
def extractor_class(request: pytest.FixtureRequest):
    return EXTRACTORS.get(request.param)


def test_depths_are_what_is_said(extractor_class, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills a depth that is declared and not given, and numbers of a depth that preflight would warn of wrongly."""
    monkeypatch.setattr(trunk, "MIN_STEPS", 2)
    images = stripes((1, 8, 8), n=40)
    extractor = extractor_class.fit(images, images.labels, seed=0, epochs=0.1)
    assert "last" in extractor.depths
    features = interface.extract(extractor, images)
    assert tuple(features) == extractor.depths
    assert {depth: tensor.shape[1] for depth, tensor in features.items() if depth in extractor.feature_dims} == extractor.feature_dims
    assert interface.depth_of(extractor, "middle") == ("middle" if "middle" in features else "last")


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 24, 40), (4, 5, 3), (1, 90, 100)], ids=str)
def test_features_of_any_shape(extractor_class, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunk, "MIN_STEPS", 2)
    images = stripes(shape, n=40)
    if extractor_class.name == "efficientnet_lite0" and shape[0] == 4:
        with pytest.raises(ValueError, match=r"grey and RGB pictures, these have 4 channels; set reference\.extractor"):
            extractor_class.fit(images, images.labels, seed=0, epochs=0.1)
        return
    extractor = extractor_class.fit(images, images.labels, seed=0, epochs=0.1)
    for features in interface.extract(extractor, images).values():
        assert features.shape[0] == 40
        assert features.dtype == torch.float32
        assert torch.isfinite(features).all()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[depth], second[depth]) for depth in first)


def test_repeats_and_survives_the_disk(extractor_class, tmp_path: Path) -> None:
    images = stripes((1, 12, 12))
    before = torch.random.get_rng_state()
    first, second = (extractor_class.fit(images, images.labels, seed=0, epochs=1.0) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    digest = interface.save(first, tmp_path)
    assert digest == interface.sha256(second)
    loaded = interface.load(tmp_path)
    assert loaded.name == first.name
    assert interface.sha256(loaded) == digest
    assert same(interface.extract(loaded, images), interface.extract(second, images))


@pytest.mark.parametrize("name", TRAINED)
def test_learns_and_follows_its_seed(name: str) -> None:
    images = stripes((1, 12, 12))
    first, other = (EXTRACTORS.get(name).fit(images, images.labels, seed=seed, epochs=1.0) for seed in (0, 1))
    assert interface.sha256(first) != interface.sha256(other)
    assert first.accuracy(images) > 0.7  # chance is 1/3 or 1/4


def test_chance_is_what_the_commonest_answer_scores(extractor_class) -> None:
    """By hand: 3 of 5 labels are alike, and one of four turns is right. Whoever says no accuracy says no chance."""
    images = stripes((1, 12, 12), n=60)
    extractor = extractor_class.fit(images, images.labels, seed=0, epochs=0.1)
    held = ArrayImages(images.array[:5], np.array([2, 0, 2, 1, 2]))
    assert extractor.chance(held) == {"classifier": 0.6, "rotation": 0.25}.get(extractor.name)
    assert (extractor.accuracy(held) is None) == (extractor.chance(held) is None)
    if extractor.name == "classifier":
        assert extractor.chance(ArrayImages(images.array[:5])) is extractor.chance(ArrayImages(images.array[:0], held.labels[:0])) is None


def test_features_of_an_image_do_not_depend_on_its_company(extractor_class) -> None:
    images = stripes((1, 12, 12))
    extractor = extractor_class.fit(images, images.labels, seed=0, epochs=0.1)
    whole, few = interface.extract(extractor, images), interface.extract(extractor, images, np.array([7, 3]))
    assert same({depth: tensor[[7, 3]] for depth, tensor in whole.items()}, few)


@pytest.mark.parametrize("name", ["classifier", "random_conv", "efficientnet_lite0"])
def test_the_middle_is_in_units_of_the_train_images(name: str) -> None:
    """Each number that varies has a standard deviation of 1 over them. Kills units of other images, or none."""
    images = stripes((1, 12, 12))
    extractor = EXTRACTORS.get(name).fit(images, images.labels, seed=0, epochs=0.1)
    spread = interface.extract(extractor, images)["middle"].double().std(dim=0, correction=0)
    assert float(spread.max()) == pytest.approx(1.0, abs=1e-3)
    assert float((spread > 0.999).double().mean()) > 0.5  # those nearly silent stay below, as their unit has a floor


def test_channel_statistics_by_hand() -> None:
    activations = torch.tensor([[[[1.0, 3.0]], [[5.0, 5.0]]]])
    assert channel_statistics(activations).tolist() == [[2.0, 5.0, 1.0, 0.0]]


def test_units_have_a_floor_and_silent_numbers_none() -> None:
    """Deviations 0, 0.001, 1 and 1: the second is raised to a hundredth of the median, the first left as it is."""
    images = ArrayImages(np.array([0, 255] * 10, np.uint8).reshape(20, 1, 1, 1))
    scale = torch.tensor([0.0, 0.001, 1.0, 1.0]) * 2 / 255
    found = units(lambda batch: {"x": batch.reshape(-1, 1).float() * scale}, images, seed=0)
    torch.testing.assert_close(found["x"], torch.tensor([1.0, 0.01, 1.0, 1.0]))
    black = ArrayImages(np.zeros((3, 1, 1, 1), np.uint8))
    assert units(lambda batch: {"x": batch.reshape(-1, 1).float() * scale}, black, seed=0)["x"].tolist() == [1.0] * 4


def test_last_of_the_small_network_is_what_its_head_reads() -> None:
    """Both depths in one pass give what the network alone gives, to the last bit; kills a middle that changes the last in place."""
    images = stripes((1, 12, 12))
    classifier = EXTRACTORS.get("classifier").fit(images, images.labels, seed=0, epochs=0.1)
    with torch.inference_mode():
        alone = classifier.trunk.features(torch.from_numpy(images.array[:500]))
    assert torch.equal(classifier.features(torch.from_numpy(images.array[:500]))["last"], alone)


def test_wrong_images_are_refused(extractor_class) -> None:
    images = stripes((1, 12, 12), n=20)
    extractor = extractor_class.fit(images, images.labels, seed=0, epochs=0.1)
    for bad in (torch.zeros(2, 3, 12, 12, dtype=torch.uint8), torch.zeros(2, 1, 12, 12, dtype=torch.float64), torch.zeros(2, 3, 12, 12)):
        with pytest.raises(ValueError, match=r"expected \[n, 1, 12, 12\] torch.uint8"):
            extractor.features(bad)


def test_grey_levels_in_between_are_seen_and_smoothly(extractor_class) -> None:
    """Whole levels as floats give what uint8 gives, and features move half as far for half a step, far below a level.

    Kills rounding, bfloat16 (whose 8 bits hold whole levels alone), and images that are changed in place.
    """
    images = stripes((1, 12, 12), n=20)
    extractor = extractor_class.fit(images, images.labels, seed=0, epochs=0.1)
    assert extractor.takes_float
    x = torch.from_numpy(images.array)
    step = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).abs() * torch.where(x < 128, 1.0, -1.0)
    whole, before = extractor.features(x), x.float()
    found = {0.0: extractor.features(before)}
    assert torch.equal(before, x.float())
    found |= {share: extractor.features(before + share * step) for share in (0.01, 0.02)}
    for depth, features in whole.items():
        exact = found[0.0][depth]
        error = (exact - features).square().mean(dim=0).sqrt() / features.std(dim=0).clamp(min=1e-6)
        assert float(error.median()) < (0.2 if extractor_class.name == "efficientnet_lite0" else 1e-6)  # which sees uint8 in bfloat16
        one, two = ((found[share][depth] - exact).norm(dim=1) for share in (0.01, 0.02))
        assert 0 < float(one.min()) < float(one.max()) < 0.5 * float((features - features.mean(dim=0)).norm(dim=1).mean())
        torch.testing.assert_close(two / one, torch.full_like(one, 2.0), rtol=0.02, atol=0)


def test_class_logits_follow_from_the_features() -> None:
    images = stripes((1, 12, 12))
    classifier = EXTRACTORS.get("classifier").fit(images, images.labels, seed=0, epochs=1.0)
    predicted = classifier.class_logits(interface.extract(classifier, images)["last"]).argmax(dim=1).numpy()
    assert float((predicted == images.labels).mean()) == pytest.approx(classifier.accuracy(images))
    rotation = EXTRACTORS.get("rotation").fit(ArrayImages(images.array), None, seed=0, epochs=0.1)
    assert rotation.class_logits(interface.extract(rotation, images)["last"]) is None


@pytest.mark.parametrize("labels", [None, np.zeros(20, np.int64)], ids=["none", "one class"])
def test_classifier_without_classes_names_the_way_out(labels: np.ndarray | None) -> None:
    images = stripes((1, 8, 8), n=20)
    with pytest.raises(ValueError, match=r"reference\.extractor=classifier.*reference\.extractor=rotation"):
        EXTRACTORS.get("classifier").fit(images, labels, seed=0, epochs=1.0)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    images = stripes((1, 8, 8), n=20)
    extractor = EXTRACTORS.get("rotation").fit(images, None, seed=0, epochs=0.1)
    interface.save(extractor, tmp_path)
    path = tmp_path / interface.WEIGHTS_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="dvc repro"):
        interface.load(tmp_path)
    path.write_bytes(bytes(data[:50]))
    with pytest.raises(ValueError, match="cannot be read"):
        interface.load(tmp_path)
    (tmp_path / interface.DESCRIPTION_FILE).write_text(json.dumps({"format": 1}))
    with pytest.raises(ValueError, match="cannot be read"):
        interface.load(tmp_path)


def test_turns_differ_and_undo() -> None:
    for shape in ((1, 4, 4), (2, 3, 5)):
        image = torch.arange(np.prod(shape), dtype=torch.uint8).reshape(1, *shape)
        turned = turn(image.repeat(4, 1, 1, 1), torch.arange(4))
        assert len({tuple(x.flatten().tolist()) for x in turned}) == 4
        assert torch.equal(turned[1:2], image.rot90(1, dims=(2, 3)) if shape[1] == shape[2] else image.flip(2))
        assert torch.equal(turn(turn(image, torch.tensor([2])), torch.tensor([2])), image)


def test_batches_visit_every_image_once_an_epoch() -> None:
    visited = np.concatenate(list(batches(100, 30, 10, 0)))  # 300 visits: 3 epochs
    assert np.bincount(visited, minlength=100).tolist() == [3] * 100


@pytest.mark.parametrize(
    ("size", "expected"), [((28, 28), (28, 28)), ((128, 128), (64, 64)), ((1, 40_000), (1, 12_800)), ((256, 64), (128, 32))]
)
def test_working_size_bounds_the_area(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert working_size(*size) == expected
