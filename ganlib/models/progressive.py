"""Networks that grow from the core to the image's size, one level at a time (progressive growing of GANs, arXiv:1710.10196).

`generator` and `discriminator` build the full size; `generator_at` and `discriminator_at` an intermediate level, whose layers are named as they
are at every level, so that the weights of a lower level are copied by name. At level l > 0 a buffer `alpha` fades the level in: 0 is the
doubled image of level l - 1, 1 is the image of level l (figure 2).

What differs from the released code: a group of the minibatch deviation is the shard of a logical worker unless `minibatch_stddev_group` is set
(there 4), and the batch is the same at every size.
"""

from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator as Rng
from torch import Tensor, nn

from ganlib.config import Section
from ganlib.models import MODELS, ImageSpec, Judgement
from ganlib.models.layers.equalised import EqualConv2d, EqualEmbedding, EqualLinear, initialise_equalised, pixel_norm
from ganlib.models.layers.heads import Condition, Head, with_label, with_label_maps
from ganlib.models.layers.minibatch import MinibatchStddev
from ganlib.models.layers.sizes import doublings

GAIN = 2**0.5  # He's constant for rectifiers
SLOPE = 0.2
CAP = 16  # no level has more than 16 times the channels of the finest


class GeneratorOptions(Section):
    """Options of the generator."""

    width: int = Field(32, ge=1, description="channels at the image's own size; each coarser level has twice as many, up to 16 times")


class DiscriminatorOptions(Section):
    """Options of the discriminator."""

    width: int = Field(32, ge=1, description="channels at the image's own size; each coarser level has twice as many, up to 16 times")
    minibatch_stddev_group: int = Field(
        0, ge=0, description="images whose spread D sees, 4 in the released code; 0: a logical worker's shard"
    )
    condition: Condition = Field("auxiliary", description="how it is told the class, where there are classes")


def levels(image: ImageSpec) -> int:
    """The level of the image's own size; level 0 is the core alone."""
    return doublings(image.size, family="progressive")


def size_at(image: ImageSpec, level: int) -> tuple[int, int]:
    """Height and width at `level`."""
    assert 0 <= level <= levels(image)
    halvings = levels(image) - level
    return image.size[0] >> halvings, image.size[1] >> halvings


def _widths(image: ImageSpec, width: int) -> list[int]:
    """Channels of every level of the full network, coarse to fine."""
    return [width * min(CAP, 1 << halvings) for halvings in range(levels(image), -1, -1)]


def _shown(level: int) -> range:
    """The levels whose images are blended at `level`."""
    return range(max(0, level - 1), level + 1)


