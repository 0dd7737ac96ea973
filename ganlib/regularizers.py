"""Terms beside the adversarial loss: one value a sample, for the discriminator, the generator or both.

A regularizer is a class with a method named after each network it trains. One with `interval_steps` k > 1 is lazy: it becomes a phase of its own,
k times as strong, every k steps (arXiv:1912.04958, section 3.1). Past 300 lines because all terms of one kind stand together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganlib import models
from ganlib.augment.flip import HorizontalFlip
from ganlib.augment.moves import draw_shifts, translate
from ganlib.models import ImageSpec, Judgement
from ganlib.models.settings import ModelConfig
from ganlib.moment import Moment
from ganlib.registry import Registry
from ganlib.scalars import LOGIT_FAKE, LOGIT_REAL

Critic = Callable[[Tensor], Tensor]  # images [N, C, H, W] -> logits [N]


class Regularizer(Protocol):
    """For each network in `trains` it has a method of that name, `(moment) -> [n]`, which must reach every parameter of the network.

    It may have numbers that follow the training (`ganlib.steering`).

    Attributes:
        interval_steps: applied every so many steps.
        trains: the networks it has a term for, "discriminator" first; one whose weight is 0 is left out.
        allows_batch_norm: whether the term means anything when one sample's logit depends on the others.
    """

    @property
    def interval_steps(self) -> int: ...

    @property
    def trains(self) -> tuple[str, ...]: ...

    allows_batch_norm: ClassVar[bool]

    def check(self, model: ModelConfig, image: ImageSpec) -> None:
        """Raise ValueError where the networks lack what the term needs, with what to set instead."""


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


def off_one(gradient: Tensor) -> Tensor:
    """[N, C, H, W] -> [N]: (|gradient| - 1)^2."""
    return ((squared_norm(gradient) + 1e-12).sqrt() - 1).square()  # 1e-12: the root has no slope at 0


@REGULARIZERS.register("gradient_penalty", paper="arXiv:1704.00028, eq. 3")
@dataclass(frozen=True, kw_only=True)
class GradientPenalty(Regularizer):
    """weight * (|grad D(x)| - 1)^2 at points between real and fake, one interpolation weight a sample (WGAN-GP)."""

    weight: float = 10.0
    interval_steps: int = 1
    trains: ClassVar[tuple[str, ...]] = ("discriminator",)
    allows_batch_norm: ClassVar[bool] = False

    def discriminator(self, moment: Moment) -> Tensor:
        alpha = torch.rand(len(moment.real), 1, 1, 1, generator=moment.rng("gradient_penalty")).to(moment.real.device)
        gradient = input_gradient(moment.critic(moment.labels), moment.real + alpha * (moment.fake - moment.real))
        return self.weight * off_one(gradient)


@REGULARIZERS.register("dragan", paper="arXiv:1705.07215; the perturbation of its released code")
@dataclass(frozen=True, kw_only=True)
class Dragan(Regularizer):
    """weight * (|grad D(x)| - 1)^2 near real images: at x + alpha * spread * std * u.

    std is over the shard's values, u ~ U(0, 1) for each of them, alpha ~ U(0, 1) for each image.
    """

    weight: float = 10.0
    spread: float = 0.5
    interval_steps: int = 1
    trains: ClassVar[tuple[str, ...]] = ("discriminator",)
    allows_batch_norm: ClassVar[bool] = False

    def discriminator(self, moment: Moment) -> Tensor:
        rng = moment.rng("dragan")
        noise = torch.rand(moment.real.shape, generator=rng)
        alpha = torch.rand(len(moment.real), 1, 1, 1, generator=rng)
        step = self.spread * moment.real.std() * (alpha * noise).to(moment.real.device)
        return self.weight * off_one(input_gradient(moment.critic(moment.labels), moment.real + step))


@REGULARIZERS.register("r1", paper="arXiv:1801.04406, eq. 9")
@dataclass(frozen=True, kw_only=True)
class R1(Regularizer):
    """gamma / 2 * |grad D(x)|^2 at real images."""

    gamma: float = 1.0
    interval_steps: int = 1
    trains: ClassVar[tuple[str, ...]] = ("discriminator",)
    allows_batch_norm: ClassVar[bool] = True

    def discriminator(self, moment: Moment) -> Tensor:
        return 0.5 * self.gamma * squared_norm(input_gradient(moment.critic(moment.labels), moment.real))


@REGULARIZERS.register("r2", paper="arXiv:1801.04406, eq. 10")
@dataclass(frozen=True, kw_only=True)
class R2(Regularizer):
    """gamma / 2 * |grad D(G(z))|^2 at generated images."""

    gamma: float = 1.0
    interval_steps: int = 1
    trains: ClassVar[tuple[str, ...]] = ("discriminator",)
    allows_batch_norm: ClassVar[bool] = True

    def discriminator(self, moment: Moment) -> Tensor:
        return 0.5 * self.gamma * squared_norm(input_gradient(moment.critic(moment.fake_labels), moment.fake))


@dataclass(frozen=True, kw_only=True)
class _Approximate(Regularizer):
    """gamma / 2 * |grad D|^2 by a finite difference, without a second derivative: gamma / 2 * ((D(x + std * e) - D(x)) / std)^2, e ~ N(0, 1).

    Where D is smooth, D(x + std * e) - D(x) = std * <grad D(x), e> + O(std^2), and the mean of <g, e>^2 over e is |g|^2: the mean of the term is
    that of the exact one but for O(std^2). Its own draw is off by a factor chi^2 of one degree. The paper's lambda is gamma / (2 std^2): its
    lambda of 100 with its std of 0.01 is a gamma of 0.02.

    Args:
        gamma: as in r1 and r2.
        std: of the noise, where images are in [-1, 1]; 0.01 for images in the paper.
    """

    gamma: float = 1.0
    std: float = 0.01
    interval_steps: int = 1
    trains: ClassVar[tuple[str, ...]] = ("discriminator",)
    allows_batch_norm: ClassVar[bool] = False

    def check(self, model: ModelConfig, image: ImageSpec) -> None:
        if self.std <= 0:
            raise ValueError(f"task.regularizers.{self._name}.std={self.std}: expected a number above 0, such as 0.01")
        if discriminator_option(model, "dropout"):
            raise ValueError(
                f"task.regularizers.{self._name} compares two calls of the discriminator, and dropout draws another mask for each; "
                f"set model.discriminator.dropout: 0, or take {self._name.removeprefix('approximate_')}"
            )

    _name: ClassVar[str]

    def _value(self, moment: Moment, of: Literal["real", "fake"]) -> Tensor:
        images = moment.real if of == "real" else moment.fake
        step = self.std * torch.randn(images.shape, generator=moment.rng(self._name)).to(images)
        return 0.5 * self.gamma * (moment.change(of, step) / self.std).square()


@REGULARIZERS.register("approximate_r1", paper="arXiv:2501.08316, section 3.3")
@dataclass(frozen=True, kw_only=True)
class ApproximateR1(_Approximate):
    """R1 at real images by a finite difference: one more forward, no second derivative (APT)."""

    _name: ClassVar[str] = "approximate_r1"

    def discriminator(self, moment: Moment) -> Tensor:
        return self._value(moment, "real")


@REGULARIZERS.register("approximate_r2", paper="arXiv:2501.08316, section 3.3, at generated images as arXiv:1801.04406, eq. 10")
@dataclass(frozen=True, kw_only=True)
class ApproximateR2(_Approximate):
    """R2 at generated images by a finite difference: one more forward, no second derivative."""

    _name: ClassVar[str] = "approximate_r2"

    def discriminator(self, moment: Moment) -> Tensor:
        return self._value(moment, "fake")


@REGULARIZERS.register("drift", paper="arXiv:1710.10196, appendix A.1")
@dataclass(frozen=True, kw_only=True)
class Drift(Regularizer):
    """weight * D(x)^2 at real images: keeps a Wasserstein critic, whose loss knows no zero, from drifting away from it."""

    weight: float = 0.001
    interval_steps: int = 1
    trains: ClassVar[tuple[str, ...]] = ("discriminator",)
    allows_batch_norm: ClassVar[bool] = True

    def discriminator(self, moment: Moment) -> Tensor:
        return self.weight * moment.real_judgement.logits.square()


@dataclass(frozen=True, kw_only=True)
class _Consistency(Regularizer):
    """Squared change of the logit under a small move of the image.

    Args:
        shift: up to this share of the side, in whole pixels (an eighth of 32 pixels are the paper's 4); zeros come in.
        flip: mirror half of the images, too; for data where the mirror image is as likely.
    """

    shift: float = 0.125
    flip: bool = False
    interval_steps: int = 1
    trains: ClassVar[tuple[str, ...]] = ("discriminator",)
    allows_batch_norm: ClassVar[bool] = True

    def _change(self, moment: Moment, judgement: Judgement, images: Tensor, labels: Tensor | None, rng: torch.Generator) -> Tensor:
        moved = translate(images, *draw_shifts(images, self.shift, rng))
        if self.flip:
            moved = HorizontalFlip()(moved, rng)
        return (judgement.logits - moment.judge(moved, labels).logits).square()


@REGULARIZERS.register("consistency", paper="arXiv:1910.12027")
@dataclass(frozen=True, kw_only=True)
class Consistency(_Consistency):
    """weight * (D(x) - D(T(x)))^2 at real images, T a random shift, and flip (CR-GAN)."""

    weight: float = 10.0

    def discriminator(self, moment: Moment) -> Tensor:
        rng = moment.rng("consistency")
        return self.weight * self._change(moment, moment.real_judgement, moment.real, moment.labels, rng)


@REGULARIZERS.register("balanced_consistency", paper="arXiv:2002.04724, algorithm 1")
@dataclass(frozen=True, kw_only=True)
class BalancedConsistency(_Consistency):
    """Consistency at real and at generated images (bCR-GAN)."""

    real_weight: float = 10.0
    fake_weight: float = 10.0

    def discriminator(self, moment: Moment) -> Tensor:
        rng = moment.rng("balanced_consistency")
        real = self._change(moment, moment.real_judgement, moment.real, moment.labels, rng)
        fake = self._change(moment, moment.fake_judgement, moment.fake, moment.fake_labels, rng)
        return self.real_weight * real + self.fake_weight * fake


@REGULARIZERS.register("lecam", paper="arXiv:2104.03310; the released code's relu and debiased averages")
@dataclass(frozen=True, kw_only=True)
class LeCam(Regularizer):
    """weight * (relu(D(x) - mean_fake)^2 + relu(mean_real - D(G(z)))^2), the means moving averages of the logits; for few images.

    The averages are debiased: the first is that of the first step, and until there is one the term is 0.

    Args:
        decay: of the averages, per step.
        warmup_steps: the term begins after so many; the averages move from the first step on.
        mean_real, mean_fake, steps: the averages, and over how many steps they are; they move by themselves.
    """

    weight: float = 0.3
    decay: float = 0.99
    warmup_steps: int = 0
    mean_real: float = 0.0
    mean_fake: float = 0.0
    steps: float = 0.0
    interval_steps: int = 1
    trains: ClassVar[tuple[str, ...]] = ("discriminator",)
    allows_batch_norm: ClassVar[bool] = True
    steered: ClassVar[tuple[str, ...]] = ("mean_real", "mean_fake", "steps")
    watches: ClassVar[tuple[str, ...]] = (LOGIT_REAL, LOGIT_FAKE)

    def check(self, model: ModelConfig, image: ImageSpec) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"task.regularizers.lecam.decay={self.decay}: expected at least 0 and below 1, such as 0.99")

    def discriminator(self, moment: Moment) -> Tensor:
        real, fake = moment.real_judgement.logits, moment.fake_judgement.logits
        if self.steps <= self.warmup_steps:
            return 0.0 * (real + fake)
        return self.weight * (F.relu(real - self.mean_fake).square() + F.relu(self.mean_real - fake).square())

    def adapt(self, means: Mapping[str, float], images: int) -> "LeCam":
        steps = self.steps + 1
        share = (1 - self.decay) / (1 - self.decay**steps)  # of the newest in an average of so many, whose weights add up to 1
        return replace(
            self,
            mean_real=self.mean_real + share * (means[LOGIT_REAL] - self.mean_real),
            mean_fake=self.mean_fake + share * (means[LOGIT_FAKE] - self.mean_fake),
            steps=steps,
        )


@REGULARIZERS.register("path_length", paper="arXiv:1912.04958, eq. 4")
@dataclass(frozen=True, kw_only=True)
class PathLength(Regularizer):
    """weight * (|J^T y| - mean)^2: a step in style space changes the image as much everywhere. For style-based generators.

    J^T y is the gradient of sum(image * y) with respect to the styles [n, L, D], y ~ N(0, 1 / pixels); its norm is the root of the mean over the L
    layers of the sum of squares over D.

    Args:
        decay: of the mean, per step in which the term is due.
        mean: where it starts; it moves by itself.
        shrink: one in so many of the shard's images is made for it.
    """

    weight: float = 2.0
    interval_steps: int = 4
    decay: float = 0.99
    mean: float = 0.0
    shrink: int = 2
    trains: ClassVar[tuple[str, ...]] = ("generator",)
    allows_batch_norm: ClassVar[bool] = True
    steered: ClassVar[tuple[str, ...]] = ("mean",)
    watches: ClassVar[tuple[str, ...]] = ("path_length",)

    def check(self, model: ModelConfig, image: ImageSpec) -> None:
        if not models.MODELS.get(model.name, key="model.name").has_styles:
            raise ValueError(
                f"task.regularizers.path_length measures paths in a generator's styles, and model.name={model.name!r} has none; "
                "set model.name: stylegan2, or take path_length out"
            )

    def generator(self, moment: Moment) -> Tensor:
        made = moment.synthesise(max(1, moment.count // self.shrink))
        height, width = made.images.shape[2:]
        noise = torch.randn(made.images.shape, generator=moment.rng("path_length")).to(made.images.device) / (height * width) ** 0.5
        (gradient,) = torch.autograd.grad((made.images * noise).sum(), made.styles, create_graph=True)
        lengths = (gradient.square().sum(2).mean(1) + 1e-12).sqrt()
        moment.note("path_length", lengths)
        values = self.weight * (lengths - self.mean).square() + 0.0 * made.images.sum((1, 2, 3))  # the last biases: DDP waits for them
        return values.mean().expand(moment.count)

    def adapt(self, means: Mapping[str, float], images: int) -> "PathLength":
        return replace(self, mean=self.decay * self.mean + (1 - self.decay) * means["path_length"])


@REGULARIZERS.register("feature_matching", paper="arXiv:1606.03498, section 3.1")
@dataclass(frozen=True, kw_only=True)
class FeatureMatching(Regularizer):
    """weight * |mean f(x) - mean f(G(z))|^2 for G, f the features D's logit is made of; with task.generator_loss_weight 0 it stands alone."""

    weight: float = 1.0
    interval_steps: int = 1
    trains: ClassVar[tuple[str, ...]] = ("generator",)
    allows_batch_norm: ClassVar[bool] = True

    def generator(self, moment: Moment) -> Tensor:
        wanted = moment.real_judgement.features.detach().mean(0)
        value = (wanted - moment.fake_judgement.features.mean(0)).square().sum()
        return self.weight * value.expand(moment.count)


@REGULARIZERS.register("auxiliary_classifier", paper="arXiv:1610.09585, eq. 3")
@dataclass(frozen=True, kw_only=True)
class AuxiliaryClassifier(Regularizer):
    """Cross entropy of the class that D finds: D learns it from real images, and from generated ones; G is to be recognised (AC-GAN).

    Args:
        learns_from_fake: D's classifier is trained on generated images, too, as in the paper.
    """

    discriminator_weight: float = 1.0
    generator_weight: float = 1.0
    learns_from_fake: bool = True
    interval_steps: int = 1
    allows_batch_norm: ClassVar[bool] = True

    @property
    def trains(self) -> tuple[str, ...]:
        return tuple(
            name for name, weight in (("discriminator", self.discriminator_weight), ("generator", self.generator_weight)) if weight
        )

    def check(self, model: ModelConfig, image: ImageSpec) -> None:
        if not model.conditional or discriminator_option(model, "condition") != "auxiliary":
            raise ValueError(
                "task.regularizers.auxiliary_classifier needs a discriminator that names the class; "
                "set model.conditional: true and model.discriminator.condition: auxiliary, or take auxiliary_classifier out"
            )

    def discriminator(self, moment: Moment) -> Tensor:
        values = _class_error(moment.real_judgement, moment.labels)
        if self.learns_from_fake:
            values = values + _class_error(moment.fake_judgement, moment.fake_labels)
        return self.discriminator_weight * values

    def generator(self, moment: Moment) -> Tensor:
        return self.generator_weight * _class_error(moment.fake_judgement, moment.fake_labels)


def _class_error(judgement: Judgement, labels: Tensor | None) -> Tensor:
    """[N] cross entropies; the logit stays in the graph, so that the term reaches every parameter by itself."""
    assert judgement.class_logits is not None
    assert labels is not None
    return F.cross_entropy(judgement.class_logits, labels, reduction="none") + 0.0 * judgement.logits


@REGULARIZERS.register("orthogonal", paper="arXiv:1809.11096, eq. 3")
@dataclass(frozen=True, kw_only=True)
class Orthogonal(Regularizer):
    """weight * sum of squared products of different filters of a layer, over all layers but embeddings (BigGAN)."""

    generator_weight: float = 1e-4
    discriminator_weight: float = 0.0
    interval_steps: ClassVar[int] = 1  # it calls no network, so it cannot be an update of its own
    allows_batch_norm: ClassVar[bool] = True

    @property
    def trains(self) -> tuple[str, ...]:
        return tuple(
            name for name, weight in (("discriminator", self.discriminator_weight), ("generator", self.generator_weight)) if weight
        )

    def discriminator(self, moment: Moment) -> Tensor:
        return self.discriminator_weight * overlap(moment.network("discriminator")).expand(moment.count)

    def generator(self, moment: Moment) -> Tensor:
        return self.generator_weight * overlap(moment.network("generator")).expand(moment.count)


def overlap(network: nn.Module) -> Tensor:
    """Sum over layers of |W^T W * (1 - I)|^2, a column of W a filter: the weights of one output."""
    total = torch.zeros((), device=next(network.parameters()).device)
    for module in network.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Embedding) or not isinstance(weight, nn.Parameter) or weight.ndim < 2:
            continue
        filters = (weight.transpose(0, 1) if isinstance(module, nn.ConvTranspose2d) else weight).flatten(1)
        total = total + 2 * (filters @ filters.T).triu(1).square().sum()  # each pair twice
    return total


def discriminator_option(model: ModelConfig, name: str) -> Any:
    """An option of the discriminator, as given or by default; None where the family has no such option."""
    field = models.options_of(model, "discriminator").model_fields.get(name)
    return model["discriminator"].get(name, field.default if field is not None else None)
