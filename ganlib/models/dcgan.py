"""Convolutional generator and discriminator after DCGAN, for any size that halves down to a 4..7 pixel core."""

from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Generator as Rng
from torch import Tensor, nn

from ganlib.config import Section
from ganlib.models import MODELS, ImageSpec
from ganlib.models.layers.initialise import initialise_normal
from ganlib.models.layers.minibatch import MinibatchStddev
from ganlib.models.layers.noise import Dropout
from ganlib.models.layers.norm import BatchNorm
from ganlib.models.layers.sizes import doublings


class GeneratorOptions(Section):
    """Options of the generator."""

    width: int = Field(32, ge=1, description="channels before the image; each coarser level has twice as many, up to 16 times")
    normalization: Literal["none", "batch"] = "batch"
    dropout: float = Field(0.0, ge=0, lt=1)


class DiscriminatorOptions(Section):
    """Options of the discriminator."""

    width: int = Field(32, ge=1, description="channels after the first layer; doubles with each level, up to 16 times")
    normalization: Literal["none", "batch"] = "batch"
    dropout: float = Field(0.0, ge=0, lt=1)
    extra_levels: int = Field(1, ge=0, le=1, description="one more strided layer below the core")
    minibatch_stddev: bool = Field(False, description="the batch's spread as one more feature map before the logit")


class DCGANGenerator(nn.Module):
    """Latents projected to the core, then transposed 4x4 convolutions of stride 2."""

    def __init__(self, image: ImageSpec, latent_dim: int, options: GeneratorOptions) -> None:
        super().__init__()
        steps = doublings(image.size, family="dcgan")
        core = (image.size[0] >> steps, image.size[1] >> steps)
        widths = [options.width * min(16, 1 << level) for level in range(steps, 0, -1)]  # coarse to fine
        has_norm = options.normalization == "batch"
        layers: list[nn.Module] = [
            nn.Linear(latent_dim, widths[0] * core[0] * core[1], bias=not has_norm),
            nn.Unflatten(1, (widths[0], *core)),
            *self._after(widths[0], options),
        ]
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.ConvTranspose2d(fan_in, fan_out, 4, 2, 1, bias=not has_norm), *self._after(fan_out, options)]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], image.channels, 4, 2, 1), nn.Tanh())

    @staticmethod
    def _after(width: int, options: GeneratorOptions) -> list[nn.Module]:
        norm: list[nn.Module] = [BatchNorm(width)] if options.normalization == "batch" else []
        return [*norm, nn.ReLU(inplace=True), *([Dropout(options.dropout)] if options.dropout else [])]

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:  # [N, latent_dim] -> [N, C, H, W] float32 in [-1, 1]
        return self.layers(z).float()

    def initialise(self, generator: Rng) -> None:
        initialise_normal(self, generator)


class DCGANDiscriminator(nn.Module):
    """Convolutions of stride 2 down to the core (or one level further), then one linear layer; no normalisation on the first."""

    def __init__(self, image: ImageSpec, options: DiscriminatorOptions) -> None:
        super().__init__()
        steps = doublings(image.size, family="dcgan")
        height, width = image.size[0] >> steps, image.size[1] >> steps
        widths = [options.width * min(16, 1 << level) for level in range(steps)]
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip([image.channels, *widths], widths, strict=False):
            layers += self._level(fan_in, fan_out, 4, options, is_first=not layers)
        if options.extra_levels:
            fan_out = options.width * min(16, 1 << steps)
            layers += self._level(widths[-1], fan_out, 3, options, is_first=False)
            widths, height, width = [*widths, fan_out], -(-height // 2), -(-width // 2)
        layers += [MinibatchStddev()] if options.minibatch_stddev else []
        self.features = nn.Sequential(*layers)
        self.logit = nn.Sequential(nn.Flatten(), nn.Linear((widths[-1] + options.minibatch_stddev) * height * width, 1))

    @staticmethod
    def _level(fan_in: int, fan_out: int, kernel: int, options: DiscriminatorOptions, *, is_first: bool) -> list[nn.Module]:
        has_norm = options.normalization == "batch" and not is_first
        norm: list[nn.Module] = [BatchNorm(fan_out)] if has_norm else []
        dropout = [Dropout(options.dropout)] if options.dropout else []
        return [nn.Conv2d(fan_in, fan_out, kernel, 2, 1, bias=not has_norm), *norm, nn.LeakyReLU(0.2, inplace=True), *dropout]

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:  # [N, C, H, W] -> logits [N] float32
        return self.logit(self.features(images)).float()[:, 0]

    def initialise(self, generator: Rng) -> None:
        initialise_normal(self, generator)


class DCGAN:
    """Strided convolutions with batch norm; sizes that halve to a core of 4..7 pixels."""

    generator_options = GeneratorOptions
    discriminator_options = DiscriminatorOptions

    def check(self, image: ImageSpec) -> None:
        doublings(image.size, family="dcgan")

    def generator(self, image: ImageSpec, latent_dim: int, options: GeneratorOptions) -> nn.Module:
        return DCGANGenerator(image, latent_dim, options)

    def discriminator(self, image: ImageSpec, options: DiscriminatorOptions) -> nn.Module:
        return DCGANDiscriminator(image, options)


MODELS.register("dcgan", paper="arXiv:1511.06434")(DCGAN())
