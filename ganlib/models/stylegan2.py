"""Style-based generator with modulated convolutions, and a residual discriminator (StyleGAN2, arXiv:1912.04958).

The rectifiers' gain of sqrt(2) is folded into the weights before them. Convolutions are modulated by scaling a layer's input with the style and
its output with the demodulation factor, which equals a weight of its own for each sample.

What differs from the released code: a group of the minibatch deviation is the shard of a logical worker unless `minibatch_stddev_group` is set
(there 4, or 32 for CIFAR-10); D's class is a projection, not a mapped label; the moving average has no settings of its own here.
"""

import math
from itertools import pairwise
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator as Rng
from torch import Tensor, nn

from ganlib import rng
from ganlib.config import Section
from ganlib.models import MODELS, ImageSpec, Judgement, Synthesis
from ganlib.models.layers.equalised import EqualConv2d, EqualEmbedding, EqualLinear, initialise_equalised, pixel_norm
from ganlib.models.layers.heads import Condition, Head, with_label_maps
from ganlib.models.layers.minibatch import MinibatchStddev
from ganlib.models.layers.norm import MeanLatent
from ganlib.models.layers.resample import downsample, downsampling_convolution, upsample, upsampling_convolution
from ganlib.models.layers.sizes import doublings

GAIN = math.sqrt(2)  # He's constant for rectifiers
CAP = 16  # no level has more than 16 times the channels of the finest


class GeneratorOptions(Section):
    """Options of the generator."""

    width: int = Field(32, ge=1, description="channels at the image's own size; each coarser level has twice as many, up to 16 times")
    mapping_depth: int = Field(8, ge=1, description="layers of the mapping network; 2 in StyleGAN2-ADA's small settings")
    mapping_lr_multiplier: float = Field(0.01, gt=0, description="the mapping network learns so much slower (arXiv:1812.04948, appendix C)")
    mixing_probability: float = Field(0.9, ge=0, le=1, description="share of training samples made from two latents, N(0, 1) the second")
    noise: bool = Field(True, description="add noise to each layer: drawn anew in training, constant in evaluation")


class DiscriminatorOptions(Section):
    """Options of the discriminator."""

    width: int = Field(32, ge=1, description="channels at the image's own size; doubles with each level, up to 16 times")
    architecture: Literal["residual", "skip", "orig"] = Field(
        "residual", description="skip: each level reads the shrunken image as well; orig: neither, as StyleGAN2-ADA has it for CIFAR-10"
    )
    minibatch_stddev: bool = Field(True, description="the batch's spread as one more feature map at the core")
    minibatch_stddev_group: int = Field(
        0, ge=0, description="images whose spread it is, 4 in the released code; 0: a logical worker's shard"
    )
    condition: Condition = Field("projection", description="how it is told the class, where there are classes")


class Mapping(nn.Module):
    """Latents, and labels, to intermediate latents w; [N, latent_dim] -> [N, latent_dim] float32 (arXiv:1812.04948, section 2)."""

    def __init__(self, latent_dim: int, classes: int, options: GeneratorOptions) -> None:
        super().__init__()
        self.embedding = EqualEmbedding(classes, latent_dim) if classes else None
        widths = [latent_dim * (2 if classes else 1)] + [latent_dim] * options.mapping_depth
        multiplier = options.mapping_lr_multiplier
        self.layers = nn.ModuleList(
            EqualLinear(fan_in, latent_dim, gain=GAIN, lr_multiplier=multiplier) for fan_in in widths[: options.mapping_depth]
        )

    def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            w = pixel_norm(z.float())
            if self.embedding is not None:
                assert labels is not None
                w = torch.cat([w, pixel_norm(self.embedding(labels))], 1)
            for layer in self.layers:
                w = F.leaky_relu(layer(w), 0.2)
        return w


class Modulated(nn.Module):
    """Convolution whose input channels are scaled by a style, and whose output is scaled back to variance 1 (section 2.2, eq. 1-3).

    Args:
        up: doubles height and width.
        demodulate: False for the layers that make an image.
    """

    def __init__(self, fan_in: int, fan_out: int, kernel: int, style_dim: int, *, up: bool = False, demodulate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(fan_out, fan_in, kernel, kernel))
        self.style = EqualLinear(style_dim, fan_in, bias_start=1.0)
        self.scale = 1 / math.sqrt(fan_in * kernel * kernel)
        self.up = up
        self.demodulate = demodulate

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        """x [N, C, H, W], w [N, D] -> the convolution before demodulation, and the factors [N, K, 1, 1] float32 it is to be multiplied by."""
        weight = self.weight * self.scale
        factors = None
        with torch.autocast(x.device.type, enabled=False):
            style = self.style(w)
            if self.demodulate:  # eq. 3: the variance of an output channel is the sum of (style * weight)^2
                factors = (style.square() @ weight.square().sum((2, 3)).T + 1e-8).rsqrt()[:, :, None, None]
        x = x * style[:, :, None, None].to(x.dtype)
        if self.up:
            return upsampling_convolution(x, weight.transpose(0, 1)), factors
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2), factors

    def initialise(self, rng: Rng) -> None:
        self.weight.normal_(generator=rng)


class StyledLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias and leaky rectifier."""

    noise: Tensor

    def __init__(self, fan_in: int, fan_out: int, size: tuple[int, int], style_dim: int, *, up: bool = False, noise: bool = True) -> None:
        super().__init__()
        self.convolution = Modulated(fan_in, fan_out, 3, style_dim, up=up)
        self.bias = nn.Parameter(torch.empty(fan_out))
        self.strength = nn.Parameter(torch.empty(())) if noise else None
        self.register_buffer("noise", torch.empty(1, 1, *size) if noise else None)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x, factors = self.convolution(x, w)
        assert factors is not None
        factors = (factors * GAIN).to(x.dtype)
        if self.strength is None:
            x = x * factors
        else:
            noise = rng.draw_normal((len(x), 1, *x.shape[2:]), like=x) if self.training else self.noise
            x = torch.addcmul((noise * (self.strength * GAIN)).to(x.dtype), x, factors)
        return F.leaky_relu(x + self.bias.to(x.dtype)[:, None, None], 0.2)

    def initialise(self, rng: Rng) -> None:
        self.bias.zero_()
        if self.strength is not None:
            self.strength.zero_()
            self.noise.normal_(generator=rng)


class ToImage(nn.Module):
    """Modulated 1x1 convolution to the image's channels, float32."""

    def __init__(self, fan_in: int, channels: int, style_dim: int) -> None:
        super().__init__()
        self.convolution = Modulated(fan_in, channels, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        images: Tensor = self.convolution(x, w)[0].float() + self.bias[:, None, None]
        return images

    def initialise(self) -> None:
        self.bias.zero_()


class StyleGAN2Generator(nn.Module):
    """A learned constant at the core, two styled layers a level, and an image that each level adds to (output skips, figure 7b).

    There is no tanh: in training images are returned as they are, so that a value past the range still has a slope that brings it back;
    in evaluation they are clamped to [-1, 1].
    """

    def __init__(self, image: ImageSpec, latent_dim: int, options: GeneratorOptions) -> None:
        super().__init__()
        steps = doublings(image.size, family="stylegan2")
        widths = [options.width * min(CAP, 1 << (steps - level)) for level in range(steps + 1)]  # coarse to fine
        sizes = [(image.size[0] >> (steps - level), image.size[1] >> (steps - level)) for level in range(steps + 1)]
        self.options = options
        self.mapping = Mapping(latent_dim, image.classes, options)
        self.mean_latent = MeanLatent(latent_dim)
        self.constant = nn.Parameter(torch.empty(1, widths[0], *sizes[0]))
        self.core = StyledLayer(widths[0], widths[0], sizes[0], latent_dim, noise=options.noise)
        self.rising = nn.ModuleList(
            StyledLayer(widths[level], widths[level + 1], sizes[level + 1], latent_dim, up=True, noise=options.noise)
            for level in range(steps)
        )
        self.level = nn.ModuleList(
            StyledLayer(width, width, size, latent_dim, noise=options.noise) for width, size in zip(widths[1:], sizes[1:], strict=True)
        )
        self.to_image = nn.ModuleList(ToImage(width, image.channels, latent_dim) for width in widths)
        self.layers = 2 * steps + 2  # each convolution, and the last image; an earlier image shares the style of the convolution after it

    def forward(
        self, z: Tensor, labels: Tensor | None = None, *, full: bool = False, truncation: float = 1.0
    ) -> Tensor | Synthesis:  # [N, latent_dim] -> [N, C, H, W] float32
        """Images, in [-1, 1] in evaluation; with `full=True` -> Synthesis.

        Args:
            truncation: psi of arXiv:1812.04948, appendix B: 1 leaves w as it is, 0 makes the mean image.
        """
        styles = self._styles(z, labels, truncation)
        images = self._synthesise(styles)
        images = images if self.training else images.clamp(-1, 1)
        return Synthesis(images=images, styles=styles) if full else images

    def _styles(self, z: Tensor, labels: Tensor | None, truncation: float) -> Tensor:
        """[N, latent_dim] -> [N, layers, latent_dim], from two latents crossed over at a random layer in training (arXiv:1812.04948, 3.1)."""
        if not self.training or self.options.mixing_probability == 0:
            w: Tensor = self.mean_latent(self.mapping(z, labels), truncation)
            return w[:, None].expand(-1, self.layers, -1)
        is_mixed, place = rng.draw_uniform((2, len(z), 1, 1), like=z)
        other = rng.draw_normal(z.shape, like=z)
        both = self.mapping(torch.cat([z, other]), None if labels is None else labels.repeat(2))
        w, other = self.mean_latent(both, truncation)[:, None].chunk(2)
        crossover = torch.where(is_mixed < self.options.mixing_probability, 1 + (place * (self.layers - 1)).floor(), self.layers)
        return torch.where(torch.arange(self.layers, device=z.device)[:, None] < crossover, w, other)

    def _synthesise(self, styles: Tensor) -> Tensor:
        w = styles.unbind(1)
        x = self.core(self.constant.expand(styles.shape[0], -1, -1, -1), w[0])  # `len` would fix the batch of an exported model
        images: Tensor = self.to_image[0](x, w[1])
        for index, (rising, level) in enumerate(zip(self.rising, self.level, strict=True), start=1):
            x = level(rising(x, w[2 * index - 1]), w[2 * index])
            images = upsample(images) + self.to_image[index](x, w[2 * index + 1])
        return images

    def initialise(self, rng: Rng) -> None:
        """All weights N(0, 1), styles around 1, noise strengths 0."""
        initialise_equalised(self, rng)
        self.constant.normal_(generator=rng)
        self.mean_latent.initialise()
        for module in self.modules():
            if isinstance(module, Modulated | StyledLayer):
                module.initialise(rng)
            elif isinstance(module, ToImage):
                module.initialise()


class DownConvolution(EqualConv2d):
    """3x3 equalised convolution that halves height and width after a low-pass filter."""

    def forward(self, x: Tensor) -> Tensor:
        return downsampling_convolution(x, self.weight * self.scale, self.bias)


class DiscriminatorLevel(nn.Module):
    """Two convolutions and a halving, beside a linear path of half the variance (figure 7c); without that path for `skip` and `orig`."""

    def __init__(self, fan_in: int, fan_out: int, *, residual: bool) -> None:
        super().__init__()
        self.first = EqualConv2d(fan_in, fan_in, 3, gain=GAIN)
        self.second = DownConvolution(fan_in, fan_out, 3, gain=1.0 if residual else GAIN)  # sqrt(2) / sqrt(2): the sum has variance 1
        self.shortcut = EqualConv2d(fan_in, fan_out, 1, bias=False, gain=math.sqrt(0.5)) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.second(F.leaky_relu(self.first(x), 0.2)), 0.2)
        return y if self.shortcut is None else y + self.shortcut(downsample(x))


