"""Making the image again from what a transform left of it: what super-resolution and inpainting share.

A generator is fed the transformed image and is held to the image itself, in pixels and in features, and against a discriminator of images where the
adversarial loss has a weight. The phases, terms and augmentations are those of `ganlib.tasks.adversarial`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from ganlib import freeze, models, transforms
from ganlib.data.stream import Shard
from ganlib.models import ImageSpec
from ganlib.models.settings import ModelConfig
from ganlib.moment import Moment
from ganlib.networks import Networks
from ganlib.optim import OptimConfig
from ganlib.perceptual import KEY as PERCEPTUAL_KEY
from ganlib.perceptual import PERCEPTUAL
from ganlib.products import Column, Product
from ganlib.sampling import Inputs
from ganlib.scalars import ShardScalars
from ganlib.schedule import Scheduled, Weight, not_negative
from ganlib.steering import Steering
from ganlib.tasks import Play
from ganlib.tasks.adversarial import AdversarialConfig, Rules, Term, check_shards, check_terms, play
from ganlib.train_settings import TrainConfig
from ganlib.transforms import TransformSettings

GENERATOR, DISCRIMINATOR = "generator", "discriminator"
FIDELITY = "fidelity"  # its key in Steering
TRANSFORM = "transform"  # the purpose of its random numbers
NO_PERCEPTUAL = "none"


class RestorationConfig(AdversarialConfig):
    """The section `task` where a transform of the image is to be undone."""

    transform: TransformSettings = Field(description="what the generator is fed: {name: a registered transform, its options}")
    pixel: Literal["l1", "l2"] = Field("l1", description="mean over pixels of the absolute or of the squared difference from the image")
    pixel_weight: Weight = Field(1.0, description="of that difference, or a schedule")
    perceptual: str = Field(NO_PERCEPTUAL, description="features that are compared too: none | discriminator_features | efficientnet_lite0")
    perceptual_weight: Weight = Field(1.0, description="of the difference in features, or a schedule")
    generator_loss_weight: float = Field(0.01, ge=0, description="of the adversarial loss; 0: no discriminator is trained at all")


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """What holds the generator to the image: weights, and the norm of the difference in pixels."""

    pixel: Literal["l1", "l2"] = "l1"
    pixel_weight: float = 1.0
    perceptual_weight: float = 1.0

    def difference(self, made: Tensor, images: Tensor) -> Tensor:
        """[n, C, H, W] twice, in [-1, 1] -> [n], a mean over channels and pixels."""
        difference = made - images
        return (difference.abs() if self.pixel == "l1" else difference.square()).flatten(1).mean(1)


class Restoration:
    """What the tasks below have in common; a task names itself, its options and its product."""

    product: ClassVar[str]

    def networks(self, task: RestorationConfig) -> dict[str, str]:
        roles = {GENERATOR: models.TRANSLATOR}
        return roles | ({DISCRIMINATOR: DISCRIMINATOR} if task.generator_loss_weight else {})

    def products(self, model: ModelConfig, task: RestorationConfig, image: ImageSpec) -> tuple[Product, ...]:
        feed = Column(transform=transforms.of(task.transform))
        return (Product(name=self.product, network=GENERATOR, feed=feed, has_truth=True),)

    def check(self, model: ModelConfig, task: RestorationConfig, train: TrainConfig, image: ImageSpec) -> None:
        if model.conditional:
            raise ValueError(
                f"model.conditional=true: the networks of task.name={task.name} are told no class; set model.conditional: false"
            )
        models.check(model, image, self.networks(task), fed=fed(task, image))
        check_fidelity(task, image)
        if task.generator_loss_weight:
            check_terms(model, task, image)
            check_shards(model, train)
        elif left := [*(f"regularizers.{name}" for name in task.regularizers), *(f"augment.{name}" for name in task.augment)]:
            raise ValueError(
                f"task.generator_loss_weight=0 trains no discriminator, and task.{left[0]} is for one; give it a weight, or take {left[0]} out"
            )
        freeze.check(self.meta_networks(model, task, image), train.freeze)

    def meta_networks(
        self, model: ModelConfig, task: RestorationConfig, image: ImageSpec, *, stage: int | None = None
    ) -> dict[str, nn.Module]:
        roles = self.networks(task)
        return {network: models.sketch(model, image, network, role=role, fed=fed(task, image)) for network, role in roles.items()}

    def check_continued(
        self,
        model: ModelConfig,
        image: ImageSpec,
        before: tuple[RestorationConfig, TrainConfig],
        after: tuple[RestorationConfig, TrainConfig],
    ) -> None:
        if before[0].transform != after[0].transform:
            raise ValueError(
                f"task.transform={after[0].transform.model_dump(mode='json')}: the training that is continued learnt to undo "
                f"{before[0].transform.model_dump(mode='json')}; set it back, or begin from its weights (train.start_from)"
            )
        if (was := self.networks(before[0])) != (now := self.networks(after[0])):
            raise ValueError(
                f"task.generator_loss_weight={after[0].generator_loss_weight}: the training that is continued has the networks "
                f"{', '.join(was)}, and would have {', '.join(now)}; begin from its weights (train.start_from)"
            )

    def build(
        self, *, model: ModelConfig, task: RestorationConfig, optim: OptimConfig, train: TrainConfig, image: ImageSpec, stage: int = 0
    ) -> Play:
        self.check(model, task, train, image)
        modules = {
            network: models.build_network(model, image, network, role=role, seed=train.seed, fed=fed(task, image))
            for network, role in self.networks(task).items()
        }
        transform = transforms.of(task.transform)

        def inputs(shard: Shard) -> Inputs:
            return Inputs(transform(shard.real, shard.rng(TRANSFORM)))

        def rules(steering: Steering, networks: Networks) -> Rules:
            return Rules(task, steering, inputs=inputs, own=fidelity_term(task, steering, networks))

        return play(
            modules,
            task=task,
            optim_config=optim,
            train=train,
            image=image,
            parts={FIDELITY: fidelity(task)},
            rules=rules,
            products=self.products(model, task, image),
        )


def fed(task: RestorationConfig, image: ImageSpec) -> ImageSpec:
    """What the generator is fed; ValueError where the image does not fit the transform."""
    return transforms.of(task.transform).fed(image)


def fidelity(task: RestorationConfig) -> Scheduled[Fidelity]:
    """Its options as the task has them."""
    values: Mapping[str, Any] = task.model_dump(mode="json", include={"pixel", "pixel_weight", "perceptual_weight"})
    return Scheduled.of(Fidelity, values, key="task")


def fidelity_term(task: RestorationConfig, steering: Steering, networks: Networks) -> Term:
    """What is added to the generator's loss."""
    perceptual = None if task.perceptual == NO_PERCEPTUAL else PERCEPTUAL.get(task.perceptual, key=PERCEPTUAL_KEY)(networks.device)

    def term(moment: Moment, scalars: ShardScalars) -> Tensor:
        now: Fidelity = steering[FIDELITY]
        pixels = now.difference(moment.fake, moment.real)
        scalars.add("loss_pixel", pixels)
        values = now.pixel_weight * pixels
        if perceptual is not None:
            features = perceptual(moment)
            scalars.add("loss_perceptual", features)
            values = values + now.perceptual_weight * features
        return values

    return term


def check_fidelity(task: RestorationConfig, image: ImageSpec) -> None:
    """Raise ValueError for features that there are none of, and where nothing is left to learn from."""
    for name in ("pixel_weight", "perceptual_weight"):
        not_negative(getattr(task, name), key=f"task.{name}")
    fidelity(task)
    if task.perceptual != NO_PERCEPTUAL:
        found = PERCEPTUAL.get(task.perceptual, key=PERCEPTUAL_KEY)
        found.check(image.channels)
        if found.reads_discriminator and not task.generator_loss_weight:
            raise ValueError(
                f"task.perceptual={task.perceptual} compares features of a discriminator, and task.generator_loss_weight=0 trains none; "
                "give it a weight, or set task.perceptual: none"
            )
    elif not task.generator_loss_weight and task.pixel_weight == 0:
        raise ValueError(
            "task.pixel_weight=0 and generator_loss_weight=0 leave the generator nothing to learn from; give one of them a weight"
        )
