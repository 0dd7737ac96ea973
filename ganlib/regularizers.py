"""Terms beside the adversarial loss: one value a sample, for the discriminator, the generator or both.

A regularizer is a class with a method named after each network it trains. One with `interval_steps` k > 1 is lazy: it becomes a phase of its own,
k times as strong, every k steps (arXiv:1912.04958, section 3.1).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ganlib.moment import Moment
from ganlib.registry import Registry

Critic = Callable[[Tensor], Tensor]  # images [N, C, H, W] -> logits [N]


class Regularizer(Protocol):
    """Beside these it has `discriminator(moment) -> [n]`, `generator(moment) -> [n]`, or both; it must reach every parameter of the network.

    Attributes:
        interval_steps: applied every so many steps.
        allows_batch_norm: whether the term means anything when one sample's logit depends on the others.
    """

    @property
    def interval_steps(self) -> int: ...

    allows_batch_norm: ClassVar[bool]


REGULARIZERS: Registry[Any] = Registry("regularizer", package="ganlib.regularizers")


def trained_by(regularizer: Regularizer) -> list[str]:
    """The networks a regularizer has a term for."""
    return [name for name in ("discriminator", "generator") if hasattr(regularizer, name)]


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
    allows_batch_norm: ClassVar[bool] = False

    def discriminator(self, moment: Moment) -> Tensor:
        alpha = torch.rand(len(moment.real), 1, 1, 1, generator=moment.rng("gradient_penalty")).to(moment.real.device)
        gradient = input_gradient(moment.critic(moment.labels), moment.real + alpha * (moment.fake - moment.real))
        return self.weight * ((squared_norm(gradient) + 1e-12).sqrt() - 1).square()  # 1e-12: the root has no slope at 0


@REGULARIZERS.register("r1", paper="arXiv:1801.04406, eq. 9")
@dataclass(frozen=True, kw_only=True)
class R1:
    """gamma / 2 * |grad D(x)|^2 at real images."""

    gamma: float = 1.0
    interval_steps: int = 1
    allows_batch_norm: ClassVar[bool] = True

    def discriminator(self, moment: Moment) -> Tensor:
        return 0.5 * self.gamma * squared_norm(input_gradient(moment.critic(moment.labels), moment.real))


@REGULARIZERS.register("r2", paper="arXiv:1801.04406, eq. 10")
@dataclass(frozen=True, kw_only=True)
class R2:
    """gamma / 2 * |grad D(G(z))|^2 at generated images."""

    gamma: float = 1.0
    interval_steps: int = 1
    allows_batch_norm: ClassVar[bool] = True

    def discriminator(self, moment: Moment) -> Tensor:
        return 0.5 * self.gamma * squared_norm(input_gradient(moment.critic(moment.fake_labels), moment.fake))