class StyleGAN2Discriminator(nn.Module):
    """Levels down to the core, the batch's spread, one convolution, one hidden layer, the head.

    Class conditions are a projection by default; the released StyleGAN2-ADA maps the label to the same kind of vector with a network of its own.
    """

    def __init__(self, image: ImageSpec, options: DiscriminatorOptions) -> None:
        super().__init__()
        steps = doublings(image.size, family="stylegan2")
        height, width = image.size[0] >> steps, image.size[1] >> steps
        widths = [options.width * min(CAP, 1 << level) for level in range(steps + 1)]  # fine to coarse
        self.classes = image.classes if options.condition == "concat" else 0
        readers = widths if options.architecture == "skip" else widths[:1]
        self.from_image = nn.ModuleList(EqualConv2d(image.channels + self.classes, fan_out, 1, gain=GAIN) for fan_out in readers)
        residual = options.architecture == "residual"
        self.levels = nn.ModuleList(DiscriminatorLevel(fan_in, fan_out, residual=residual) for fan_in, fan_out in pairwise(widths))
        top = widths[-1]
        self.spread = MinibatchStddev(options.minibatch_stddev_group) if options.minibatch_stddev else nn.Identity()
        self.core = EqualConv2d(top + options.minibatch_stddev, top, 3, gain=GAIN)
        self.hidden = EqualLinear(top * height * width, top, gain=GAIN)
        self.head = Head(top, classes=image.classes, condition=options.condition, linear=EqualLinear, embedding=EqualEmbedding)

    def forward(self, images: Tensor, labels: Tensor | None = None, *, full: bool = False) -> Tensor | Judgement:
        images = with_label_maps(images, labels, self.classes)
        x = F.leaky_relu(self.from_image[0](images), 0.2)
        for index, level in enumerate(self.levels, start=1):
            x = level(x)
            if index < len(self.from_image):
                images = downsample(images)
                x = x + F.leaky_relu(self.from_image[index](images), 0.2)
        x = F.leaky_relu(self.core(self.spread(x)), 0.2)
        x = F.leaky_relu(self.hidden(x.flatten(1)), 0.2)
        judgement = self.head(x, labels)
        return judgement if full else judgement.logits

    def initialise(self, rng: Rng) -> None:
        initialise_equalised(self, rng)


class StyleGAN2:
    """Mapping network, modulated convolutions, no tanh; sizes that halve to a core of 4..7 pixels."""

    generator_options = GeneratorOptions
    discriminator_options = DiscriminatorOptions
    roles: ClassVar[tuple[str, ...]] = ("generator", "discriminator")
    grows: ClassVar[bool] = False
    has_styles: ClassVar[bool] = True

    def check(self, image: ImageSpec) -> None:
        doublings(image.size, family="stylegan2")

    def generator(self, image: ImageSpec, latent_dim: int, options: GeneratorOptions) -> nn.Module:
        return StyleGAN2Generator(image, latent_dim, options)

    def discriminator(self, image: ImageSpec, latent_dim: int, options: DiscriminatorOptions) -> nn.Module:
        return StyleGAN2Discriminator(image, options)


MODELS.register("stylegan2", paper="arXiv:1912.04958")(StyleGAN2())
