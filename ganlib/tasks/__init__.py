"""Tasks: what is trained against what, as a list of phases. A task is the algorithm box of a paper; the step runs it without knowing which."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Protocol

import torch
from pydantic import SerializeAsAny, ValidatorFunctionWrapHandler, WrapValidator
from torch import Tensor, nn

from ganlib import config
from ganlib.data.stream import Shard
from ganlib.models import ImageSpec
from ganlib.models.settings import ModelConfig
from ganlib.moment import Moment
from ganlib.networks import Networks, View
from ganlib.optim import OptimConfig
from ganlib.pool import Pool
from ganlib.products import Product
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
    """A task ready to run: networks by name, phases in order, and what they deliver.

    Attributes:
        products: as `Task.products` has them; the network that makes them is averaged.
        moment: a shard as the discriminator is shown it, to look at and not to train; None: the task has no discriminator.
        pools: tensors that it remembers, by name.
        steering: every loss, regularizer and augmentation the phases use, with the numbers of theirs that follow the training.
        before_step: called with images_seen before every step.
        ends_at_images: the next stage of the task is built then (`Task.build(stage=...)`); None: this one is the last.
    """

    networks: Networks
    phases: list[Phase]
    optimizers: Mapping[str, torch.optim.Optimizer]
    products: tuple[Product, ...]
    moment: MomentOf | None = None
    pools: Mapping[str, Pool] = field(default_factory=dict)
    steering: Steering = field(default_factory=lambda: Steering({}))
    before_step: Callable[[int], None] = lambda images_seen: None
    ends_at_images: int | None = None

    def __post_init__(self) -> None:
        if len(made_by := {product.network for product in self.products}) != 1:
            raise ValueError(
                f"the products of a task are made by one network, which is averaged; got {', '.join(sorted(made_by)) or 'none'}"
            )

    @property
    def averaged(self) -> str:
        """The network whose moving average makes the products."""
        return self.products[0].network

    @property
    def batches_per_step(self) -> int:
        """Batches of real images one step consumes."""
        return max(phase.repeats for phase in self.phases)


class Task(Protocol):
    """What a task's file registers in `TASKS`.

    Attributes:
        options: the schema of the section `task` where it names this task: all its keys.
    """

    options: ClassVar[type[TaskConfig]]

    def networks(self, task: Any) -> Mapping[str, str]:
        """The networks that it trains under these options: name -> role (`ganlib.models.Family.roles`)."""

    def products(self, model: ModelConfig, task: Any, image: ImageSpec) -> tuple[Product, ...]:
        """What it delivers, the first one first; all of them are made by one network."""

    def check(self, model: ModelConfig, task: Any, train: TrainConfig, image: ImageSpec) -> None:
        """Raise ValueError for a loss, penalty or option that is unknown or does not fit the networks, the image or the budget."""

    def meta_networks(self, model: ModelConfig, task: Any, image: ImageSpec, *, stage: int | None = None) -> Mapping[str, nn.Module]:
        """The networks of a stage by name, on the meta device: names and shapes, no numbers. None: with all the layers they ever have."""

    def check_continued(
        self, model: ModelConfig, image: ImageSpec, before: tuple[Any, TrainConfig], after: tuple[Any, TrainConfig]
    ) -> None:
        """Raise ValueError where a training under the settings `before` cannot go on under `after` for what the task alone knows: its stages."""

    def build(self, *, model: ModelConfig, task: Any, optim: OptimConfig, train: TrainConfig, image: ImageSpec, stage: int = 0) -> Play:
        """Networks, optimizers and phases of one stage; most tasks have one stage."""


TASKS: Registry[Any] = Registry("task", package="ganlib.tasks")


def of(task: TaskConfig) -> Task:
    """The task that a section `task` names."""
    chosen: Task = TASKS.get(task.name, key="task.name")()
    return chosen


def options_of(values: Mapping[str, Any]) -> type[TaskConfig]:
    """The schema of a section `task` with these values: that of the task which they name, or else of the default one.

    Raises:
        ValueError: no such task.
    """
    named = TaskConfig.model_validate({key: value for key, value in values.items() if key == "name"})
    schema: type[TaskConfig] = TASKS.get(named.name, key="task.name").options
    return schema


def settings(values: Mapping[str, Any]) -> TaskConfig:
    """A section `task`, as the options of the task that it names."""
    chosen: TaskConfig = config.options(options_of(values), dict(values), key="task")
    return chosen


def _validated(values: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(values, TaskConfig):
        return values
    if not isinstance(values, Mapping) or not isinstance(values.get("name", ""), str):
        return validate(values)  # which refuses it
    return settings(values)


# The type of a field `task`: validated as the options of the task that it names.
TaskSettings = Annotated[SerializeAsAny[TaskConfig], WrapValidator(_validated)]


def check_networks(task: TaskConfig, model: ModelConfig, optim: OptimConfig) -> None:
    """Raise ValueError, a line each: settings of a network that the task does not have, and networks without an optimizer."""
    networks = of(task).networks(task)
    problems = []
    for section, settings in (("model", model), ("optim", optim)):
        legal = [*type(settings).model_fields, *networks]
        problems += [
            f"{config.unknown_key(f'{section}.{name}', value, legal)} (the networks of task.name={task.name!r}: {', '.join(networks)})"
            for name, value in settings.networks.items()
            if name not in networks
        ]
    problems += [f"optim.{name} is missing; add it to params.yaml" for name in networks if name not in optim.networks]
    if problems:
        raise ValueError("\n".join(problems))
