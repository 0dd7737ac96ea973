"""A generator against a discriminator: every loss of `ganlib.losses`, every penalty of `ganlib.regularizers`."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ganlib import models, optim
from ganlib.config import ModelConfig, OptimConfig, TaskConfig, TrainConfig, construct
from ganlib.data.stream import Shard
from ganlib.losses import LOSSES, Loss
from ganlib.models import ImageSpec
from ganlib.networks import Networks, View
from ganlib.regularizers import REGULARIZERS, Regularizer
from ganlib.scalars import ShardScalars
from ganlib.tasks import TASKS, Phase, PhaseLoss, Play


def discriminator_loss(loss: Loss, penalties: Sequence[tuple[str, Regularizer]]) -> PhaseLoss:
    """D's loss on real and generated images, plus the penalties that are due at every step."""

    def compute(nets: View, shard: Shard, scalars: ShardScalars) -> Tensor:
        with torch.no_grad():
            fake = nets("generator", shard.latents())
        real_logits = nets("discriminator", shard.real)  # apart from fake: batch statistics never mix the two
        fake_logits = nets("discriminator", fake)
        values = loss.discriminator(real_logits, fake_logits)
        scalars.add("loss_discriminator", values)
        scalars.add("logit_real", real_logits)
        scalars.add("logit_fake", fake_logits)
        for name, penalty in penalties:
            extra = penalty.penalty(partial(nets, "discriminator", is_precise=True), shard.real, fake, shard.rng(name))
            scalars.add(f"penalty_{name}", extra)
            values = values + extra
        return values

    return compute


def penalty_loss(name: str, penalty: Regularizer) -> PhaseLoss:
    """A lazy penalty alone, as strong as the steps it stands for."""

    def compute(nets: View, shard: Shard, scalars: ShardScalars) -> Tensor:
        fake = None
        if penalty.reads_fake:
            with torch.no_grad():
                fake = nets("generator", shard.latents())
        values = penalty.penalty(partial(nets, "discriminator", is_precise=True), shard.real, fake, shard.rng(name))
        scalars.add(f"penalty_{name}", values)
        return values * penalty.interval_steps

    return compute


def generator_loss(loss: Loss) -> PhaseLoss:
    """G's loss; real logits only for a loss that compares with them."""

    def compute(nets: View, shard: Shard, scalars: ShardScalars) -> Tensor:
        fake_logits = nets("discriminator", nets("generator", shard.latents()))
        real_logits = None
        if loss.reads_real:
            with torch.no_grad():
                real_logits = nets("discriminator", shard.real)
        values = loss.generator(real_logits, fake_logits)
        scalars.add("loss_generator", values)
        return values

    return compute


class ClipWeights:
    """Clamp every weight to [-bound, bound] (WGAN, arXiv:1701.07875, algorithm 1, line 7)."""

    def __init__(self, bound: float) -> None:
        self.bound = bound

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> None:
        torch._foreach_clamp_min_(list(network.parameters()), -self.bound)
        torch._foreach_clamp_max_(list(network.parameters()), self.bound)


@TASKS.register("adversarial", paper="arXiv:1406.2661, algorithm 1")
class Adversarial:
    """One generator against one discriminator."""

    def check(self, model: ModelConfig, task: TaskConfig, image: ImageSpec) -> None:
        self._loss(task)
        penalties = self._penalties(task)
        models.check(model, image)
        normalization = model.discriminator.get("normalization", _default_normalization(model))
        for name, penalty in penalties:
            if normalization == "batch" and not penalty.allows_batch_norm:
                raise ValueError(
                    f"task.regularizers.{name} penalises each sample's own gradient, which batch norm mixes over the batch; "
                    "set model.discriminator.normalization: none"
                )

    def build(self, *, model: ModelConfig, task: TaskConfig, optim: OptimConfig, train: TrainConfig, image: ImageSpec) -> Play:
        self.check(model, task, image)
        loss, penalties = self._loss(task), self._penalties(task)
        generator, discriminator = models.build(model, image, seed=train.seed)
        networks = Networks({"generator": generator, "discriminator": discriminator}, train=train)
        lazy = [(name, penalty) for name, penalty in penalties if penalty.interval_steps > 1]
        every_step = [(name, penalty) for name, penalty in penalties if penalty.interval_steps == 1]
        optimizers = _optimizers(networks, optim, lazy_interval=min((p.interval_steps for _, p in lazy), default=1))
        phases = [
            Phase(
                name="discriminator",
                trains="discriminator",
                loss=discriminator_loss(loss, every_step),
                optimizer=optimizers["discriminator"],
                repeats=task.discriminator_repeats,
                constrain=ClipWeights(task.weight_clip) if task.weight_clip is not None else None,
            ),
            *(
                Phase(
                    name=f"penalty {name}",
                    trains="discriminator",
                    loss=penalty_loss(name, penalty),
                    optimizer=optimizers["discriminator"],
                    interval_steps=penalty.interval_steps,
                )
                for name, penalty in lazy
            ),
            Phase(name="generator", trains="generator", loss=generator_loss(loss), optimizer=optimizers["generator"]),
        ]
        return Play(networks=networks, phases=phases, optimizers=optimizers, sampled="generator")

    @staticmethod
    def _loss(task: TaskConfig) -> Loss:
        loss: Loss = construct(LOSSES.get(task.loss, key="task.loss"), task.loss_options, key="task.loss_options")
        return loss

    @staticmethod
    def _penalties(task: TaskConfig) -> list[tuple[str, Regularizer]]:
        penalties = []
        for name, values in task.regularizers.items():
            penalty = construct(REGULARIZERS.get(name, key="task.regularizers"), values or {}, key=f"task.regularizers.{name}")
            if penalty.interval_steps < 1:
                raise ValueError(f"task.regularizers.{name}.interval_steps={penalty.interval_steps}: expected at least 1")
            penalties.append((name, penalty))
        return penalties


def _default_normalization(model: ModelConfig) -> str:
    field = models.MODELS.get(model.name).discriminator_options.model_fields.get("normalization")
    return str(field.default) if field is not None else "none"


def _optimizers(networks: Networks, config: OptimConfig, *, lazy_interval: int) -> dict[str, torch.optim.Optimizer]:
    return {
        "generator": optim.build(config.generator, networks["generator"].parameters(), key="optim.generator"),
        "discriminator": optim.build(
            config.discriminator, networks["discriminator"].parameters(), lazy_interval=lazy_interval, key="optim.discriminator"
        ),
    }
