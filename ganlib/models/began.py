"""An autoencoder for a discriminator, and its decoder's twin for a generator (BEGAN, arXiv:1703.10717, section 3.5).

The optional vanishing residuals and skip connections of figure 1 are left out. The paper knows no classes: here labels stand beside the latent,
the image and the code.
"""

from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field
from torch import Generator as Rng
from torch import Tensor, nn

from ganlib.config import Section
from ganlib.models import MODELS, ImageSpec, Judgement
from ganlib.models.layers.heads import with_label, with_label_maps
from ganlib.models.layers.initialise import initialise_he
from ganlib.models.layers.sizes import doublings

SLOPE = 0.54  # of the leaky rectifier that keeps as much of a standard normal's energy as ELU does, 0.645: (1 + slope^2) / 2


class GeneratorOptions(Section):
    """Options of the generator."""

    width: int = Field(32, ge=1, description="channels, the same at every level")


class DiscriminatorOptions(Section):
    """Options of the discriminator."""

    width: int = Field(32, ge=1, description="channels at the image's own size; the encoder adds as many again with each level")
    code: int = Field(64, ge=1, description="numbers an image is encoded in")
    condition: Literal["concat"] = Field("concat", description="how it is told the class, where there are classes")


def _convolutions(fan_in: int, fan_out: int) -> list[nn.Module]:
    return [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ELU(), nn.Conv2d(fan_out, fan_out, 3, padding=1), nn.ELU()]


def _decoder(image: ImageSpec, code: int, width: int) -> nn.Sequential:
    """[N, code] -> [N, C, H, W], not bounded."""
    steps = doublings(image.size, family="began")
    core = (image.size[0] >> steps, image.size[1] >> steps)
    layers: list[nn.Module] = [nn.Linear(code, width * core[0] * core[1]), nn.Unflatten(1, (width, *core)), *_convolutions(width, width)]
    for _ in range(steps):
        layers += [nn.Upsample(scale_factor=2, mode="nearest"), *_convolutions(width, width)]
    return nn.Sequential(*layers, nn.Conv2d(width, image.channels, 3, padding=1))


def _encoder(image: ImageSpec, channels: int, options: DiscriminatorOptions) -> nn.Sequential:
    """[N, channels, H, W] -> [N, code]; channels grow linearly, convolutions of stride 2 shrink."""
    steps = doublings(image.size, family="began")
    core = (image.size[0] >> steps, image.size[1] >> steps)
    widths = [options.width * (level + 1) for level in range(steps + 1)]
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1), nn.ELU(), *_convolutions(widths[0], widths[0])]
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1), nn.ELU(), *_convolutions(fan_out, fan_out)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * core[0] * core[1], options.code))


class BEGANGenerator(nn.Module):
    """The decoder, from latents.

    There is no tanh: in training images are returned as they are, so that a value past the range still has a slope that brings it back; in
    evaluation they are clamped to [-1, 1].
    """

    def __init__(self, image: ImageSpec, latent_dim: int, options: GeneratorOptions) -> None:
        super().__init__()
        self.classes = image.classes
        self.decoder = _decoder(image, latent_dim + image.classes, options.width)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:  # [N, latent_dim] -> [N, C, H, W] float32
        images: Tensor = self.decoder(with_label(z, labels, self.classes)).float()
        return images if self.training else images.clamp(-1, 1)

    def initialise(self, rng: Rng) -> None:
        initialise_he(self, rng, slope=SLOPE)


class BEGANDiscriminator(nn.Module):
    """An autoencoder; the logit is minus the mean absolute error of an image's reconstruction (section 3.1, eta = 1), so never positive."""

    def __init__(self, image: ImageSpec, options: DiscriminatorOptions) -> None:
        super().__init__()
        self.classes = image.classes
        self.encoder = _encoder(image, image.channels + image.classes, options)
        self.decoder = _decoder(image, options.code + image.classes, options.width)

    def forward(self, images: Tensor, labels: Tensor | None = None, *, full: bool = False) -> Tensor | Judgement:
        """Logits [N] float32; with `full=True` -> Judgement, whose features are the code."""
        code = self.encoder(with_label_maps(images, labels, self.classes))
        reconstruction = self.decoder(with_label(code, labels, self.classes))
        logits = -(images.float() - reconstruction.float()).abs().mean((1, 2, 3))
        return Judgement(logits=logits, features=code.float()) if full else logits

    def initialise(self, rng: Rng) -> None:
        initialise_he(self, rng, slope=SLOPE)


class BEGAN:
    """An autoencoder against a decoder; sizes that halve to a core of 4..7 pixels."""

    generator_options = GeneratorOptions
    discriminator_options = DiscriminatorOptions
    roles: ClassVar[tuple[str, ...]] = ("generator", "discriminator")
    grows: ClassVar[bool] = False
    has_styles: ClassVar[bool] = False

    def check(self, image: ImageSpec) -> None:
        doublings(image.size, family="began")

    def generator(self, image: ImageSpec, latent_dim: int, options: GeneratorOptions) -> nn.Module:
        return BEGANGenerator(image, latent_dim, options)

    def discriminator(self, image: ImageSpec, latent_dim: int, options: DiscriminatorOptions) -> nn.Module:
        return BEGANDiscriminator(image, options)


MODELS.register("began", paper="arXiv:1703.10717")(BEGAN())
