"""Optimizers by name, the numbers of theirs that follow images seen, and the correction that lazy regularisation needs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import ConfigDict, Field
from torch import nn

from ganlib.config import Section
from ganlib.registry import Registry
from ganlib.schedule import Rate, Schedule, Scheduled, fall, first, not_negative, replaced, spoken


class OptimizerConfig(Section):
    """One optimizer's specification; `options` belong to the named optimizer."""

    name: str = Field("adam", description="a registered optimizer")
    lr: Rate = Field(description="above 0, or a schedule: {schedule: cosine, from: 2.0e-4, to: 5.0e-5, end_share: 0.8} (ganlib.schedule)")
    options: dict[str, Any] = Field(default_factory=dict, description="for example betas: [0.5, 0.99]; numbers may be schedules")
    max_gradient_norm: float | None = Field(None, gt=0, description="a longer gradient is scaled down to this norm (gradient clipping)")


class OptimConfig(Section):
    """A factor on all learning rates; beside the keys here, the name of each network of the task with its optimizer.

    Which networks a task has is the task's (`ganlib.tasks.check_networks`).
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, OptimizerConfig]

    warmup_images: int = Field(0, ge=0, description="the learning rate rises linearly from 0 over this many images")
    decay: Literal["none", "linear", "cosine"] = Field("none", description="how the learning rate falls to 0 at total_images")
    decay_from: float = Field(0.0, ge=0, lt=1, description="share of total_images before the fall begins")

    @property
    def networks(self) -> dict[str, OptimizerConfig]:
        """Network -> its optimizer."""
        return dict(self.__pydantic_extra__)

    def __getitem__(self, network: str) -> OptimizerConfig:
        return self.networks[network]


class OptimizerSpec(Protocol):
    """Options of one optimizer.

    Attributes:
        fixed: options that cannot follow a schedule.
    """

    fixed: ClassVar[tuple[str, ...]]

    def group(self, lazy: float) -> dict[str, Any]:
        """What torch's optimizer reads at every step, by its names.

        Args:
            lazy: k / (k + 1) where a lazy penalty takes an extra step every k steps, else 1: decay rates are raised to it.
        """

    def build(self, parameters: list[nn.Parameter], *, lr: float, lazy: float) -> torch.optim.Optimizer: ...


OPTIMIZERS: Registry[Any] = Registry("optimizer", package="ganlib.optim")


@OPTIMIZERS.register("sgd", paper="")
@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent, with momentum as an option."""

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    fixed: ClassVar[tuple[str, ...]] = ()

    def group(self, lazy: float) -> dict[str, Any]:
        return {"momentum": self.momentum**lazy, "weight_decay": self.weight_decay}

    def build(self, parameters: list[nn.Parameter], *, lr: float, lazy: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr, nesterov=self.nesterov, fused=True, **self.group(lazy))


@OPTIMIZERS.register("rmsprop", paper="Tieleman and Hinton 2012, lecture 6.5")
@dataclass(frozen=True, kw_only=True)
class RMSprop:
    """Steps divided by a moving root mean square of the gradient; the optimizer of the WGAN paper."""

    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0
    fixed: ClassVar[tuple[str, ...]] = ("momentum",)  # torch makes its buffer with the first step or never

    def group(self, lazy: float) -> dict[str, Any]:
        return {"alpha": self.alpha**lazy, "eps": self.eps, "momentum": self.momentum**lazy, "weight_decay": self.weight_decay}

    def build(self, parameters: list[nn.Parameter], *, lr: float, lazy: float) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(parameters, lr, **self.group(lazy))


