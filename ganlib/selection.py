"""Which candidate of a training is exported: the latest of those that are as near to held-out images as the nearest, within what chance explains.

A candidate's score is the kernel distance (KID, arXiv:1801.01401) of its images to images of the validation split, in the features that the
evaluation uses; the test split is not looked at. All candidates are asked for the images of the same latents, and the same resamples of these latents
say how far chance moves a difference of two scores: so two are compared as pairs. Among those that the best one does not beat by more than one
standard error, the latest is chosen (the one-standard-error rule of Breiman et al. 1984, "Classification and regression trees", section 3.4.3): later
averages have seen more, and a training that is not harmed by going on delivers its end.

A score is computed on the CPU, by one thread, in batches of one size: the same bytes of weights have the same score wherever they were trained.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganlib import tasks
from ganlib.config import Section
from ganlib.data.arrow import ArrowImages, split_path
from ganlib.metrics import interface, needs
from ganlib.metrics.intervals import bootstrap_weights, normal
from ganlib.metrics.kid import kid, weighted_mmd
from ganlib.metrics.reference_store import Reference
from ganlib.models import ImageSpec, build_network
from ganlib.models.settings import ModelConfig
from ganlib.rng import keyed_rng
from ganlib.sampling import generate
from ganlib.tasks.settings import TaskConfig
from ganlib.train_settings import TrainConfig
from ganlib.training.hooks import calibrate_generator

MOST_REAL = 2_500  # validation images that are compared with: a kernel of all pairs is computed for each candidate
BATCH_IMAGES = 100  # of a forward pass of the generator; part of the numerics
RESAMPLES = 40
DEPTH = needs.of(kid).depth  # of the features that the evaluation's kernel distance reads


class Score(Section):
    """How far one candidate is from the validation images.

    Attributes:
        candidate: sha256 of its weights' file.
        resampled: the score under each of RESAMPLES resamples of the latents, the same for every candidate.
    """

    images_seen: int
    candidate: str
    kid: float
    resampled: tuple[float, ...]

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, over the latents."""
        return normal(self.kid, float(torch.tensor(self.resampled, dtype=torch.float64).std()))

    def is_beaten_by(self, other: "Score") -> bool:
        """Whether `other` is nearer to the data by more than one standard error of their difference."""
        gaps = torch.tensor(self.resampled, dtype=torch.float64) - torch.tensor(other.resampled, dtype=torch.float64)
        return self.kid - other.kid > float(gaps.std())


def choose(scores: Sequence[Score]) -> Score:
    """The latest score that the lowest one does not beat."""
    best = min(scores, key=lambda score: (score.kid, -score.images_seen))
    return max((score for score in scores if not score.is_beaten_by(best)), key=lambda score: score.images_seen)


def verdicts(scores: Sequence[Score], *, patience_images: int) -> list[bool]:
    """Whether a training ends at each of its candidates, in order: for `patience_images` none has beaten the best before it."""
    found, best = [], scores[0]
    for score in scores:
        if best.is_beaten_by(score):
            best = score
        found.append(score.images_seen - best.images_seen >= patience_images)
    return found


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Scores candidates of one training.

    Attributes:
        real: [n, d] float32, features of validation images, at DEPTH.
        task: whose first product is scored.
        trained_on, held_out: images of the training and of the validation split, for a product that is fed with images.
    """

    extractor: interface.Extractor
    real: Tensor
    model: ModelConfig
    image: ImageSpec
    train: TrainConfig
    task: TaskConfig
    trained_on: ArrowImages
    held_out: ArrowImages

    @classmethod
    def of(
        cls, reference: Reference, prepared: Path, *, model: ModelConfig, image: ImageSpec, train: TrainConfig, task: TaskConfig
    ) -> "Judge":
        """With the main extractor of a reference and the images of data/prepared."""
        return cls(
            extractor=reference.extractor,
            real=reference.features("val", DEPTH),
            model=model,
            image=image,
            train=train,
            task=task,
            trained_on=ArrowImages(split_path(prepared, "train")),
            held_out=ArrowImages(split_path(prepared, "val")),
        )

    def score(self, weights: Mapping[str, Tensor], *, images_seen: int, candidate: str) -> Score:
        """Of the weights of a candidate, `NETWORK.NAME` -> tensor."""
        assert self.train.select is not None
        with _one_thread():
            chosen = tasks.of(self.task)
            product = chosen.products(self.model, self.task, self.image)[0]
            role, prefix = chosen.networks(self.task)[product.network], f"{product.network}."
            averaged = build_network(self.model, self.image, product.network, role=role, seed=self.train.seed, fed=product.fed(self.image))
            averaged.load_state_dict({name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)})
            network = product.of(averaged)
            calibrate_generator(network, product.source(self.trained_on), self.train)
            inputs = product.source(self.held_out).draw(self.train.select.images, keyed_rng(self.train.seed, "selection latents"))
            images = interface.ArrayImages(generate(network, inputs, batch_images=BATCH_IMAGES, modality=self.image.modality))
            fake = interface.extract(self.extractor, images)[interface.depth_of(self.extractor, DEPTH)].double()
            drawn = bootstrap_weights(len(fake), RESAMPLES, seed=self.train.seed, purpose="selection bootstrap")
            kid, *resampled = weighted_mmd(self._real, fake, torch.cat([torch.ones(1, len(fake), dtype=torch.float64), drawn])).tolist()
        return Score(images_seen=images_seen, candidate=candidate, kid=kid, resampled=tuple(resampled))

    @cached_property
    def _real(self) -> Tensor:
        chosen = torch.randperm(len(self.real), generator=keyed_rng(self.train.seed, "selection images"))[:MOST_REAL]
        return self.real[chosen.sort().values].double()


def table(scores: Sequence[Score], chosen: Score) -> list[dict[str, Any]]:
    """A row for each candidate, earliest first."""
    rows = []
    for score in sorted(scores, key=lambda score: score.images_seen):
        low, high = score.interval
        rows.append({"images_seen": score.images_seen, "kid": score.kid, "kid_low": low, "kid_high": high, "is_chosen": score == chosen})
    return rows


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
