"""BigGAN: residual networks whose generator is told the class and a part of the latent at every level."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator as Rng
from torch import Tensor, nn

from ganlib.config import Section
from ganlib.models import MODELS, ImageSpec
from ganlib.models.layers.heads import Condition
from ganlib.models.layers.initialise import initialise_orthogonal
from ganlib.models.layers.norm import ConditionalBatchNorm
from ganlib.models.layers.residual import ResidualDiscriminator, UpStack
from ganlib.models.layers.sizes import doublings
from ganlib.models.layers.spectral import SpectralLinear

ATTENTION = "shorter side of the feature map with self-attention; null: the one nearest to 14..16 pixels; 0: none"


class GeneratorOptions(Section):
    """Options of the generator."""

    width: int = Field(32, ge=1, description="channels of the last block; each coarser level has twice as many, up to 16 times")
    embedding_dim: int = Field(128, ge=1, description="numbers that stand for a class; all levels share them")
    attention_size: int | None = Field(None, ge=0, description=ATTENTION)


class DiscriminatorOptions(Section):
    """Options of the discriminator."""

    width: int = Field(32, ge=1, description="channels after the first block; doubles with each level, up to 16 times")
    attention_size: int | None = Field(None, ge=0, description=ATTENTION)
    condition: Condition = Field("projection", description="how it is told the class, where the model is conditional")


class BigGANGenerator(nn.Module):
    """z in equal chunks, one for the core and one a block; a block's norms are linear in [class embedding, its chunk].

    arXiv:1809.11096, appendix B, figure 15. What does not divide goes to the first chunk. Without classes the chunk alone conditions.
    """

    def __init__(self, image: ImageSpec, latent_dim: int, options: GeneratorOptions) -> None:
        super().__init__()
        blocks = doublings(image.size, family="biggan")
        chunk = latent_dim // (blocks + 1)
        if chunk == 0:
            raise ValueError(
                f"model.latent_dim={latent_dim} is too small for model.name=biggan at data.image_size={list(image.size)}: "
                f"z is split over {blocks + 1} levels; at least {blocks + 1}"
            )
        self.chunks = [latent_dim - blocks * chunk] + [chunk] * blocks
        self.embedding = nn.Embedding(image.classes, options.embedding_dim) if image.classes else None
        condition = chunk + (options.embedding_dim if image.classes else 0)

        def norm(channels: int) -> nn.Module:
            gain, shift = (SpectralLinear(condition, channels, bias=False) for _ in range(2))
            return ConditionalBatchNorm(channels, gain=gain, shift=shift)

        self.stack = UpStack(
            image,
            self.chunks[0],
            family="biggan",
            width=options.width,
            norm=norm,
            spectral=True,
            attention_size=options.attention_size,
        )

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:  # [N, latent_dim] -> [N, C, H, W] float32 in [-1, 1]
        first, *chunks = z.split(self.chunks, 1)
        if self.embedding is not None:
            assert labels is not None
            embedded = self.embedding(labels)
            chunks = [torch.cat([embedded, chunk], 1) for chunk in chunks]
        images: Tensor = self.stack(first, chunks)
        return images

    def initialise(self, rng: Rng) -> None:
        initialise_orthogonal(self, rng)


class BigGAN:
    """Residual blocks with spectral norm, self-attention, hierarchical latents and a shared class embedding; orthogonal initial weights."""

    generator_options = GeneratorOptions
    discriminator_options = DiscriminatorOptions
    roles: ClassVar[tuple[str, ...]] = ("generator", "discriminator")
    grows: ClassVar[bool] = False
    has_styles: ClassVar[bool] = False

    def check(self, image: ImageSpec) -> None:
        doublings(image.size, family="biggan")

    def generator(self, image: ImageSpec, latent_dim: int, options: GeneratorOptions) -> nn.Module:
        return BigGANGenerator(image, latent_dim, options)

    def discriminator(self, image: ImageSpec, latent_dim: int, options: DiscriminatorOptions) -> nn.Module:
        return ResidualDiscriminator(
            image,
            family="biggan",
            width=options.width,
            spectral=True,
            condition=options.condition,
            initialise=initialise_orthogonal,
            is_wide=True,
            attention_size=options.attention_size,
        )


MODELS.register("biggan", paper="arXiv:1809.11096, appendix B")(BigGAN())
