"""Which candidate is exported: the rule against hand-made scores, the score against the metric itself."""

import numpy as np
import pytest
import torch

from ganlib.metrics.interface import ArrayImages, extract
from ganlib.metrics.kid import weighted_mmd
from ganlib.metrics.rotation import Rotation
from ganlib.models import ImageSpec, build_generator
from ganlib.models.settings import ModelConfig
from ganlib.rng import keyed_rng
from ganlib.sampling import Prior, generate
from ganlib.selection import BATCH_IMAGES, Judge, Score, choose, verdicts
from ganlib.tasks.adversarial import AdversarialConfig
from ganlib.train_settings import SelectConfig, TrainConfig
from ganlib.training.hooks import calibrate_generator

IMAGE = ImageSpec(channels=1, size=(8, 8))
MODEL = ModelConfig(name="dcgan", latent_dim=8, generator={"width": 4}, discriminator={"width": 4})
TRAIN = TrainConfig(total_images=640, batch_images=16, select=SelectConfig(interval_images=160, images=120))


def score(images_seen: int, kid: float, noise: list[float]) -> Score:
    return Score(images_seen=images_seen, candidate="", kid=kid, resampled=tuple(kid + value for value in noise))


COMMON = [-0.3, 0.3, 0.1, -0.1]  # moves all candidates alike: says nothing of their order


@pytest.mark.parametrize(
    ("kids", "noises", "expected"),
    [
        ([0.5, 0.2, 0.3], [COMMON, COMMON, COMMON], 200),  # equal draws: any difference counts, though it lies within each interval
        (
            [0.5, 0.2, 0.3],
            [COMMON, COMMON, [-0.2, 0.4, 0.0, 0.2]],
            300,
        ),  # the difference has a spread of 0.12 and more: as good, so the latest
        ([0.5, 0.2, 9.0], [COMMON, COMMON, COMMON], 200),  # a training that collapses at its end delivers its best
        ([0.2], [COMMON], 100),
        ([0.2, 0.2], [COMMON, COMMON], 200),
    ],
)
def test_the_latest_that_the_best_does_not_beat_is_chosen(kids, noises, expected):
    """Kills: the lowest alone, single intervals in place of paired ones, the earliest of equals."""
    scores = [score(100 * (k + 1), kid, noise) for k, (kid, noise) in enumerate(zip(kids, noises, strict=True))]
    assert choose(scores).images_seen == expected
    assert choose(scores[::-1]).images_seen == expected


@pytest.mark.parametrize(
    ("kids", "patience", "expected"),
    [
        ([0.5, 0.3, 0.4, 0.35, 0.2], 300, [False, False, False, False, False]),  # a gain in time
        ([0.5, 0.3, 0.4, 0.35, 0.2], 200, [False, False, False, True, False]),
        ([0.5, 0.6, 0.7], 100, [False, True, True]),
        ([0.5, 0.5], 100, [False, True]),  # as good is no gain
    ],
)
def test_a_training_ends_when_nothing_has_beaten_the_best_for_so_long(kids, patience, expected):
    """Kills: patience since the last candidate in place of the best; an equal one that counts as a gain."""
    scores = [score(100 * (k + 1), kid, COMMON) for k, kid in enumerate(kids)]
    assert verdicts(scores, patience_images=patience) == expected


def test_a_gain_within_chance_is_none():
    """Kills: patience that noise renews for ever."""
    noisy = [-0.2, 0.4, 0.0, 0.2]
    scores = [score(100, 0.5, COMMON), score(200, 0.45, noisy), score(300, 0.3, noisy)]
    assert verdicts(scores, patience_images=100) == [False, True, False]


@pytest.fixture(scope="module")
def judge():
    images = ArrayImages(torch.randint(0, 256, (200, 1, 8, 8), generator=keyed_rng(0, "images"), dtype=torch.uint8).numpy())
    extractor = Rotation.fit(images, None, seed=0, epochs=0.1)
    return Judge(
        extractor=extractor,
        real=extract(extractor, images)["last"],
        model=MODEL,
        image=IMAGE,
        train=TRAIN,
        task=AdversarialConfig(),
        trained_on=images,
        held_out=images,
    )


def weights(seed: int) -> dict[str, torch.Tensor]:
    return {f"generator.{name}": value for name, value in build_generator(MODEL, IMAGE, seed=seed).state_dict().items()} | {
        "discriminator.x": torch.zeros(1)
    }


def test_a_score_is_the_kid_of_the_averaged_generators_images(judge):
    """Kills: uncalibrated batch norm, other latents, the discriminator's tensors loaded too."""
    found = judge.score(weights(3), images_seen=160, candidate="c")
    torch.set_num_threads(1)
    network = build_generator(MODEL, IMAGE, seed=3)
    prior = Prior.of(MODEL, IMAGE)
    calibrate_generator(network, prior, TRAIN)
    images = generate(network, prior.draw(120, keyed_rng(TRAIN.seed, "selection latents")), batch_images=BATCH_IMAGES)
    assert images.shape == (120, 1, 8, 8)
    fake = extract(judge.extractor, ArrayImages(images))["last"].double()
    assert found.kid == pytest.approx(float(weighted_mmd(judge.real.double(), fake, torch.ones(1, 120, dtype=torch.float64))[0]), rel=1e-9)
    assert np.mean(found.resampled) == pytest.approx(found.kid, abs=4 * np.std(found.resampled))


def test_a_score_depends_on_no_number_of_threads_and_leaves_it(judge):
    """Kills: scoring with the process's threads."""
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(judge.score(weights(4), images_seen=0, candidate=""))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_candidates_are_compared_on_the_same_latents(judge):
    """Kills: latents or resamples keyed by the candidate: two names of one candidate would differ."""
    assert (
        judge.score(weights(5), images_seen=1, candidate="a").resampled == judge.score(weights(5), images_seen=2, candidate="b").resampled
    )
