"""Penalties on the discriminator's gradient: one value a sample, computed in float32.

A penalty with `interval_steps` k > 1 is lazy: it becomes a phase of its own, k times as strong, every k steps (arXiv:1912.04958, section 3.1).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ganlib.registry import Registry

Critic = Callable[[Tensor], Tensor]  # images [N, C, H, W] -> logits [N]


class Regularizer(Protocol):
    """Penalty of a discriminator at some images.

    Attributes:
        interval_steps: applied every so many steps.
        reads_fake: whether `fake` is needed.
        allows_batch_norm: whether the penalty means anything when one sample's logit depends on the others.
    """

    interval_steps: int
    reads_fake: ClassVar[bool]
    allows_batch_norm: ClassVar[bool]

    def penalty(self, critic: Critic, real: Tensor, fake: Tensor | None, rng: torch.Generator) -> Tensor:
        """[N, C, H, W] real and fake -> [N]."""


REGULARIZERS: Registry[Any] = Registry("regularizer", package="ganlib.regularizers")


def input_gradient(critic: Critic, images: Tensor) -> Tensor:
    """d(sum of logits)/d(images), [N, C, H, W], itself differentiable with respect to the critic's weights."""
    images = images.detach().requires_grad_(True)
    logits = critic(images)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient + 0.0 * logits[:, None, None, None]  # keeps every parameter in the graph: DDP waits for each one


def squared_norm(gradient: Tensor) -> Tensor:
    """[N, C, H, W] -> [N]: sum of squares over channels and pixels."""
    return gradient.square().sum((1, 2, 3))


@REGULARIZERS.register("gradient_penalty", paper="arXiv:1704.00028, eq. 3")
@dataclass(frozen=True, kw_only=True)
class GradientPenalty:
    """weight * (|grad D(x)| - 1)^2 at points between real and fake, one interpolation weight a sample (WGAN-GP)."""

    weight: float = 10.0
    interval_steps: int = 1
    reads_fake: ClassVar[bool] = True
    allows_batch_norm: ClassVar[bool] = False

    def penalty(self, critic: Critic, real: Tensor, fake: Tensor | None, rng: torch.Generator) -> Tensor:
        assert fake is not None
        alpha = torch.rand(len(real), 1, 1, 1, generator=rng).to(real.device)
        gradient = input_gradient(critic, real + alpha * (fake - real))
        return self.weight * ((squared_norm(gradient) + 1e-12).sqrt() - 1).square()  # 1e-12: the root has no slope at 0


@REGULARIZERS.register("r1", paper="arXiv:1801.04406, eq. 9")
@dataclass(frozen=True, kw_only=True)
class R1:
    """gamma / 2 * |grad D(x)|^2 at real images."""

    gamma: float = 1.0
    interval_steps: int = 1
    reads_fake: ClassVar[bool] = False
    allows_batch_norm: ClassVar[bool] = True

    def penalty(self, critic: Critic, real: Tensor, fake: Tensor | None, rng: torch.Generator) -> Tensor:
        return 0.5 * self.gamma * squared_norm(input_gradient(critic, real))


@REGULARIZERS.register("r2", paper="arXiv:1801.04406, eq. 10")
@dataclass(frozen=True, kw_only=True)
class R2:
    """gamma / 2 * |grad D(G(z))|^2 at generated images."""

    gamma: float = 1.0
    interval_steps: int = 1
    reads_fake: ClassVar[bool] = True
    allows_batch_norm: ClassVar[bool] = True

    def penalty(self, critic: Critic, real: Tensor, fake: Tensor | None, rng: torch.Generator) -> Tensor:
        assert fake is not None
        return 0.5 * self.gamma * squared_norm(input_gradient(critic, fake))
