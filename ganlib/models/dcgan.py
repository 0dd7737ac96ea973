"""Convolutional generator and discriminator after DCGAN, for any size that halves down to a 4..7 pixel core."""

from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field
from torch import Generator as Rng
from torch import Tensor, nn

from ganlib.config import Section
from ganlib.models import MODELS, ImageSpec, Judgement
from ganlib.models.layers.heads import Condition, Head, with_label, with_label_maps
from ganlib.models.layers.initialise import initialise_normal
from ganlib.models.layers.minibatch import MinibatchDiscrimination, MinibatchStddev
from ganlib.models.layers.noise import Dropout
from ganlib.models.layers.norm import BatchNorm
from ganlib.models.layers.sizes import doublings
from ganlib.models.layers.spectral import SpectralConv2d, SpectralEmbedding, SpectralLinear


class GeneratorOptions(Section):
    """Options of the generator."""

    width: int = Field(32, ge=1, description="channels before the image; each coarser level has twice as many, up to 16 times")
    kernel: Literal[4, 5] = Field(4, description="side of the transposed convolutions")
    normalization: Literal["none", "batch"] = "batch"
    dropout: float = Field(0.0, ge=0, lt=1)


class DiscriminatorOptions(Section):
    """Options of the discriminator."""

    width: int = Field(32, ge=1, description="channels after the first layer; doubles with each level, up to 16 times")
    kernel: Literal[4, 5] = Field(4, description="side of the convolutions; below the core it is 3")
    downsampling: Literal["stride", "maxpool"] = Field("stride", description="convolutions of stride 2, or of stride 1 and 2x2 max-pooling")
    normalization: Literal["none", "batch"] = "batch"
    spectral_norm: bool = Field(False, description="every weight divided by its largest singular value")
    dropout: float = Field(0.0, ge=0, lt=1)
    extra_levels: int = Field(1, ge=0, le=1, description="one more strided layer below the core")
    minibatch_stddev: bool = Field(False, description="the batch's spread as one more feature map before the logit")
    minibatch_discrimination: int = Field(0, ge=0, description="so many learned comparisons with the rest of the batch before the logit")
    condition: Condition = Field("concat", description="how it is told the class, where the model is conditional")