@dataclass(frozen=True, kw_only=True)
class _Moments:
    betas: tuple[float, float] = (0.5, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    fixed: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas={list(self.betas)}: each must be at least 0 and below 1 (params.yaml: optim.*.options.betas)")

    def group(self, lazy: float) -> dict[str, Any]:
        betas = self.betas[0] ** lazy, self.betas[1] ** lazy
        return {"betas": betas, "eps": self.eps, "weight_decay": self.weight_decay}


@OPTIMIZERS.register("adam", paper="arXiv:1412.6980, algorithm 1")
@dataclass(frozen=True, kw_only=True)
class Adam(_Moments):
    """Adaptive moments; betas default to DCGAN's (0.5, 0.999)."""

    def build(self, parameters: list[nn.Parameter], *, lr: float, lazy: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr, fused=True, **self.group(lazy))


@OPTIMIZERS.register("adamw", paper="arXiv:1711.05101, algorithm 2")
@dataclass(frozen=True, kw_only=True)
class AdamW(_Moments):
    """Adam whose weight decay does not pass through the moments: each step takes lr * weight_decay of the weight."""

    weight_decay: float = 0.01

    def build(self, parameters: list[nn.Parameter], *, lr: float, lazy: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr, fused=True, **self.group(lazy))


def check(config: OptimConfig) -> None:
    """Raise ValueError for an unknown optimizer or option, and for two schedules of one learning rate."""
    for network, chosen in config.networks.items():
        plan(chosen, key=f"optim.{network}")
        not_negative(chosen.lr, key=f"optim.{network}.lr")
        if isinstance(chosen.lr, Schedule) and config.decay != "none":
            raise ValueError(
                f"optim.decay={config.decay} would lower optim.{network}.lr, which has a schedule of its own, to 0; set optim.decay: none"
            )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The numbers of one optimizer, as its settings have them.

    Attributes:
        options: an `OptimizerSpec`, whose numbers may be scheduled.
    """

    lr: float | Schedule
    options: Scheduled[Any]

    @property
    def is_scheduled(self) -> bool:
        return isinstance(self.lr, Schedule) or bool(self.options.schedules)

    def follow(self, optimizer: torch.optim.Optimizer, *, images_seen: int, total_images: int) -> dict[str, float]:
        """Write the numbers of this many images into the optimizer; by name, those that are scheduled. Before the factor on the learning rate."""
        if not self.is_scheduled:
            return {}
        numbers = self.options.at(images_seen=images_seen, total_images=total_images)
        spec: OptimizerSpec = replaced(self.options.start, numbers)
        found = {spoken(name): number for name, number in numbers.items()}
        if isinstance(self.lr, Schedule):
            found["lr"] = self.lr.value(images_seen=images_seen, total_images=total_images)
        for group in optimizer.param_groups:
            group.update(spec.group(group["lazy"]))
            if isinstance(self.lr, Schedule):
                group["base_lr"] = found["lr"] * group["lazy"]
        return found


def plan(config: OptimizerConfig, *, key: str) -> Plan:
    """ValueError for an unknown optimizer or option."""
    kind = OPTIMIZERS.get(config.name, key=f"{key}.name")
    return Plan(lr=config.lr, options=Scheduled.of(kind, config.options, key=f"{key}.options"))


def build(
    config: OptimizerConfig, parameters: Iterable[nn.Parameter], *, lazy_interval: int = 1, key: str = "optim"
) -> torch.optim.Optimizer:
    """The configured optimizer.

    Args:
        lazy_interval: k of a lazy penalty on the same network; lr and decay rates get the exponent or factor k / (k + 1)
            (StyleGAN2, arXiv:1912.04958, appendix B).
    """
    lazy = lazy_interval / (lazy_interval + 1) if lazy_interval > 1 else 1.0
    planned = plan(config, key=key)
    spec: OptimizerSpec = planned.options.start
    optimizer = spec.build(list(parameters), lr=first(config.lr) * lazy, lazy=lazy)
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
        if planned.is_scheduled:
            group["lazy"] = lazy
    return optimizer


def lr_factor(config: OptimConfig, *, images_seen: int, total_images: int) -> float:
    """The factor on all learning rates: warm-up from 0, then nothing, a line or half a cosine down to 0 at `total_images`."""
    factor = min(1.0, (images_seen + 1) / config.warmup_images) if config.warmup_images else 1.0
    start = config.decay_from * total_images
    progress = min(1.0, max(0.0, (images_seen - start) / (total_images - start)))
    return factor * fall(config.decay, progress)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
