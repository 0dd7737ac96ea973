"""Fully connected generator and discriminator: the networks of the first GAN."""

import math
from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Generator as Rng
from torch import Tensor, nn

from ganlib.config import Section
from ganlib.models import MODELS, ImageSpec
from ganlib.models.layers.initialise import initialise_he
from ganlib.models.layers.minibatch import MinibatchStddev
from ganlib.models.layers.noise import Dropout
from ganlib.models.layers.norm import BatchNormFlat


class MLPOptions(Section):
    """Options of either network."""

    width: int = Field(32, ge=1, description="units of a hidden layer, divided by 8, so that it can stay when the family changes")
    depth: int = Field(3, ge=1, description="hidden layers")
    normalization: Literal["none", "batch"] = "none"
    dropout: float = Field(0.0, ge=0, lt=1)
    minibatch_stddev: bool = Field(False, description="discriminator: the batch's spread as one more feature")


class MLPGenerator(nn.Module):
    """Latents through rectified hidden layers to a tanh image."""

    def __init__(self, image: ImageSpec, latent_dim: int, options: MLPOptions) -> None:
        super().__init__()
        self.shape = (image.channels, *image.size)
        hidden = options.width * 8
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise([latent_dim] + [hidden] * options.depth):
            layers += [nn.Linear(fan_in, fan_out)]
            layers += [BatchNormFlat(fan_out)] if options.normalization == "batch" else []
            layers += [nn.ReLU(), Dropout(options.dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, math.prod(self.shape)), nn.Tanh())

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:  # [N, latent_dim] -> [N, C, H, W] float32 in [-1, 1]
        return self.layers(z).float().unflatten(1, self.shape)

    def initialise(self, generator: Rng) -> None:
        initialise_he(self, generator)


class MLPDiscriminator(nn.Module):
    """A flattened image through leaky hidden layers to one logit."""

    def __init__(self, image: ImageSpec, options: MLPOptions) -> None:
        super().__init__()
        hidden = options.width * 8
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in pairwise([image.channels * math.prod(image.size)] + [hidden] * options.depth):
            layers += [nn.Linear(fan_in, fan_out)]
            layers += [BatchNormFlat(fan_out)] if options.normalization == "batch" else []
            layers += [nn.LeakyReLU(0.2), Dropout(options.dropout)]
        layers += [MinibatchStddev()] if options.minibatch_stddev else []
        self.layers = nn.Sequential(*layers, nn.Linear(hidden + options.minibatch_stddev, 1))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:  # [N, C, H, W] -> logits [N] float32
        return self.layers(images).float()[:, 0]

    def initialise(self, generator: Rng) -> None:
        initialise_he(self, generator, slope=0.2)


class MLP:
    """Fully connected pair; any image size and channel count."""

    generator_options = MLPOptions
    discriminator_options = MLPOptions

    def check(self, image: ImageSpec) -> None:
        return

    def generator(self, image: ImageSpec, latent_dim: int, options: MLPOptions) -> nn.Module:
        return MLPGenerator(image, latent_dim, options)

    def discriminator(self, image: ImageSpec, options: MLPOptions) -> nn.Module:
        return MLPDiscriminator(image, options)


MODELS.register("mlp", paper="arXiv:1406.2661")(MLP())
