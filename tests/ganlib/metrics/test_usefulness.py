"""Classifiers that learn from samples: good ones teach, wrong labels do not."""

import numpy as np
import pytest
import torch

from ganlib.metrics import METRICS, trunk, usefulness
from ganlib.metrics.interface import ArrayImages, PixelComparison
from ganlib.metrics.null import null
from ganlib.metrics.settings import EvaluateConfig

CONFIG = EvaluateConfig()


def labelled(n: int, seed: int) -> ArrayImages:
    """Three classes: where a bar stands, under noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    images = rng.integers(0, 160, (n, 1, 8, 8)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, :, 2 * label : 2 * label + 2] += 90
    return ArrayImages(images, labels)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(trunk, "MIN_STEPS", 60)
    monkeypatch.setattr(usefulness, "SEEDS", 2)
    monkeypatch.setattr(usefulness, "FEW_IMAGES", 9)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def compare(fake: ArrayImages) -> PixelComparison:
    return PixelComparison(real=labelled(120, 1), fake=fake, train=labelled(60, 2))


def test_samples_of_the_right_classes_teach_and_others_do_harm():
    """Kills: accuracy on the samples themselves, labels of another order, and a gain that is the accuracy."""
    good = labelled(150, 3)
    turned = ArrayImages(good.array, (good.labels + 1) % 3)
    right, wrong = (METRICS.get("usefulness")(compare(fake), CONFIG) for fake in (good, turned))
    assert right["useful_synthetic"] > 0.7
    assert wrong["useful_synthetic"] < 0.2
    assert right["useful_real"] == wrong["useful_real"] < 0.9
    assert right["useful_gain"] > 0.05
    assert wrong["useful_gain"] < -0.1
    assert right["useful_real_low"] < right["useful_real"] < right["useful_real_high"]


def test_samples_without_classes_give_nothing_and_there_is_no_null():
    assert METRICS.get("usefulness")(compare(ArrayImages(labelled(20, 3).array)), CONFIG) == {}
    assert null(METRICS.get("usefulness"), compare(labelled(20, 3)), CONFIG) == {}
