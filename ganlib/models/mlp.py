"""Fully connected generator and discriminator: the networks of the first GAN."""

import math
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field
from torch import Generator as Rng
from torch import Tensor, nn

from ganlib.config import Section
from ganlib.models import MODELS, ImageSpec, Judgement
from ganlib.models.layers.heads import Condition, Head, with_label
from ganlib.models.layers.initialise import initialise_he
from ganlib.models.layers.minibatch import MinibatchDiscrimination, MinibatchStddev
from ganlib.models.layers.noise import Dropout
from ganlib.models.layers.norm import BatchNormFlat
from ganlib.models.layers.spectral import SpectralEmbedding, SpectralLinear


class GeneratorOptions(Section):
    """Options of the generator."""

    width: int = Field(32, ge=1, description="units of a hidden layer, divided by 8, so that it can stay when the family changes")
    depth: int = Field(3, ge=1, description="hidden layers")
    normalization: Literal["none", "batch"] = "none"
    dropout: float = Field(0.0, ge=0, lt=1)


class DiscriminatorOptions(GeneratorOptions):
    """Options of the discriminator."""

    spectral_norm: bool = Field(False, description="every weight divided by its largest singular value")
    minibatch_stddev: bool = Field(False, description="the batch's spread as one more feature before the logit")
    minibatch_discrimination: int = Field(0, ge=0, description="so many learned comparisons with the rest of the batch before the logit")
    condition: Condition = Field("concat", description="how it is told the class, where the model is conditional")


def hidden_layers(fan_in: int, options: GeneratorOptions, *, linear: type[nn.Linear], activation: nn.Module) -> list[nn.Module]:
    """[N, fan_in] -> [N, 8 width], through `depth` layers."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise([fan_in] + [options.width * 8] * options.depth):
        layers += [linear(inputs, outputs)]
        layers += [BatchNormFlat(outputs)] if options.normalization == "batch" else []
        layers += [activation, Dropout(options.dropout)]
    return layers


class MLPGenerator(nn.Module):
    """Latents, and a class one-hot beside them, through rectified hidden layers to a tanh image."""

    def __init__(self, image: ImageSpec, latent_dim: int, options: GeneratorOptions) -> None:
        super().__init__()
        self.shape = (image.channels, *image.size)
        self.classes = image.classes
        hidden = hidden_layers(latent_dim + self.classes, options, linear=nn.Linear, activation=nn.ReLU())
        self.layers = nn.Sequential(*hidden, nn.Linear(options.width * 8, math.prod(self.shape)), nn.Tanh())

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:  # [N, latent_dim] -> [N, C, H, W] float32 in [-1, 1]
        images: Tensor = self.layers(with_label(z, labels, self.classes)).float().unflatten(1, self.shape)
        return images

    def initialise(self, rng: Rng) -> None:
        initialise_he(self, rng)


class MLPDiscriminator(nn.Module):
    """A flattened image, and a class one-hot beside it, through leaky hidden layers to one logit."""

    def __init__(self, image: ImageSpec, options: DiscriminatorOptions) -> None:
        super().__init__()
        linear = SpectralLinear if options.spectral_norm else nn.Linear
        self.label_inputs = image.classes if options.condition == "concat" else 0
        pixels = image.channels * math.prod(image.size)
        hidden = hidden_layers(pixels + self.label_inputs, options, linear=linear, activation=nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*hidden, *([MinibatchStddev()] if options.minibatch_stddev else []))
        features, kernels = options.width * 8 + options.minibatch_stddev, options.minibatch_discrimination
        self.discrimination = MinibatchDiscrimination(features, kernels) if kernels else nn.Identity()
        self.head = Head(
            features + kernels,
            classes=image.classes,
            condition=options.condition,
            linear=linear,
            embedding=SpectralEmbedding if options.spectral_norm else nn.Embedding,
        )

    def forward(
        self, images: Tensor, labels: Tensor | None = None, *, full: bool = False
    ) -> Tensor | Judgement:  # [N, C, H, W] -> logits [N] float32
        features = self.discrimination(self.layers(with_label(images.flatten(1), labels, self.label_inputs)))
        judgement = self.head(features, labels)
        return judgement if full else judgement.logits

    def initialise(self, rng: Rng) -> None:
        initialise_he(self, rng, slope=0.2)


class MLP:
    """Fully connected pair; any image size and channel count."""

    generator_options = GeneratorOptions
    discriminator_options = DiscriminatorOptions
    roles: ClassVar[tuple[str, ...]] = ("generator", "discriminator")
    grows: ClassVar[bool] = False
    has_styles: ClassVar[bool] = False

    def check(self, image: ImageSpec) -> None:
        return

    def generator(self, image: ImageSpec, latent_dim: int, options: GeneratorOptions) -> nn.Module:
        return MLPGenerator(image, latent_dim, options)

    def discriminator(self, image: ImageSpec, latent_dim: int, options: DiscriminatorOptions) -> nn.Module:
        return MLPDiscriminator(image, options)


MODELS.register("mlp", paper="arXiv:1406.2661")(MLP())
