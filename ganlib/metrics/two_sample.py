"""Can a small network that was shown real and generated images tell them apart? The classifier two-sample test, arXiv:1610.06545."""

import numpy as np
import torch
import torch.nn.functional as F

from ganlib.metrics import METRICS
from ganlib.metrics.interface import ArrayImages, PixelComparison
from ganlib.metrics.intervals import wilson
from ganlib.metrics.needs import Needs, Value, declares
from ganlib.metrics.settings import EvaluateConfig
from ganlib.metrics.trunk import Task, Trunk, gather, share_correct, train, working_size
from ganlib.rng import keyed_rng

MAX_IMAGES = 10_000  # a side
EPOCHS = 4.0  # over the half that is learnt from; few images get the updates that `trunk.train` gives at least
CHUNK_IMAGES = 500

ACCURACY = Value(
    key="two_sample_accuracy",
    title="Told from real",
    meaning="How often a small network, trained for it, tells unseen generated images from unseen real ones; 50 % is guessing.",
    better="target",
    ideal=0.5,
    is_share=True,
)


def shrunk(images: np.ndarray) -> np.ndarray:
    """Images [n, C, H, W] uint8 at the size that the network sees, so that memory has a bound."""
    size = working_size(*images.shape[2:])
    if size == tuple(images.shape[2:]):
        return images
    parts = []
    for start in range(0, len(images), CHUNK_IMAGES):
        x = torch.from_numpy(images[start : start + CHUNK_IMAGES]).float()
        x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        parts.append(x.round_().clamp_(0, 255).byte().numpy())
    return np.concatenate(parts)


@METRICS.register("two_sample", paper="arXiv:1610.06545, section 3")
@declares(Needs(pixels=True, real=4, fake=4, reliable_real=100, is_costly=True, gives=(ACCURACY,)))
def two_sample(data: PixelComparison, config: EvaluateConfig) -> dict[str, float]:
    """Accuracy on one half of a network trained to tell held-out real from generated images on the other half: 0.5 is ideal, 1 is told at sight.

    As many of both sides, at most 10,000, drawn into halves at random; needs no features. The interval covers the images that are asked about, not
    the draw of those that are learnt from: with few of them the network is weak, so values compare at equal numbers of images.
    """
    n = min(data.num_real, data.num_fake, MAX_IMAGES) // 2 * 2
    learnt, asked, labels = [], [], np.repeat([0, 1], n // 2)
    for side in data.SIDES:
        images = shrunk(data.drawn(side, n, seed=config.seed))
        order = torch.randperm(n, generator=keyed_rng(config.seed, f"two sample {side}")).numpy()
        learnt.append(images[order[: n // 2]])
        asked.append(images[order[n // 2 :]])
    targets = torch.from_numpy(labels)

    def task_of(images: ArrayImages) -> Task:
        return lambda indices, _: (gather(images, indices), targets[torch.from_numpy(indices)])

    learn, ask = (ArrayImages(np.concatenate(sides)) for sides in (learnt, asked))
    trunk = train(Trunk(learn.shape, 2, seed=config.seed), task_of(learn), num_images=n, seed=config.seed, epochs=EPOCHS)
    accuracy = share_correct(trunk, task_of(ask), num_images=n)
    low, high = wilson(accuracy, n)
    return {"two_sample_accuracy": accuracy, "two_sample_accuracy_low": low, "two_sample_accuracy_high": high}