class Normalised(nn.Module):
    """3x3 convolution, leaky rectifier, pixel norm."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.convolution = EqualConv2d(fan_in, fan_out, 3, gain=GAIN)

    def forward(self, x: Tensor) -> Tensor:
        return pixel_norm(F.leaky_relu(self.convolution(x), SLOPE))


class Core(nn.Module):
    """Latents on the hypersphere to the coarsest feature map."""

    def __init__(self, latent_dim: int, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.shape = (width, *size)
        self.linear = EqualLinear(latent_dim, width * size[0] * size[1], gain=GAIN)
        self.convolution = Normalised(width, width)

    def forward(self, z: Tensor) -> Tensor:
        x = self.linear(pixel_norm(z)).unflatten(1, self.shape)
        y: Tensor = self.convolution(pixel_norm(F.leaky_relu(x, SLOPE)))
        return y


class ProgressiveGenerator(nn.Module):
    """The core and `level` doublings; the image is a linear function of the finest features, without tanh.

    In training images have the level's own size and are returned as they are, so that a value past the range still has a slope that brings it
    back. In evaluation their pixels are repeated up to the full size, and clamped to [-1, 1].
    """

    alpha: Tensor

    def __init__(self, image: ImageSpec, latent_dim: int, options: GeneratorOptions, level: int) -> None:
        super().__init__()
        widths = _widths(image, options.width)
        self.classes = image.classes
        self.level = level
        self.repeats = 1 << (levels(image) - level)
        self.levels = nn.ModuleList([Core(latent_dim + image.classes, widths[0], size_at(image, 0))])
        for fan_in, fan_out in pairwise(widths[: level + 1]):
            doubling = nn.Upsample(scale_factor=2, mode="nearest")
            self.levels.append(nn.Sequential(doubling, Normalised(fan_in, fan_out), Normalised(fan_out, fan_out)))
        self.to_image = nn.ModuleDict({str(shown): EqualConv2d(widths[shown], image.channels, 1) for shown in _shown(level)})
        if level:
            self.register_buffer("alpha", torch.empty(()))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:  # [N, latent_dim] -> [N, C, H, W] float32
        x, coarse = with_label(z, labels, self.classes), None
        for level, layer in enumerate(self.levels):
            x = layer(x)
            if level == self.level - 1:
                coarse = self.to_image[str(level)](x).float()
        images: Tensor = self.to_image[str(self.level)](x).float()
        if coarse is not None:
            images = torch.lerp(F.interpolate(coarse, scale_factor=2, mode="nearest"), images, self.alpha)
        if self.training:
            return images
        return F.interpolate(images, scale_factor=self.repeats, mode="nearest").clamp(-1, 1)

    def initialise(self, rng: Rng) -> None:
        initialise_equalised(self, rng)
        if self.level:
            self.alpha.fill_(1.0)


class ProgressiveDiscriminator(nn.Module):
    """The generator backwards, with average pooling and the batch's spread at the core; reads images of the level's own size."""

    alpha: Tensor

    def __init__(self, image: ImageSpec, options: DiscriminatorOptions, level: int) -> None:
        super().__init__()
        widths = _widths(image, options.width)
        height, width = size_at(image, 0)
        self.classes = image.classes if options.condition == "concat" else 0
        self.level = level
        core = nn.Sequential(
            MinibatchStddev(options.minibatch_stddev_group),
            EqualConv2d(widths[0] + 1, widths[0], 3, gain=GAIN),
            nn.LeakyReLU(SLOPE),
            nn.Flatten(),
            EqualLinear(widths[0] * height * width, widths[0], gain=GAIN),
            nn.LeakyReLU(SLOPE),
        )
        self.levels = nn.ModuleList([core])
        for fan_out, fan_in in pairwise(widths[: level + 1]):
            first, second = EqualConv2d(fan_in, fan_in, 3, gain=GAIN), EqualConv2d(fan_in, fan_out, 3, gain=GAIN)
            self.levels.append(nn.Sequential(first, nn.LeakyReLU(SLOPE), second, nn.LeakyReLU(SLOPE), nn.AvgPool2d(2)))
        channels = image.channels + self.classes
        self.from_image = nn.ModuleDict(
            {str(shown): nn.Sequential(EqualConv2d(channels, widths[shown], 1, gain=GAIN), nn.LeakyReLU(SLOPE)) for shown in _shown(level)}
        )
        self.head = Head(widths[0], classes=image.classes, condition=options.condition, linear=EqualLinear, embedding=EqualEmbedding)
        if level:
            self.register_buffer("alpha", torch.empty(()))

    def forward(self, images: Tensor, labels: Tensor | None = None, *, full: bool = False) -> Tensor | Judgement:
        images = with_label_maps(images, labels, self.classes)
        x = self.levels[self.level](self.from_image[str(self.level)](images))
        for level in range(self.level - 1, -1, -1):
            if level == self.level - 1:
                x = torch.lerp(self.from_image[str(level)](F.avg_pool2d(images, 2)), x, self.alpha.to(x.dtype))
            x = self.levels[level](x)
        judgement = self.head(x, labels)
        return judgement if full else judgement.logits

    def initialise(self, rng: Rng) -> None:
        initialise_equalised(self, rng)
        if self.level:
            self.alpha.fill_(1.0)


class Progressive:
    """Equalised, pixel-normed levels that can be grown one by one; sizes that halve to a core of 4..7 pixels."""

    generator_options = GeneratorOptions
    discriminator_options = DiscriminatorOptions
    roles: ClassVar[tuple[str, ...]] = ("generator", "discriminator")
    grows: ClassVar[bool] = True
    has_styles: ClassVar[bool] = False

    def check(self, image: ImageSpec) -> None:
        levels(image)

    def generator(self, image: ImageSpec, latent_dim: int, options: GeneratorOptions) -> nn.Module:
        return self.generator_at(image, latent_dim, options, levels(image))

    def discriminator(self, image: ImageSpec, latent_dim: int, options: DiscriminatorOptions) -> nn.Module:
        return self.discriminator_at(image, latent_dim, options, levels(image))

    def generator_at(self, image: ImageSpec, latent_dim: int, options: GeneratorOptions, level: int) -> nn.Module:
        """The generator of an intermediate level, 0 to `levels(image)`; `image` is the full one."""
        return ProgressiveGenerator(image, latent_dim, options, level)

    def discriminator_at(self, image: ImageSpec, latent_dim: int, options: DiscriminatorOptions, level: int) -> nn.Module:
        """Its discriminator, which reads images of `size_at(image, level)`."""
        return ProgressiveDiscriminator(image, options, level)


MODELS.register("progressive", paper="arXiv:1710.10196")(Progressive())
