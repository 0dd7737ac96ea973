"""A generator against a discriminator: every loss of `ganlib.losses`, every term of `ganlib.regularizers`."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ganlib import augment, freeze, models, optim
from ganlib.config import Section
from ganlib.data.stream import Shard
from ganlib.losses import LOSSES, Loss
from ganlib.models import ImageSpec
from ganlib.models.settings import ModelConfig
from ganlib.moment import Moment, drawn
from ganlib.networks import Networks, View
from ganlib.optim import OptimConfig
from ganlib.pool import Pool
from ganlib.products import Product
from ganlib.regularizers import REGULARIZERS, Regularizer, discriminator_option
from ganlib.sampling import Inputs, Prior
from ganlib.scalars import LOGIT_FAKE, LOGIT_REAL, SIGN_REAL, ShardScalars
from ganlib.schedule import Scheduled
from ganlib.steering import Steering
from ganlib.tasks import TASKS, Phase, PhaseLoss, Play
from ganlib.tasks.settings import TaskConfig
from ganlib.train_settings import TrainConfig


class AdversarialConfig(TaskConfig):
    """The section `task` of a generator against a discriminator."""

    loss: str = Field("non_saturating", description="a registered loss")
    loss_options: dict[str, Any] = Field(default_factory=dict)
    regularizers: dict[str, dict[str, Any]] = Field(default_factory=dict, description="name -> options, for example r1: {gamma: 1.0}")
    discriminator_repeats: int = Field(1, ge=1, description="discriminator updates per generator update (n_critic)")
    weight_clip: float | None = Field(None, gt=0, description="clip every discriminator weight to [-c, c] after its update (WGAN)")
    generator_loss_weight: float = Field(1.0, ge=0, description="of the adversarial loss; 0: regularizers alone train the generator")
    history_images: int = Field(
        0,
        ge=0,
        exclude_if=lambda images: images == 0,  # younger than many a state, whose key stays
        description="generated images of earlier steps that each logical worker keeps, half of what D is shown in its update; 0: none",
    )
    label_noise: float = Field(0.0, ge=0, le=0.5, description="share of pairs whose real and generated image swap labels in D's update")
    gradient_normalization: bool = Field(False, description="D divided by the norm of its input gradient (GN-GAN)")
    augment: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="name -> options; what D sees, real and generated, in its own update and in the generator's"
    )
    options: Section = Field(default_factory=Section, description="of the task itself; a plain pair has none")


HISTORY = "history"  # the name of its pool, and the purpose of its random numbers
LOSS = "loss"  # its key in Steering; regularizers and augmentations have their names


Term = Callable[[Moment, ShardScalars], Tensor]  # [n]; notes its own means


class Rules:
    """The loss functions of the phases: what is minimised at a moment, whichever networks play.

    Args:
        steering: holds the loss, the regularizers and the augmentations by key.
        present: changes real images before anything else sees them.
        inputs: what the generator is fed of a shard.
        own: of the task alone: added to the generator's loss.
        history: of generated images, for D's update.
    """

    def __init__(
        self,
        task: AdversarialConfig,
        steering: Steering,
        *,
        present: Callable[[Tensor], Tensor] = lambda images: images,
        inputs: Callable[[Shard], Inputs] = drawn,
        own: Term | None = None,
        history: Pool | None = None,
    ) -> None:
        self.task = task
        self.steering = steering
        self.present = present
        self.inputs = inputs
        self.own = own
        self.history = history
        self._regularizers = list(task.regularizers)

    def discriminator(self, nets: View, shard: Shard, scalars: ShardScalars) -> Tensor:
        """D's loss on real and generated images, plus the terms that are due at every step."""
        loss: Loss = self.steering[LOSS]
        moment = self._moment(
            nets, shard, scalars, trains_generator=False, remembered=self._remembered if self.history is not None else None
        )
        moment.fake  # noqa: B018 - made before D is called: layers that draw (dropout, noise) draw in this order
        real, fake = moment.real_judgement, moment.fake_judgement
        scalars.add(LOGIT_REAL, real.logits)
        scalars.add(LOGIT_FAKE, fake.logits)
        if SIGN_REAL in self.steering.watched:
            scalars.add(SIGN_REAL, real.logits.sign())
        real_verdicts, fake_verdicts = real.verdicts, fake.verdicts
        if self.task.label_noise:
            is_swapped = torch.rand(shard.count, generator=shard.rng("label noise")).to(real.logits.device) < self.task.label_noise
            is_swapped = is_swapped.view(-1, *[1] * (real_verdicts.ndim - 1))  # an image with all its patches
            real_verdicts, fake_verdicts = (
                torch.where(is_swapped, fake_verdicts, real_verdicts),
                torch.where(is_swapped, real_verdicts, fake_verdicts),
            )
        values = over_patches(loss.discriminator(real_verdicts, fake_verdicts))
        scalars.add("loss_discriminator", values)
        return values + self._terms("discriminator", moment, scalars)

    def generator(self, nets: View, shard: Shard, scalars: ShardScalars) -> Tensor:
        """G's loss, plus its terms; real logits only for a loss that compares with them."""
        loss: Loss = self.steering[LOSS]
        moment = self._moment(nets, shard, scalars, trains_generator=True)
        if not self.task.generator_loss_weight:
            values = 0.0 * moment.fake.sum((1, 2, 3))  # every parameter is in the graph, whatever the terms reach
        else:
            fake = moment.fake_judgement.verdicts
            values = over_patches(loss.generator(moment.real_judgement.verdicts if loss.reads_real else None, fake))
            scalars.add("loss_generator", values)
            values = values * self.task.generator_loss_weight
        values = values + self._terms("generator", moment, scalars)
        return values if self.own is None else values + self.own(moment, scalars)

    def lazy(self, name: str, network: str) -> PhaseLoss:
        """A lazy term alone, as strong as the steps it stands for."""

        def compute(nets: View, shard: Shard, scalars: ShardScalars) -> Tensor:
            regularizer: Regularizer = self.steering[name]
            moment = self._moment(nets, shard, scalars, trains_generator=network == "generator")
            return self._term(name, network, moment, scalars) * regularizer.interval_steps

        return compute

    def moment(self, nets: View, shard: Shard, scalars: ShardScalars) -> Moment:
        """A shard to look at: generated images without a gradient."""
        return self._moment(nets, shard, scalars, trains_generator=False)

    def _remembered(self, shard: Shard, images: Tensor) -> Tensor:
        assert self.history is not None
        return self.history.exchange(images, logical_worker=shard.logical_worker, rng=shard.rng(HISTORY))

    def _moment(
        self,
        nets: View,
        shard: Shard,
        scalars: ShardScalars,
        *,
        trains_generator: bool,
        remembered: Callable[[Shard, Tensor], Tensor] | None = None,
    ) -> Moment:
        return Moment(
            nets,
            shard,
            scalars,
            trains_generator=trains_generator,
            inputs=self.inputs,
            remembered=remembered,
            augmentations=[self.steering[name] for name in self.task.augment],
            present=self.present,
            is_normalized=self.task.gradient_normalization,
        )

    def _terms(self, network: str, moment: Moment, scalars: ShardScalars) -> Tensor | float:
        values: Tensor | float = 0.0
        for name in self._regularizers:
            regularizer = self.steering[name]
            if regularizer.interval_steps == 1 and network in regularizer.trains:
                values = values + self._term(name, network, moment, scalars)
        return values

    def _term(self, name: str, network: str, moment: Moment, scalars: ShardScalars) -> Tensor:
        values: Tensor = getattr(self.steering[name], network)(moment)
        scalars.add(f"penalty_{name}" if network == "discriminator" else f"penalty_{name}_generator", values)
        return values


