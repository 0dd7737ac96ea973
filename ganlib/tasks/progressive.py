"""Progressive growing: a generator against a discriminator, both of which grow from the core of the image to its full size."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ganlib import freeze, models
from ganlib.config import Section
from ganlib.models import ImageSpec
from ganlib.models.layers.sizes import doublings
from ganlib.models.settings import ModelConfig
from ganlib.optim import OptimConfig
from ganlib.products import Product
from ganlib.tasks import TASKS, Play
from ganlib.tasks.adversarial import AdversarialConfig, Rules, check_parts, check_shards, meta_networks, play, products
from ganlib.tasks.settings import TaskConfig
from ganlib.train_settings import TrainConfig


class ProgressiveOptions(Section):
    """Options of the task; where they are null, total_images is shared out evenly."""

    stable_images: int | None = Field(default=None, ge=1, description="images at each size once it is faded in; null: an even share")
    fade_images: int | None = Field(default=None, ge=1, description="images over which a size is faded in; null: an even share")


class ProgressiveConfig(AdversarialConfig):
    """The section `task` of progressive growing."""

    options: ProgressiveOptions = Field(ProgressiveOptions(), description="stable_images and fade_images: how long each size is trained")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Level 0 is trained for `stable` images; each further level is faded in over `fade` images and trained for `stable` more, the last to the end.

    Attributes:
        levels: the last level; it has the size of the image.
    """

    stable: int
    fade: int
    levels: int

    @classmethod
    def of(cls, chosen: ProgressiveOptions, *, levels: int, total_images: int) -> "Schedule":
        """ValueError where the full size would not be reached in `total_images`."""
        share = max(1, total_images // (2 * levels + 1))
        schedule = cls(stable=chosen.stable_images or share, fade=chosen.fade_images or share, levels=levels)
        if (needed := schedule.starts(levels) + (schedule.fade if levels else 0)) > total_images:
            raise ValueError(
                f"train.total_images={total_images:,} ends before the images have their full size: task.options fade_images="
                f"{schedule.fade:,} and stable_images={schedule.stable:,} over {levels} doublings need {needed:,}; lower them, or leave them out"
            )
        return schedule

    def starts(self, level: int) -> int:
        """Images seen when a level begins."""
        return self.stable + (level - 1) * (self.fade + self.stable) if level else 0

    def alpha(self, level: int, images_seen: int) -> float:
        """How far a level is faded in, 0..1."""
        return min(1.0, (images_seen - self.starts(level)) / self.fade) if level else 1.0


class Fade:
    """The factor alpha of one stage, written into both networks before every step, and real images at the stage's size."""

    def __init__(self, networks: list[torch.nn.Module], schedule: Schedule, *, level: int) -> None:
        self.buffers = [buffer for network in networks for name, buffer in network.named_buffers() if name == "alpha"]
        self.schedule = schedule
        self.level = level
        self.alpha = 1.0

    def before_step(self, images_seen: int) -> None:
        self.alpha = self.schedule.alpha(self.level, images_seen)
        for buffer in self.buffers:
            buffer.fill_(self.alpha)

    def present(self, images: Tensor) -> Tensor:
        """[n, C, H, W] -> the stage's size; while it is faded in, mixed with the size before (arXiv:1710.10196, figure 2)."""
        images = F.avg_pool2d(images, 1 << (self.schedule.levels - self.level))
        if self.alpha == 1.0:
            return images
        coarse = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2.0, mode="nearest")
        return coarse.lerp(images, self.alpha)


@TASKS.register("progressive", paper="arXiv:1710.10196, section 2")
class Progressive:
    """Growing both networks size by size; needs a family that grows (model.name: progressive)."""

    options: ClassVar[type[TaskConfig]] = ProgressiveConfig

    def networks(self, task: ProgressiveConfig) -> dict[str, str]:
        return models.PAIR

    def products(self, model: ModelConfig, task: ProgressiveConfig, image: ImageSpec) -> tuple[Product, ...]:
        return products(model, image)

    def check(self, model: ModelConfig, task: ProgressiveConfig, train: TrainConfig, image: ImageSpec) -> None:
        if not models.MODELS.get(model.name, key="model.name").grows:
            raise ValueError(
                f"task.name=progressive needs networks that grow, and model.name={model.name!r} does not; set model.name: progressive"
            )
        if task.history_images:
            raise ValueError(
                f"task.history_images={task.history_images}: images of an earlier size cannot be shown at a later one; set task.history_images: 0"
            )
        check_parts(model, task, image)
        check_shards(model, train)
        schedule = _schedule(model, task, train, image)
        if train.freeze:
            freeze.check(self.meta_networks(model, task, image), train.freeze)
            for stage in range(schedule.levels):
                networks = self.meta_networks(model, task, image, stage=stage)
                for network, patterns in train.freeze.items():
                    freeze.frozen(networks[network], patterns, network=network)

    def meta_networks(
        self, model: ModelConfig, task: ProgressiveConfig, image: ImageSpec, *, stage: int | None = None
    ) -> dict[str, torch.nn.Module]:
        return meta_networks(model, image, level=stage)

    def check_continued(
        self,
        model: ModelConfig,
        image: ImageSpec,
        before: tuple[ProgressiveConfig, TrainConfig],
        after: tuple[ProgressiveConfig, TrainConfig],
    ) -> None:
        then, now = (_schedule(model, *settings, image) for settings in (before, after))
        if then != now:
            raise ValueError(
                f"the sizes of a progressive training must begin where they began: stable_images={then.stable}, fade_images={then.fade} "
                f"became {now.stable}, {now.fade}; set task.options: {{stable_images: {then.stable}, fade_images: {then.fade}}}"
            )

    def build(
        self, *, model: ModelConfig, task: ProgressiveConfig, optim: OptimConfig, train: TrainConfig, image: ImageSpec, stage: int = 0
    ) -> Play:
        self.check(model, task, train, image)
        schedule = _schedule(model, task, train, image)
        generator, discriminator = models.build(model, image, seed=train.seed, level=stage)
        fade = Fade([generator, discriminator], schedule, level=stage)
        return play(
            {"generator": generator, "discriminator": discriminator},
            task=task,
            optim_config=optim,
            train=train,
            image=image,
            rules=lambda steering, _: Rules(task, steering, present=fade.present),
            products=self.products(model, task, image),
            before_step=fade.before_step,
            ends_at_images=schedule.starts(stage + 1) if stage < schedule.levels else None,
        )


def _schedule(model: ModelConfig, task: ProgressiveConfig, train: TrainConfig, image: ImageSpec) -> Schedule:
    return Schedule.of(task.options, levels=doublings(image.size, family=model.name), total_images=train.total_images)
