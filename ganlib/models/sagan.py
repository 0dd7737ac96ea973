"""Self-attention GAN: residual networks, both with spectral norm, and attention over the pixels of one feature map.

As in the released code a block of D widens in its first convolution, not in its second as SNGAN's. What differs from it: attention stands at the
map nearest to 14..16 pixels, where the released code for 128 pixels has it at 32; without classes batch norm has one gain and shift for all.
"""

from typing import ClassVar

from pydantic import Field
from torch import nn

from ganlib.config import Section
from ganlib.models import MODELS, ImageSpec
from ganlib.models.layers.heads import Condition
from ganlib.models.layers.residual import ResidualDiscriminator, ResidualGenerator, initialise_residual
from ganlib.models.layers.sizes import doublings

ATTENTION = "shorter side of the feature map with self-attention; null: the one nearest to 14..16 pixels; 0: none"


class GeneratorOptions(Section):
    """Options of the generator."""

    width: int = Field(32, ge=1, description="channels of the last block; each coarser level has twice as many, up to 16 times")
    attention_size: int | None = Field(None, ge=0, description=ATTENTION)


class DiscriminatorOptions(Section):
    """Options of the discriminator."""

    width: int = Field(32, ge=1, description="channels after the first block; doubles with each level, up to 16 times")
    attention_size: int | None = Field(None, ge=0, description=ATTENTION)
    condition: Condition = Field("projection", description="how it is told the class, where the model is conditional")


class SAGAN:
    """Residual blocks with spectral norm in both networks, and self-attention."""

    generator_options = GeneratorOptions
    discriminator_options = DiscriminatorOptions
    roles: ClassVar[tuple[str, ...]] = ("generator", "discriminator")
    grows: ClassVar[bool] = False
    has_styles: ClassVar[bool] = False

    def check(self, image: ImageSpec) -> None:
        doublings(image.size, family="sagan")

    def generator(self, image: ImageSpec, latent_dim: int, options: GeneratorOptions) -> nn.Module:
        return ResidualGenerator(
            image, latent_dim, family="sagan", width=options.width, spectral=True, attention_size=options.attention_size
        )

    def discriminator(self, image: ImageSpec, latent_dim: int, options: DiscriminatorOptions) -> nn.Module:
        return ResidualDiscriminator(
            image,
            family="sagan",
            width=options.width,
            spectral=True,
            condition=options.condition,
            initialise=initialise_residual,
            is_wide=True,
            attention_size=options.attention_size,
        )


MODELS.register("sagan", paper="arXiv:1805.08318")(SAGAN())
