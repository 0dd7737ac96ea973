"""Residual generator and discriminator of WGAN-GP and SNGAN.

What differs from SNGAN's released code: G's update sees as many images as D's, where that has 128 against 64: here `train.batch_images` is one number
for all phases, in which images seen, shards and the moving average count. Its networks for 32 pixels do not change their width from level to level.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from ganlib.config import Section
from ganlib.models import MODELS, ImageSpec
from ganlib.models.layers.heads import Condition
from ganlib.models.layers.residual import ResidualDiscriminator, ResidualGenerator, initialise_residual
from ganlib.models.layers.sizes import doublings


class GeneratorOptions(Section):
    """Options of the generator."""

    width: int = Field(32, ge=1, description="channels of the last block; each coarser level has twice as many, up to 16 times")


class DiscriminatorOptions(Section):
    """Options of the discriminator."""

    width: int = Field(32, ge=1, description="channels after the first block; doubles with each level, up to 16 times")
    normalization: Literal["none", "spectral"] = Field("spectral", description="none for a gradient penalty (WGAN-GP), spectral for SNGAN")
    condition: Condition = Field("projection", description="how it is told the class, where the model is conditional")


class ResNet:
    """Residual blocks; batch norm in G, for each class its own, and spectral norm in D."""

    generator_options = GeneratorOptions
    discriminator_options = DiscriminatorOptions
    roles: ClassVar[tuple[str, ...]] = ("generator", "discriminator")
    grows: ClassVar[bool] = False
    has_styles: ClassVar[bool] = False

    def check(self, image: ImageSpec) -> None:
        doublings(image.size, family="resnet")

    def generator(self, image: ImageSpec, latent_dim: int, options: GeneratorOptions) -> nn.Module:
        return ResidualGenerator(image, latent_dim, family="resnet", width=options.width, spectral=False)

    def discriminator(self, image: ImageSpec, latent_dim: int, options: DiscriminatorOptions) -> nn.Module:
        return ResidualDiscriminator(
            image,
            family="resnet",
            width=options.width,
            spectral=options.normalization == "spectral",
            condition=options.condition,
            initialise=initialise_residual,
        )


MODELS.register("resnet", paper="arXiv:1704.00028, appendix F; arXiv:1802.05957, appendix B.4")(ResNet())
