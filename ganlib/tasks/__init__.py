"""Tasks: what is trained against what, as a list of phases. A task is the algorithm box of a paper; the step runs it without knowing which."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ganlib.data.stream import Shard
from ganlib.models import ImageSpec
from ganlib.models.settings import ModelConfig
from ganlib.moment import Moment
from ganlib.networks import Networks, View
from ganlib.optim import OptimConfig
from ganlib.registry import Registry
from ganlib.scalars import ShardScalars
from ganlib.steering import Steering
from ganlib.tasks.settings import TaskConfig
from ganlib.train_settings import TrainConfig

PhaseLoss = Callable[[View, Shard, ShardScalars], Tensor]  # per-sample losses [n] of one shard
MomentOf = Callable[[View, Shard, ShardScalars], Moment]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One optimizer's update.

    Attributes:
        name: unique; part of the key of every random number drawn in it, and of log lines. Never compared.
        trains: name of the network it updates.
        loss: per-sample loss of a shard.
        interval_steps: due every so many steps (lazy regularisation).
        repeats: updates in a row when due (n_critic); each reads the next batch.
        constrain: applied to the network after each update (weight clipping), or None.
        max_gradient_norm: a longer gradient is scaled down to it, or None.
    """

    name: str
    trains: str
    loss: PhaseLoss
    optimizer: torch.optim.Optimizer
    interval_steps: int = 1
    repeats: int = 1
    constrain: Callable[[nn.Module], None] | None = None
    max_gradient_norm: float | None = None


@dataclass(frozen=True, kw_only=True)
class Play:
    """A task ready to run: networks by name, phases in order, and which network is sampled from and averaged.

    Attributes:
        moment: a shard as the discriminator is shown it, to look at and not to train.
        steering: every loss, regularizer and augmentation the phases use, with the numbers of theirs that follow the training.
        before_step: called with images_seen before every step.
        ends_at_images: the next stage of the task is built then (`Task.build(stage=...)`); None: this one is the last.
    """

    networks: Networks
    phases: list[Phase]
    optimizers: Mapping[str, torch.optim.Optimizer]
    sampled: str
    moment: MomentOf
    steering: Steering = field(default_factory=lambda: Steering({}))
    before_step: Callable[[int], None] = lambda images_seen: None
    ends_at_images: int | None = None

    @property
    def batches_per_step(self) -> int:
        """Batches of real images one step consumes."""
        return max(phase.repeats for phase in self.phases)


class Task(Protocol):
    """What a task's file registers in `TASKS`."""

    def check(self, model: ModelConfig, task: TaskConfig, train: TrainConfig, image: ImageSpec) -> None:
        """Raise ValueError for a loss, penalty or option that is unknown or does not fit the networks, the image or the budget."""

    def meta_networks(self, model: ModelConfig, image: ImageSpec, *, stage: int | None = None) -> Mapping[str, nn.Module]:
        """The networks of a stage by name, on the meta device: names and shapes, no numbers. None: with all the layers they ever have."""

    def check_continued(
        self, model: ModelConfig, image: ImageSpec, before: tuple[TaskConfig, TrainConfig], after: tuple[TaskConfig, TrainConfig]
    ) -> None:
        """Raise ValueError where a training under the settings `before` cannot go on under `after` for what the task alone knows: its stages."""

    def build(
        self, *, model: ModelConfig, task: TaskConfig, optim: OptimConfig, train: TrainConfig, image: ImageSpec, stage: int = 0
    ) -> Play:
        """Networks, optimizers and phases of one stage; most tasks have one stage."""


TASKS: Registry[Any] = Registry("task", package="ganlib.tasks")