def over_patches(values: Tensor) -> Tensor:
    """Losses [n], or [n, P] of patches, whose mean is the image's -> [n]."""
    return values if values.ndim == 1 else values.mean(1)


class ClipWeights:
    """Clamp every weight to [-bound, bound] (WGAN, arXiv:1701.07875, algorithm 1, line 7)."""

    def __init__(self, bound: float) -> None:
        self.bound = bound

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> None:
        trained: list[Tensor] = [p for p in network.parameters() if p.requires_grad]  # not what is frozen
        torch._foreach_clamp_min_(trained, -self.bound)
        torch._foreach_clamp_max_(trained, self.bound)


@TASKS.register("adversarial", paper="arXiv:1406.2661, algorithm 1")
class Adversarial:
    """One generator against one discriminator."""

    options: ClassVar[type[TaskConfig]] = AdversarialConfig

    def networks(self, task: AdversarialConfig) -> dict[str, str]:
        return models.PAIR

    def products(self, model: ModelConfig, task: AdversarialConfig, image: ImageSpec) -> tuple[Product, ...]:
        return products(model, image)

    def check(self, model: ModelConfig, task: AdversarialConfig, train: TrainConfig, image: ImageSpec) -> None:
        check_parts(model, task, image)
        check_shards(model, train)
        freeze.check(self.meta_networks(model, task, image), train.freeze)

    def meta_networks(
        self, model: ModelConfig, task: AdversarialConfig, image: ImageSpec, *, stage: int | None = None
    ) -> dict[str, nn.Module]:
        return meta_networks(model, image)

    def check_continued(
        self,
        model: ModelConfig,
        image: ImageSpec,
        before: tuple[AdversarialConfig, TrainConfig],
        after: tuple[AdversarialConfig, TrainConfig],
    ) -> None:
        return

    def build(
        self, *, model: ModelConfig, task: AdversarialConfig, optim: OptimConfig, train: TrainConfig, image: ImageSpec, stage: int = 0
    ) -> Play:
        self.check(model, task, train, image)
        generator, discriminator = models.build(model, image, seed=train.seed)
        modules = {"generator": generator, "discriminator": discriminator}
        return play(modules, task=task, optim_config=optim, train=train, image=image, products=self.products(model, task, image))


