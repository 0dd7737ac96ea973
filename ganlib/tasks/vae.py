"""A variational autoencoder: an encoder and a decoder that maximise a lower bound of the data's likelihood."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ganlib import freeze, models, optim
from ganlib.data.stream import Shard
from ganlib.models import ImageSpec
from ganlib.models.conv_autoencoder import Coding
from ganlib.models.settings import ModelConfig
from ganlib.networks import Networks, View
from ganlib.optim import OptimConfig
from ganlib.products import Column, Product
from ganlib.sampling import Prior
from ganlib.scalars import ShardScalars
from ganlib.schedule import Rate, Scheduled, not_negative
from ganlib.steering import Steering
from ganlib.tasks import TASKS, Phase, Play
from ganlib.tasks.settings import TaskConfig
from ganlib.train_settings import TrainConfig

NETWORK = "autoencoder"
LOSS = "elbo"  # its key in Steering
Likelihood = Literal["gaussian", "bernoulli"]


class VAEConfig(TaskConfig):
    """The section `task` of a variational autoencoder."""

    beta: Rate = Field(1.0, description="weight of the KL divergence, or a schedule; 1: the bound itself, above: beta-VAE (ICLR 2017)")
    likelihood: Likelihood = Field("gaussian", description="p(x | z) of a pixel; bernoulli takes its brightness for a probability")
    sigma: float | None = Field(
        None, gt=0, description="of the Gaussian, pixels being in [-1, 1]; null: one number, learnt (arXiv:2006.13202, section 3.1)"
    )


@dataclass(frozen=True, kw_only=True)
class ELBO:
    """The two terms of the evidence lower bound (arXiv:1312.6114, eq. 3), in nats an image, as what is minimised."""

    beta: float = 1.0
    likelihood: Likelihood = "gaussian"
    sigma: float | None = None

    def __call__(self, images: Tensor, coding: Coding) -> tuple[Tensor, Tensor]:
        """Images [n, C, H, W] in [-1, 1] -> (-log p(x | z), KL(q(z | x) || p(z))), each [n] float32; every parameter is in the first one's graph."""
        return self._error(images, coding) + 0.0 * coding.log_sigma, divergence(coding.mean, coding.log_variance)

    def _error(self, images: Tensor, coding: Coding) -> Tensor:
        if self.likelihood == "bernoulli":  # tanh(a) = 2 sigmoid(2 a) - 1
            nats = F.binary_cross_entropy_with_logits(2 * coding.activation, (images + 1) / 2, reduction="none")
            return nats.flatten(1).sum(1)
        log_sigma = coding.log_sigma if self.sigma is None else torch.full_like(coding.log_sigma, math.log(self.sigma))
        deviation = (images - coding.activation.tanh()) * torch.exp(-log_sigma)
        return (0.5 * deviation.square() + log_sigma + 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) in nats, summed over coordinates (arXiv:1312.6114, appendix B): [n, d] twice -> [n]."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


@TASKS.register("vae", paper="arXiv:1312.6114")
class VAE:
    """An autoencoder whose latents are a distribution near N(0, 1): it draws images, and codes those it is shown."""

    options: ClassVar[type[TaskConfig]] = VAEConfig

    def networks(self, task: VAEConfig) -> dict[str, str]:
        return {NETWORK: "autoencoder"}

    def products(self, model: ModelConfig, task: VAEConfig, image: ImageSpec) -> tuple[Product, ...]:
        return (
            Product(name="sample", network=NETWORK, feed=Prior.of(model, image), part="decoder"),
            Product(name="reconstruct", network=NETWORK, feed=Column(), part="reconstruction", has_truth=True),
        )

    def check(self, model: ModelConfig, task: VAEConfig, train: TrainConfig, image: ImageSpec) -> None:
        not_negative(task.beta, key="task.beta")
        if task.likelihood == "bernoulli" and task.sigma is not None:
            raise ValueError(f"task.sigma={task.sigma} is of a Gaussian, and task.likelihood=bernoulli has none; set task.sigma: null")
        if model.latent_distribution != "normal":
            raise ValueError(
                f"model.latent_distribution={model.latent_distribution!r}: the latents of task.name=vae are held near N(0, 1); set it to normal"
            )
        if model.conditional:
            raise ValueError("model.conditional=true: the networks of task.name=vae are told no class; set model.conditional: false")
        models.check(model, image, self.networks(task))
        freeze.check(self.meta_networks(model, task, image), train.freeze)

    def meta_networks(self, model: ModelConfig, task: VAEConfig, image: ImageSpec, *, stage: int | None = None) -> dict[str, nn.Module]:
        return {network: models.sketch(model, image, network, role=role) for network, role in self.networks(task).items()}

    def check_continued(
        self, model: ModelConfig, image: ImageSpec, before: tuple[VAEConfig, TrainConfig], after: tuple[VAEConfig, TrainConfig]
    ) -> None:
        return

    def build(
        self, *, model: ModelConfig, task: VAEConfig, optim: OptimConfig, train: TrainConfig, image: ImageSpec, stage: int = 0
    ) -> Play:
        self.check(model, task, train, image)
        autoencoder = models.build_network(model, image, NETWORK, role=self.networks(task)[NETWORK], seed=train.seed)
        networks = Networks({NETWORK: autoencoder}, train=train)
        bound = Scheduled.of(ELBO, task.model_dump(mode="json", exclude={"name"}), key="task")
        steering = Steering({LOSS: bound.start}, {LOSS: bound.schedules})
        optimizer = build_optimizer(optim, networks)

        def loss(nets: View, shard: Shard, scalars: ShardScalars) -> Tensor:
            elbo: ELBO = steering[LOSS]
            noise = torch.randn(shard.count, model.latent_dim, generator=shard.rng("latents")).to(networks.device)
            error, nats = elbo(shard.real, nets(NETWORK, shard.real, noise=noise))
            scalars.add("loss_reconstruction", error)
            scalars.add("loss_kl", nats)
            return error + elbo.beta * nats

        phase = Phase(name=NETWORK, trains=NETWORK, loss=loss, optimizer=optimizer, max_gradient_norm=optim[NETWORK].max_gradient_norm)
        products = self.products(model, task, image)
        return Play(networks=networks, phases=[phase], optimizers={NETWORK: optimizer}, products=products, steering=steering)


def build_optimizer(config: OptimConfig, networks: Networks) -> torch.optim.Optimizer:
    return optim.build(config[NETWORK], networks.trainable(NETWORK), key=f"optim.{NETWORK}")
