"""Grouped residual networks without normalisation, for a relativistic loss with R1 and R2 (R3GAN, arXiv:2501.05441, section 4).

What differs from the released code: widths double with each level, where it lists them; a group is at least `group_width` wide; G's class embedding
starts at N(0, 1), not N(0, 1 / classes); D's condition is a projection by default, `inner_product` is the released one; G is clamped to [-1, 1]
in evaluation.
"""

from itertools import pairwise
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator as Rng
from torch import Tensor, nn

from ganlib.config import Section
from ganlib.models import MODELS, ImageSpec, Judgement
from ganlib.models.layers.heads import Condition, Head, with_label_maps
from ganlib.models.layers.resample import downsample, upsample
from ganlib.models.layers.sizes import doublings

SLOPE = 0.2
CAP = 16  # no level has more than 16 times the channels of the finest
WEIGHTS_A_BLOCK = 3


class R3GANOptions(Section):
    """Options of either network."""

    width: int = Field(32, ge=1, description="channels at the image's own size; each coarser level has twice as many, up to 16 times")
    blocks: int = Field(2, ge=1, description="residual blocks a level")
    expansion: int = Field(2, ge=1, description="how many times wider a block is inside")
    group_width: int = Field(16, ge=1, description="channels of one group of the 3x3 convolutions, or the next larger that divides")


class DiscriminatorOptions(R3GANOptions):
    """Options of the discriminator."""

    condition: Condition | Literal["inner_product"] = Field(
        "projection", description="how it is told the class, where there are classes; inner_product: as the released code tells it"
    )
    embedding_dim: int = Field(128, ge=1, description="numbers that stand for a class with condition: inner_product")