def products(model: ModelConfig, image: ImageSpec) -> tuple[Product, ...]:
    """The images of a generator."""
    return (Product(name="sample", network="generator", feed=Prior.of(model, image)),)


def meta_networks(model: ModelConfig, image: ImageSpec, *, level: int | None = None) -> dict[str, nn.Module]:
    """Generator and discriminator without memory."""
    return {network: models.sketch(model, image, network, role=role, level=level) for network, role in models.PAIR.items()}


def play(
    modules: Mapping[str, nn.Module],
    *,
    task: AdversarialConfig,
    optim_config: OptimConfig,
    train: TrainConfig,
    image: ImageSpec,
    parts: Mapping[str, Scheduled[Any]] | None = None,
    rules: Callable[[Steering, Networks], Rules] | None = None,
    **attributes: Any,
) -> Play:
    """Phases of a generator against a discriminator, or of a generator alone; `attributes` of the `Play` beside them.

    Args:
        modules: generator, and discriminator where there is one.
        image: that they make and judge.
        parts: of the task alone, by their key in Steering.
        rules: made once the networks have their places; None: the plain ones.
    """
    networks = Networks(modules, train=train)
    known = _parts(task) | dict(parts or {})
    steering = Steering({name: part.start for name, part in known.items()}, {name: part.schedules for name, part in known.items()})
    chosen = Rules(task, steering) if rules is None else rules(steering, networks)
    lazy = [(name, network) for name in task.regularizers for network in steering[name].trains if steering[name].interval_steps > 1]
    optimizers = {
        network: optim.build(
            optim_config[network],
            networks.trainable(network),
            lazy_interval=min((steering[name].interval_steps for name, trained in lazy if trained == network), default=1),
            key=f"optim.{network}",
        )
        for network in networks
    }

    def phase(name: str, trains: str, loss: PhaseLoss, **attributes: Any) -> Phase:
        bound = optim_config[trains].max_gradient_norm
        return Phase(name=name, trains=trains, loss=loss, optimizer=optimizers[trains], max_gradient_norm=bound, **attributes)

    has_discriminator, pools = "discriminator" in networks, {}
    if has_discriminator and task.history_images:
        shape = (image.channels, *image.size)
        chosen.history = pools[HISTORY] = Pool(shape, images=task.history_images, logical_workers=train.logical_workers)
    phases = {"generator": phase("generator", "generator", chosen.generator)}
    if has_discriminator:
        clip = ClipWeights(task.weight_clip) if task.weight_clip is not None else None
        repeats = task.discriminator_repeats
        phases = {"discriminator": phase("discriminator", "discriminator", chosen.discriminator, repeats=repeats, constrain=clip)} | phases
    lazy_phases: dict[str, list[Phase]] = {
        trained: [
            phase(f"penalty {name}", trained, chosen.lazy(name, trained), interval_steps=steering[name].interval_steps)
            for name, network in lazy
            if network == trained
        ]
        for trained in phases
    }
    ordered = [part for trained, main in phases.items() for part in (main, *lazy_phases[trained])]
    moment = chosen.moment if has_discriminator else None
    return Play(networks=networks, phases=ordered, optimizers=optimizers, moment=moment, steering=steering, pools=pools, **attributes)


