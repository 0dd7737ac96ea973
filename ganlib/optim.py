"""Optimizers by name, the learning-rate schedule in images, and the correction that lazy regularisation needs."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import nn

from ganlib.config import Section, construct
from ganlib.registry import Registry


class OptimizerConfig(Section):
    """One optimizer's specification; `options` belong to the named optimizer."""

    name: str = Field("adam", description="a registered optimizer")
    lr: float = Field(gt=0)
    options: dict[str, Any] = Field(default_factory=dict, description="for example betas: [0.5, 0.99]")
    max_gradient_norm: float | None = Field(None, gt=0, description="a longer gradient is scaled down to this norm (gradient clipping)")


class OptimConfig(Section):
    """An optimizer per network and the learning-rate schedule they share."""

    generator: OptimizerConfig
    discriminator: OptimizerConfig
    warmup_images: int = Field(0, ge=0, description="the learning rate rises linearly from 0 over this many images")
    decay: Literal["none", "linear", "cosine"] = Field("none", description="how the learning rate falls to 0 at total_images")
    decay_from: float = Field(0.0, ge=0, lt=1, description="share of total_images before the fall begins")


class OptimizerSpec(Protocol):
    """Options of one optimizer."""

    def build(self, parameters: list[nn.Parameter], *, lr: float, lazy: float) -> torch.optim.Optimizer:
        """`lazy` is k / (k + 1) where a lazy penalty takes an extra step every k steps, else 1: decay rates are raised to it."""


OPTIMIZERS: Registry[Any] = Registry("optimizer", package="ganlib.optim")


@OPTIMIZERS.register("sgd", paper="")
@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent, with momentum as an option."""

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def build(self, parameters: list[nn.Parameter], *, lr: float, lazy: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters, lr, momentum=self.momentum**lazy, nesterov=self.nesterov, weight_decay=self.weight_decay, fused=True
        )


@OPTIMIZERS.register("rmsprop", paper="Tieleman and Hinton 2012, lecture 6.5")
@dataclass(frozen=True, kw_only=True)
class RMSprop:
    """Steps divided by a moving root mean square of the gradient; the optimizer of the WGAN paper."""

    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0

    def build(self, parameters: list[nn.Parameter], *, lr: float, lazy: float) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(
            parameters, lr, alpha=self.alpha**lazy, eps=self.eps, momentum=self.momentum**lazy, weight_decay=self.weight_decay
        )


@dataclass(frozen=True, kw_only=True)
class _Moments:
    betas: tuple[float, float] = (0.5, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas={list(self.betas)}: each must be at least 0 and below 1 (params.yaml: optim.*.options.betas)")

    def _lazy_betas(self, lazy: float) -> tuple[float, float]:
        return self.betas[0] ** lazy, self.betas[1] ** lazy


@OPTIMIZERS.register("adam", paper="arXiv:1412.6980, algorithm 1")
@dataclass(frozen=True, kw_only=True)
class Adam(_Moments):
    """Adaptive moments; betas default to DCGAN's (0.5, 0.999)."""

    weight_decay: float = 0.0

    def build(self, parameters: list[nn.Parameter], *, lr: float, lazy: float) -> torch.optim.Optimizer:
        betas = self._lazy_betas(lazy)
        return torch.optim.Adam(parameters, lr, betas=betas, eps=self.eps, weight_decay=self.weight_decay, fused=True)


@OPTIMIZERS.register("adamw", paper="arXiv:1711.05101, algorithm 2")
@dataclass(frozen=True, kw_only=True)
class AdamW(_Moments):
    """Adam whose weight decay does not pass through the moments: each step takes lr * weight_decay of the weight."""

    weight_decay: float = 0.01

    def build(self, parameters: list[nn.Parameter], *, lr: float, lazy: float) -> torch.optim.Optimizer:
        betas = self._lazy_betas(lazy)
        return torch.optim.AdamW(parameters, lr, betas=betas, eps=self.eps, weight_decay=self.weight_decay, fused=True)


def check(config: OptimConfig) -> None:
    """Raise ValueError for an unknown optimizer or option."""
    for network in ("generator", "discriminator"):
        _spec(getattr(config, network), key=f"optim.{network}")


def _spec(config: OptimizerConfig, *, key: str) -> OptimizerSpec:
    spec: OptimizerSpec = construct(OPTIMIZERS.get(config.name, key=f"{key}.name"), config.options, key=f"{key}.options")
    return spec


def build(
    config: OptimizerConfig, parameters: Iterable[nn.Parameter], *, lazy_interval: int = 1, key: str = "optim"
) -> torch.optim.Optimizer:
    """The configured optimizer.

    Args:
        lazy_interval: k of a lazy penalty on the same network; lr and decay rates get the exponent or factor k / (k + 1)
            (StyleGAN2, arXiv:1912.04958, appendix B).
    """
    lazy = lazy_interval / (lazy_interval + 1) if lazy_interval > 1 else 1.0
    optimizer = _spec(config, key=key).build(list(parameters), lr=config.lr * lazy, lazy=lazy)
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer


def lr_factor(config: OptimConfig, *, images_seen: int, total_images: int) -> float:
    """The schedule's factor on the learning rate: warm-up from 0, then nothing, a line or half a cosine down to 0 at `total_images`."""
    factor = min(1.0, (images_seen + 1) / config.warmup_images) if config.warmup_images else 1.0
    start = config.decay_from * total_images
    progress = min(1.0, max(0.0, (images_seen - start) / (total_images - start)))
    if config.decay == "linear":
        factor *= 1 - progress
    elif config.decay == "cosine":
        factor *= 0.5 * (1 + math.cos(math.pi * progress))
    return factor


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