def groups(channels: int, group_width: int) -> int:
    """The most groups of at least `group_width` channels that divide `channels`."""
    return next(count for count in range(max(1, channels // group_width), 0, -1) if channels % count == 0)


class Block(nn.Module):
    """x + a bottleneck turned inside out: 1x1 to the wider inside, grouped 3x3, 1x1 back; 0 at the start (Fixup, arXiv:1901.09321)."""

    def __init__(self, channels: int, options: R3GANOptions) -> None:
        super().__init__()
        inside = channels * options.expansion
        self.expand = nn.Conv2d(channels, inside, 1)
        self.mix = nn.Conv2d(inside, inside, 3, padding=1, groups=groups(inside, options.group_width))
        self.project = nn.Conv2d(inside, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.expand(x), SLOPE)
        total: Tensor = x + self.project(F.leaky_relu(self.mix(y), SLOPE))
        return total

    def initialise(self, rng: Rng, *, blocks: int) -> None:
        """He's weights times L^(-1 / (2m - 2)) for L blocks of m weights, the last one 0 (Fixup, section 3)."""
        for layer in (self.expand, self.mix):
            nn.init.kaiming_normal_(layer.weight, a=SLOPE, generator=rng)
            layer.weight.mul_(blocks ** (-1 / (2 * WEIGHTS_A_BLOCK - 2)))
            assert layer.bias is not None
            layer.bias.zero_()
        self.project.weight.zero_()


def _level(channels: int, options: R3GANOptions) -> list[nn.Module]:
    return [Block(channels, options) for _ in range(options.blocks)]


def _initialise(network: nn.Module, rng: Rng) -> None:
    """Blocks their own way, what is linear with variance 1 / fan_in."""
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    inside = {id(layer) for block in blocks for layer in block.modules()}
    for module in network.modules():
        if isinstance(module, Block):
            module.initialise(rng, blocks=len(blocks))
        elif isinstance(module, nn.Conv2d | nn.Linear) and id(module) not in inside:
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear", generator=rng)
            if module.bias is not None:
                module.bias.zero_()


class Up(nn.Module):
    """1x1 convolution to fewer channels, then doubling with (1, 3, 3, 1): the released (1, 2, 1), bilinear, convolved with a box."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(fan_in, fan_out, 1, bias=False) if fan_in != fan_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return upsample(self.convolution(x))


class Down(nn.Module):
    """Halving with the same filter, then a 1x1 convolution to more channels."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(fan_in, fan_out, 1, bias=False) if fan_in != fan_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.convolution(downsample(x))
        return y


class InnerProduct(nn.Module):
    """Features [N, F] -> logits [N]: <W f, embedding(label)>, without a logit that knows no class (released code of arXiv:2501.05441)."""

    def __init__(self, features: int, *, classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, embedding_dim, bias=False)
        self.embedding = nn.Embedding(classes, embedding_dim)

    def forward(self, features: Tensor, labels: Tensor | None) -> Judgement:
        assert labels is not None
        logits = (self.linear(features).float() * self.embedding(labels).float()).sum(1)
        return Judgement(logits=logits, features=features.float())

    def initialise(self, rng: Rng) -> None:
        """The linear layer keeps the variance; the embedding is a linear layer of the one-hot class, over the root of its length."""
        classes, length = self.embedding.weight.shape
        self.linear.weight.normal_(0.0, self.linear.in_features**-0.5, generator=rng)
        self.embedding.weight.normal_(0.0, (classes * length) ** -0.5, generator=rng)


class R3GANGenerator(nn.Module):
    """A learned map for each channel at the core, weighted by a linear function of the latent, then blocks and doublings; no tanh.

    In training images are returned as they are, so that a value past the range still has a slope that brings it back; in evaluation they are
    clamped to [-1, 1].
    """

    def __init__(self, image: ImageSpec, latent_dim: int, options: R3GANOptions) -> None:
        super().__init__()
        steps = doublings(image.size, family="r3gan")
        core = (image.size[0] >> steps, image.size[1] >> steps)
        widths = [options.width * min(CAP, 1 << (steps - level)) for level in range(steps + 1)]  # coarse to fine
        self.embedding = nn.Embedding(image.classes, latent_dim) if image.classes else None
        self.linear = nn.Linear(latent_dim * (2 if image.classes else 1), widths[0], bias=False)
        self.basis = nn.Parameter(torch.empty(1, widths[0], *core))
        layers = _level(widths[0], options)
        for fan_in, fan_out in pairwise(widths):
            layers += [Up(fan_in, fan_out), *_level(fan_out, options)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], image.channels, 1, bias=False))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:  # [N, latent_dim] -> [N, C, H, W] float32
        if self.embedding is not None:
            assert labels is not None
            z = torch.cat([z, self.embedding(labels).to(z.dtype)], 1)
        images: Tensor = self.layers(self.basis * self.linear(z)[:, :, None, None]).float()
        return images if self.training else images.clamp(-1, 1)

    def initialise(self, rng: Rng) -> None:
        _initialise(self, rng)
        self.basis.normal_(generator=rng)
        if self.embedding is not None:
            self.embedding.weight.normal_(generator=rng)


class R3GANDiscriminator(nn.Module):
    """The generator backwards: blocks and halvings, each channel's sum over the core under a learned map, the head."""

    def __init__(self, image: ImageSpec, options: DiscriminatorOptions) -> None:
        super().__init__()
        steps = doublings(image.size, family="r3gan")
        core = (image.size[0] >> steps, image.size[1] >> steps)
        widths = [options.width * min(CAP, 1 << level) for level in range(steps + 1)]  # fine to coarse
        self.classes = image.classes if options.condition == "concat" else 0
        layers: list[nn.Module] = [nn.Conv2d(image.channels + self.classes, widths[0], 1, bias=False), *_level(widths[0], options)]
        for fan_in, fan_out in pairwise(widths):
            layers += [Down(fan_in, fan_out), *_level(fan_out, options)]
        self.layers = nn.Sequential(*layers)
        self.basis = nn.Parameter(torch.empty(1, widths[-1], *core))
        self.head: Head | InnerProduct
        if image.classes and options.condition == "inner_product":
            self.head = InnerProduct(widths[-1], classes=image.classes, embedding_dim=options.embedding_dim)
        else:
            condition: Condition = "projection" if options.condition == "inner_product" else options.condition  # of no classes: none
            self.head = Head(widths[-1], classes=image.classes, condition=condition)

    def forward(self, images: Tensor, labels: Tensor | None = None, *, full: bool = False) -> Tensor | Judgement:
        features = (self.layers(with_label_maps(images, labels, self.classes)) * self.basis).sum((2, 3))
        judgement = self.head(features, labels)
        return judgement if full else judgement.logits

    def initialise(self, rng: Rng) -> None:
        _initialise(self, rng)
        self.basis.normal_(0.0, self.basis[0, 0].numel() ** -0.5, generator=rng)
        if isinstance(self.head, InnerProduct):
            self.head.initialise(rng)
        elif self.head.embedding is not None:
            self.head.embedding.weight.normal_(0.0, self.head.embedding.embedding_dim**-0.5, generator=rng)


class R3GAN:
    """Residual, grouped, nothing normalised; sizes that halve to a core of 4..7 pixels."""

    generator_options = R3GANOptions
    discriminator_options = DiscriminatorOptions
    roles: ClassVar[tuple[str, ...]] = ("generator", "discriminator")
    grows: ClassVar[bool] = False
    has_styles: ClassVar[bool] = False

    def check(self, image: ImageSpec) -> None:
        doublings(image.size, family="r3gan")

    def generator(self, image: ImageSpec, latent_dim: int, options: R3GANOptions) -> nn.Module:
        return R3GANGenerator(image, latent_dim, options)

    def discriminator(self, image: ImageSpec, latent_dim: int, options: DiscriminatorOptions) -> nn.Module:
        return R3GANDiscriminator(image, options)


MODELS.register("r3gan", paper="arXiv:2501.05441")(R3GAN())