class DCGANGenerator(nn.Module):
    """Latents projected to the core, then transposed 4x4 or 5x5 convolutions of stride 2; a class goes in one-hot beside the latents."""

    def __init__(self, image: ImageSpec, latent_dim: int, options: GeneratorOptions) -> None:
        super().__init__()
        steps = doublings(image.size, family="dcgan")
        core = (image.size[0] >> steps, image.size[1] >> steps)
        widths = [options.width * min(16, 1 << level) for level in range(steps, 0, -1)]  # coarse to fine
        has_norm = options.normalization == "batch"
        self.classes = image.classes
        layers: list[nn.Module] = [
            nn.Linear(latent_dim + self.classes, widths[0] * core[0] * core[1], bias=not has_norm),
            nn.Unflatten(1, (widths[0], *core)),
            *self._after(widths[0], options),
        ]
        for fan_in, fan_out in pairwise(widths):
            layers += [self._doubling(fan_in, fan_out, options.kernel, bias=not has_norm), *self._after(fan_out, options)]
        self.layers = nn.Sequential(*layers, self._doubling(widths[-1], image.channels, options.kernel, bias=True), nn.Tanh())

    @staticmethod
    def _doubling(fan_in: int, fan_out: int, kernel: int, *, bias: bool) -> nn.Module:
        is_odd = kernel % 2  # an odd kernel misses the last row and column of the doubled map by one
        return nn.ConvTranspose2d(fan_in, fan_out, kernel, 2, kernel // 2 - 1 + is_odd, output_padding=is_odd, bias=bias)

    @staticmethod
    def _after(width: int, options: GeneratorOptions) -> list[nn.Module]:
        norm: list[nn.Module] = [BatchNorm(width)] if options.normalization == "batch" else []
        return [*norm, nn.ReLU(inplace=True), *([Dropout(options.dropout)] if options.dropout else [])]

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:  # [N, latent_dim] -> [N, C, H, W] float32 in [-1, 1]
        images: Tensor = self.layers(with_label(z, labels, self.classes)).float()
        return images

    def initialise(self, rng: Rng) -> None:
        initialise_normal(self, rng)


class DCGANDiscriminator(nn.Module):
    """Convolutions that halve down to the core (or one level further), then one linear layer; no normalisation on the first."""

    def __init__(self, image: ImageSpec, options: DiscriminatorOptions) -> None:
        super().__init__()
        steps = doublings(image.size, family="dcgan")
        height, width = image.size[0] >> steps, image.size[1] >> steps
        widths = [options.width * min(16, 1 << level) for level in range(steps)]
        self.label_maps = image.classes if options.condition == "concat" else 0
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip([image.channels + self.label_maps, *widths], widths, strict=False):
            layers += self._level(fan_in, fan_out, options.kernel, options, is_first=not layers)
        if options.extra_levels:
            fan_out = options.width * min(16, 1 << steps)
            layers += self._level(widths[-1], fan_out, 3, options, is_first=False)
            widths, height, width = [*widths, fan_out], -(-height // 2), -(-width // 2)
        layers += [MinibatchStddev()] if options.minibatch_stddev else []
        self.features = nn.Sequential(*layers)
        features, kernels = (widths[-1] + options.minibatch_stddev) * height * width, options.minibatch_discrimination
        self.discrimination = MinibatchDiscrimination(features, kernels) if kernels else nn.Identity()
        self.head = Head(
            features + kernels,
            classes=image.classes,
            condition=options.condition,
            linear=SpectralLinear if options.spectral_norm else nn.Linear,
            embedding=SpectralEmbedding if options.spectral_norm else nn.Embedding,
        )

    @staticmethod
    def _level(fan_in: int, fan_out: int, kernel: int, options: DiscriminatorOptions, *, is_first: bool) -> list[nn.Module]:
        has_norm = options.normalization == "batch" and not is_first
        norm: list[nn.Module] = [BatchNorm(fan_out)] if has_norm else []
        dropout = [Dropout(options.dropout)] if options.dropout else []
        convolution = SpectralConv2d if options.spectral_norm else nn.Conv2d
        if options.downsampling == "stride":
            halving = [convolution(fan_in, fan_out, kernel, 2, (kernel - 1) // 2, bias=not has_norm), *norm]
        else:  # an even kernel makes one row and column too many, which the pooling leaves out; pooling commutes with the activation
            pooling = nn.MaxPool2d(2, ceil_mode=kernel == 3)  # below the core a side may be odd
            halving = [convolution(fan_in, fan_out, kernel, 1, kernel // 2, bias=not has_norm), *norm, pooling]
        return [*halving, nn.LeakyReLU(0.2, inplace=True), *dropout]

    def forward(
        self, images: Tensor, labels: Tensor | None = None, *, full: bool = False
    ) -> Tensor | Judgement:  # [N, C, H, W] -> logits [N] float32
        features = self.features(with_label_maps(images, labels, self.label_maps)).flatten(1)
        judgement = self.head(self.discrimination(features), labels)
        return judgement if full else judgement.logits

    def initialise(self, rng: Rng) -> None:
        initialise_normal(self, rng)


class DCGAN:
    """Strided convolutions with batch norm; sizes that halve to a core of 4..7 pixels."""

    generator_options = GeneratorOptions
    discriminator_options = DiscriminatorOptions
    roles: ClassVar[tuple[str, ...]] = ("generator", "discriminator")
    grows: ClassVar[bool] = False
    has_styles: ClassVar[bool] = False

    def check(self, image: ImageSpec) -> None:
        doublings(image.size, family="dcgan")

    def generator(self, image: ImageSpec, latent_dim: int, options: GeneratorOptions) -> nn.Module:
        return DCGANGenerator(image, latent_dim, options)

    def discriminator(self, image: ImageSpec, latent_dim: int, options: DiscriminatorOptions) -> nn.Module:
        return DCGANDiscriminator(image, options)


MODELS.register("dcgan", paper="arXiv:1511.06434")(DCGAN())