def _parts(task: AdversarialConfig) -> dict[str, Scheduled[Any]]:
    """The loss, the regularizers and the augmentations of `task` by the key they have in `Steering`; ValueError for what is unknown."""
    parts: dict[str, Scheduled[Any]] = {
        LOSS: Scheduled.of(LOSSES.get(task.loss, key="task.loss"), task.loss_options, key="task.loss_options")
    }
    for name, values in task.regularizers.items():
        part = Scheduled.of(REGULARIZERS.get(name, key="task.regularizers"), values or {}, key=f"task.regularizers.{name}")
        if part.start.interval_steps < 1:
            raise ValueError(f"task.regularizers.{name}.interval_steps={part.start.interval_steps}: expected at least 1")
        if part.start.trains != part.end.trains:  # phases are made once
            raise ValueError(
                f"task.regularizers.{name} has a schedule that begins or ends at 0, where it leaves a network out; keep it above 0, for example "
                "at 1.0e-12"
            )
        parts[name] = part
    return parts | augment.parse(task.augment, key="task.augment")


def check_parts(model: ModelConfig, task: AdversarialConfig, image: ImageSpec) -> None:
    """Raise ValueError for what is unknown, and for a term that means nothing for these networks."""
    parts = _parts(task)
    models.check(model, image)
    if not task.generator_loss_weight and not any("generator" in parts[name].start.trains for name in task.regularizers):
        raise ValueError(
            "task.generator_loss_weight=0 leaves the generator nothing to learn from; "
            "add a term for it (task.regularizers.feature_matching), or give its loss a weight"
        )
    check_terms(model, task, image)


def check_terms(model: ModelConfig, task: AdversarialConfig, image: ImageSpec) -> None:
    """Raise ValueError for a loss or a term that is unknown, and for a term that means nothing for these networks."""
    if task.history_images and model.conditional:
        raise ValueError(
            f"task.history_images={task.history_images} shows D images of earlier steps, and model.conditional=true asks it about the classes of "
            "this one; set task.history_images: 0, or model.conditional: false"
        )
    parts = {name: part.start for name, part in _parts(task).items()}
    has_batch_norm = discriminator_option(model, "normalization") == "batch"
    for name in task.regularizers:
        parts[name].check(model, image)
        if has_batch_norm and not parts[name].allows_batch_norm:
            raise ValueError(
                f"task.regularizers.{name} penalises each sample's own gradient, which batch norm mixes over the batch; "
                "set model.discriminator.normalization: none"
            )


def check_shards(model: ModelConfig, train: TrainConfig) -> None:
    """Raise ValueError where a shard does not divide into the groups that D compares."""
    group, shard = discriminator_option(model, "minibatch_stddev_group") or 0, train.shard_images
    if group and shard > group and shard % group:
        raise ValueError(
            f"model.discriminator.minibatch_stddev_group={group} does not divide the {shard} images of a logical worker (train.batch_images="
            f"{train.batch_images} over logical_workers={train.logical_workers}); set a divisor of {shard}, or 0 for all of them"
        )
