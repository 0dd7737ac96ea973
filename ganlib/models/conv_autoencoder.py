"""Convolutional encoder and decoder, trained jointly and so one network, for any size that halves down to a 4..7 pixel core."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator as Rng
from torch import Tensor, nn

from ganlib.config import Section
from ganlib.models import MODELS, PARTS, ImageSpec
from ganlib.models.layers.initialise import initialise_he
from ganlib.models.layers.sizes import doublings

FIRST_SIGMA = 0.3  # where a learnt one begins: a seventh of the range of a pixel


class AutoencoderOptions(Section):
    """Options of encoder and decoder."""

    width: int = Field(32, ge=1, description="channels at the finest level; doubles with each level, up to 4 times")


@dataclass(frozen=True)
class Coding:
    """All that an autoencoder finds in a batch, float32.

    Attributes:
        mean, log_variance: [N, latent_dim] of q(z | x), a Gaussian with independent coordinates.
        activation: [N, C, H, W], what its decoder makes of a z drawn from q, before tanh.
        log_sigma: [] of the decoder's Gaussian, for a likelihood that learns it.
    """

    mean: Tensor
    log_variance: Tensor
    activation: Tensor
    log_sigma: Tensor


class Encoder(nn.Module):
    """Convolutions of stride 2 down to the core, then one linear layer."""

    def __init__(self, image: ImageSpec, latent_dim: int, widths: list[int], core: tuple[int, int]) -> None:
        super().__init__()
        halvings = [nn.Conv2d(fan_in, fan_out, 4, 2, 1) for fan_in, fan_out in pairwise([image.channels, *widths])]
        layers = [part for halving in halvings for part in (halving, nn.ReLU(inplace=True))]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * core[0] * core[1], 2 * latent_dim))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # [N, C, H, W] -> mean, log variance [N, latent_dim] float32
        mean, log_variance = self.layers(images).float().chunk(2, 1)
        return mean, log_variance


class Decoder(nn.Module):
    """The encoder's mirror image: one linear layer, then transposed convolutions of stride 2."""

    def __init__(self, image: ImageSpec, latent_dim: int, widths: list[int], core: tuple[int, int]) -> None:
        super().__init__()
        doublings = [nn.ConvTranspose2d(fan_in, fan_out, 4, 2, 1) for fan_in, fan_out in pairwise([*widths[::-1], image.channels])]
        layers = [part for doubling in doublings for part in (nn.ReLU(inplace=True), doubling)]
        self.layers = nn.Sequential(nn.Linear(latent_dim, widths[-1] * core[0] * core[1]), nn.Unflatten(1, (widths[-1], *core)), *layers)

    def activation(self, z: Tensor) -> Tensor:  # [N, latent_dim] -> [N, C, H, W] float32, before tanh
        activation: Tensor = self.layers(z).float()
        return activation

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:  # [N, latent_dim] -> [N, C, H, W] float32 in [-1, 1]
        return self.activation(z).tanh()


class Autoencoder(nn.Module):
    """An encoder to the mean and the log variance of latents, and a decoder of them."""

    def __init__(self, image: ImageSpec, latent_dim: int, options: AutoencoderOptions) -> None:
        super().__init__()
        steps = doublings(image.size, family="conv_autoencoder")
        core = (image.size[0] >> steps, image.size[1] >> steps)
        widths = [options.width * min(4, 1 << level) for level in range(steps)]
        self.encoder = Encoder(image, latent_dim, widths, core)
        self.decoder = Decoder(image, latent_dim, widths, core)
        self.log_sigma = nn.Parameter(torch.empty(()))

    def forward(self, images: Tensor, labels: Tensor | None = None, *, noise: Tensor) -> Coding:
        """Images [N, C, H, W] coded, and decoded from z = mean + exp(log_variance / 2) * noise, noise [N, latent_dim] (arXiv:1312.6114, eq. 10)."""
        mean, log_variance = self.encoder(images)
        activation = self.decoder.activation(mean + (log_variance / 2).exp() * noise)
        return Coding(mean=mean, log_variance=log_variance, activation=activation, log_sigma=self.log_sigma)

    def initialise(self, rng: Rng) -> None:
        initialise_he(self, rng, slope=5**0.5)  # torch's own scale: what is coded and decoded begins near 0
        self.log_sigma.fill_(math.log(FIRST_SIGMA))


@PARTS.register("reconstruction")
class Reconstruction(nn.Module):
    """Images -> what an autoencoder makes of the mean of their latents."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.train(network.training)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:  # [N, C, H, W] in [-1, 1] -> the same
        mean, _ = self.network.get_submodule("encoder")(images)
        made: Tensor = self.network.get_submodule("decoder")(mean)
        return made


@PARTS.register("decoder")
def decoder(network: nn.Module) -> nn.Module:
    """Latents -> images."""
    return network.get_submodule("decoder")


class ConvAutoencoder:
    """Strided convolutions down to latents and back up, no normalisation; sizes that halve to a core of 4..7 pixels."""

    autoencoder_options = AutoencoderOptions
    roles: ClassVar[tuple[str, ...]] = ("autoencoder",)
    grows: ClassVar[bool] = False
    has_styles: ClassVar[bool] = False

    def check(self, image: ImageSpec) -> None:
        doublings(image.size, family="conv_autoencoder")

    def autoencoder(self, image: ImageSpec, latent_dim: int, options: AutoencoderOptions) -> nn.Module:
        return Autoencoder(image, latent_dim, options)


MODELS.register("conv_autoencoder", paper="arXiv:1312.6114, with convolutions")(ConvAutoencoder())
