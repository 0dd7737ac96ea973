"""Are the samples good for something? Classifiers that learn from them, asked about real images."""

import math

import numpy as np
import torch
from scipy import stats

from ganlib.metrics import METRICS
from ganlib.metrics.interface import ArrayImages, PixelComparison
from ganlib.metrics.needs import Needs, Value, declares
from ganlib.metrics.settings import EvaluateConfig
from ganlib.metrics.trunk import Task, Trunk, gather, share_correct, train
from ganlib.metrics.two_sample import shrunk

SEEDS = 5
FEW_IMAGES = 500  # real training images that a classifier has without and with the samples
SAMPLES = 5_000
HELD_OUT_IMAGES = 5_000
EPOCHS = 3.0

SYNTHETIC = Value(
    key="useful_synthetic",
    title="Accuracy from samples alone",
    meaning="Accuracy on unseen real images of a classifier that has learnt from generated images alone.",
    better="higher",
    is_share=True,
    is_conditional=True,
    is_headline=False,
)
GAIN = Value(
    key="useful_gain",
    title="Gain from samples",
    meaning="Accuracy on unseen real images that generated ones add to what few real images teach; below 0 they do harm.",
    better="higher",
    is_conditional=True,
    is_headline=False,
)


@METRICS.register("usefulness", paper="arXiv:1905.10887, section 3")
@declares(
    Needs(
        pixels=True,
        conditional=True,
        has_null=False,
        real=10,
        fake=10,
        reliable_real=100,
        gives=(SYNTHETIC, GAIN),
        also_gives=("useful_real",),
    )
)
def usefulness(data: PixelComparison, config: EvaluateConfig) -> dict[str, float]:
    """Accuracy on held-out real images of small classifiers trained on samples alone, on 500 real images, and on both; five seeds each.

    `useful_synthetic` is the classification accuracy score of the paper, `useful_real` the accuracy from the real images alone, and `useful_gain`
    what the samples add to it. A seed draws the real images and the weights; intervals (Student's t) are over the seeds. Minutes of CPU: no default.
    Nothing where the samples have no classes.
    """
    if data.train is None or data.fake.labels is None or data.real.labels is None or data.train.labels is None:
        return {}
    sides = {
        "fake": data.drawn_labelled("fake", SAMPLES, seed=config.seed),
        "real": data.drawn_labelled("real", HELD_OUT_IMAGES, seed=config.seed),
    }
    (synthetic, asked), (held_out, truth) = ((shrunk(images), labels) for images, labels in (sides["fake"], sides["real"]))
    num_classes = int(max(data.train.labels.max(), asked.max(), truth.max())) + 1
    found: dict[str, list[float]] = {"useful_synthetic": [], "useful_real": [], "useful_gain": []}
    for number in range(SEEDS):
        few, few_labels = data.drawn_labelled("train", FEW_IMAGES, seed=config.seed, counter=number)
        few = shrunk(few)
        accuracy = [
            _accuracy(images, labels, held_out, truth, num_classes=num_classes, seed=config.seed + number)
            for images, labels in (
                (synthetic, asked),
                (few, few_labels),
                (np.concatenate([few, synthetic]), np.concatenate([few_labels, asked])),
            )
        ]
        for key, value in zip(found, (accuracy[0], accuracy[1], accuracy[2] - accuracy[1]), strict=True):
            found[key].append(value)
    result: dict[str, float] = {}
    for key, values in found.items():
        half = float(stats.t.ppf(0.975, SEEDS - 1) * np.std(values, ddof=1) / math.sqrt(SEEDS))
        mean = math.fsum(values) / SEEDS
        least = -1.0 if key == "useful_gain" else 0.0
        result |= {key: mean, f"{key}_low": max(least, mean - half), f"{key}_high": min(1.0, mean + half)}
    return result


def _accuracy(images: np.ndarray, labels: np.ndarray, held_out: np.ndarray, truth: np.ndarray, *, num_classes: int, seed: int) -> float:
    def task_of(images: np.ndarray, labels: np.ndarray) -> Task:
        pictures, targets = ArrayImages(images), torch.from_numpy(labels)
        return lambda indices, _: (gather(pictures, indices), targets[torch.from_numpy(indices)])

    channels, height, width = images.shape[1:]
    trunk = Trunk((channels, height, width), num_classes, seed=seed)
    train(trunk, task_of(images, labels), num_images=len(images), seed=seed, epochs=EPOCHS)
    return share_correct(trunk, task_of(held_out, truth), num_images=len(held_out))
