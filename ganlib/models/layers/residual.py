"""Residual networks of GANs, in two directions (arXiv:1704.00028, appendix F; arXiv:1802.05957, appendix B.4): blocks and what they stack to."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Generator as Rng
from torch import Tensor, nn

from ganlib.models import ImageSpec, Judgement
from ganlib.models.layers.attention import SelfAttention
from ganlib.models.layers.heads import Condition, Head, with_label_maps
from ganlib.models.layers.initialise import initialise_glorot
from ganlib.models.layers.norm import BatchNorm, ConditionalBatchNorm
from ganlib.models.layers.sizes import doublings
from ganlib.models.layers.spectral import SpectralConv2d, SpectralEmbedding, SpectralLinear

Initialise = Callable[[nn.Module, Rng], None]


def spread(weight: Tensor) -> Tensor:
    """[out, in, 3, 3] -> [out, in, 4, 4]: the sum of the kernel at the four corners, which is its convolution with a 2x2 block of ones."""
    return F.pad(weight, (0, 1, 0, 1)) + F.pad(weight, (1, 0, 0, 1)) + F.pad(weight, (0, 1, 1, 0)) + F.pad(weight, (1, 0, 1, 0))


class DoublingConv2d(nn.Conv2d):
    """Nearest-neighbour doubling, then a 3x3 convolution: [N, in, H, W] -> [N, out, 2 H, 2 W].

    Computed as one transposed 4x4 convolution of stride 2, which is equal, with 16 products in place of 36 and no doubled input.
    """

    def __init__(self, fan_in: int, fan_out: int, *, bias: bool = True) -> None:
        super().__init__(fan_in, fan_out, 3, padding=1, bias=bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv_transpose2d(input, spread(weight.flip(2, 3)).transpose(0, 1), bias, stride=2, padding=1)


class HalvingConv2d(nn.Conv2d):
    """A 3x3 convolution, then 2x2 mean pooling: [N, in, 2 H, 2 W] -> [N, out, H, W]; computed as one 4x4 convolution of stride 2, likewise."""

    def __init__(self, fan_in: int, fan_out: int, *, bias: bool = True) -> None:
        super().__init__(fan_in, fan_out, 3, padding=1, bias=bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(input, spread(weight) / 4, bias, stride=2, padding=1)


class SpectralDoublingConv2d(SpectralConv2d, DoublingConv2d):
    """The same with spectral norm of the 3x3 kernel."""


class SpectralHalvingConv2d(SpectralConv2d, HalvingConv2d):
    """The same with spectral norm of the 3x3 kernel."""


class UpBlock(nn.Module):
    """[N, in, H, W] -> [N, out, 2 H, 2 W]: norm, ReLU, doubling, 3x3, norm, ReLU, 3x3, beside a doubled 1x1 shortcut.

    The shortcut's 1x1 convolution stands before the doubling, where it costs a quarter: the two commute.

    Args:
        norm: channels -> a batch norm, conditional or not.
        spectral: normalise every weight.
    """

    def __init__(self, fan_in: int, fan_out: int, *, norm: Callable[[int], nn.Module], spectral: bool) -> None:
        super().__init__()
        doubling, convolution = (SpectralDoublingConv2d, SpectralConv2d) if spectral else (DoublingConv2d, nn.Conv2d)
        self.norm1 = norm(fan_in)
        self.convolution1 = doubling(fan_in, fan_out, bias=False)  # the norm would take it away
        self.norm2 = norm(fan_out)
        self.convolution2 = convolution(fan_out, fan_out, 3, padding=1)
        self.shortcut = convolution(fan_in, fan_out, 1)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        h = self.convolution1(F.relu(normalised(self.norm1, x, condition), inplace=True))
        h = self.convolution2(F.relu(normalised(self.norm2, h, condition), inplace=True))
        total: Tensor = h + F.interpolate(self.shortcut(x), scale_factor=2.0, mode="nearest")
        return total


class DownBlock(nn.Module):
    """[N, in, H, W] -> [N, out, H / 2, W / 2]: ReLU, 3x3, ReLU, 3x3, mean pooling, beside a pooled 1x1 shortcut; no norm of activations.

    The pooling of the shortcut stands before its 1x1 convolution, where it saves three quarters: the two commute.

    Args:
        hidden: channels between the two convolutions.
        is_first: reads an image, which is not rectified.
        is_halving: False: the size stays, and with in = out the shortcut is the identity.
    """

    def __init__(self, fan_in: int, fan_out: int, *, hidden: int, spectral: bool, is_first: bool = False, is_halving: bool = True) -> None:
        super().__init__()
        halving, convolution = (SpectralHalvingConv2d, SpectralConv2d) if spectral else (HalvingConv2d, nn.Conv2d)
        self.is_first = is_first
        self.is_halving = is_halving
        self.convolution1 = convolution(fan_in, hidden, 3, padding=1)
        self.convolution2 = halving(hidden, fan_out) if is_halving else convolution(hidden, fan_out, 3, padding=1)
        self.shortcut = convolution(fan_in, fan_out, 1) if is_halving or fan_in != fan_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.convolution1(x if self.is_first else F.relu(x))
        h = self.convolution2(F.relu(h, inplace=True))
        total: Tensor = h + self.shortcut(F.avg_pool2d(x, 2) if self.is_halving else x)
        return total


def normalised(norm: nn.Module, x: Tensor, condition: Tensor | None) -> Tensor:
    """`norm` at x, told the condition where it is conditional."""
    y: Tensor = norm(x, condition) if isinstance(norm, ConditionalBatchNorm) else norm(x)
    return y


class UpStack(nn.Module):
    """A vector to the core, one block a level, then norm, ReLU, 3x3 and tanh: [N, inputs] -> [N, C, H, W] float32 in [-1, 1].

    Args:
        width: channels of the finest level; each coarser one has twice as many, up to 16 times.
        norm: channels -> a batch norm of the blocks, conditional or not; the last one is plain.
        attention_size: shorter side of the feature map with self-attention, None for the default, 0 for none.
    """

    def __init__(
        self,
        image: ImageSpec,
        inputs: int,
        *,
        family: str,
        width: int,
        norm: Callable[[int], nn.Module],
        spectral: bool,
        attention_size: int | None = 0,
    ) -> None:
        super().__init__()
        linear, convolution = (SpectralLinear, SpectralConv2d) if spectral else (nn.Linear, nn.Conv2d)
        steps = doublings(image.size, family=family)
        widths = [width * min(16, 1 << level) for level in range(steps - 1, -1, -1)]  # coarse to fine
        widths = [widths[0], *widths]
        self.core = (widths[0], image.size[0] >> steps, image.size[1] >> steps)
        self.linear = linear(inputs, math.prod(self.core))
        self.blocks = nn.ModuleList(UpBlock(fan_in, fan_out, norm=norm, spectral=spectral) for fan_in, fan_out in pairwise(widths))
        self.attention_level = attention_level(attention_size, image, family=family, network="generator")
        self.attention = SelfAttention(widths[self.attention_level]) if self.attention_level is not None else None
        self.norm = BatchNorm(width)
        self.image = convolution(width, image.channels, 3, padding=1)

    def forward(self, x: Tensor, conditions: Sequence[Tensor | None]) -> Tensor:
        """`conditions`: of each block's norms, coarse to fine."""
        h = self.linear(x).unflatten(1, self.core)
        for level, (block, condition) in enumerate(zip(self.blocks, conditions, strict=True)):
            if self.attention is not None and level == self.attention_level:
                h = self.attention(h)
            h = block(h, condition)
        images: Tensor = self.image(F.relu(self.norm(h), inplace=True)).tanh().float()
        return images


class ResidualGenerator(nn.Module):
    """An `UpStack` whose norms have a gain and a shift of their own for each class (arXiv:1802.05957, appendix B.4)."""

    def __init__(
        self, image: ImageSpec, latent_dim: int, *, family: str, width: int, spectral: bool, attention_size: int | None = 0
    ) -> None:
        super().__init__()
        classes = image.classes

        def norm(channels: int) -> nn.Module:
            if not classes:
                return BatchNorm(channels)
            return ConditionalBatchNorm(channels, gain=nn.Embedding(classes, channels), shift=nn.Embedding(classes, channels))

        self.stack = UpStack(image, latent_dim, family=family, width=width, norm=norm, spectral=spectral, attention_size=attention_size)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:  # [N, latent_dim] -> [N, C, H, W] float32 in [-1, 1]
        images: Tensor = self.stack(z, [labels] * len(self.stack.blocks))
        return images

    def initialise(self, rng: Rng) -> None:
        initialise_residual(self, rng)


class ResidualDiscriminator(nn.Module):
    """One halving block a level and one more at the core, then ReLU, the sum over pixels and one linear layer.

    Args:
        width: channels after the first block; doubles with each level, up to 16 times.
        is_wide: a block widens in its first convolution, not its second (SAGAN, BigGAN).
        attention_size: shorter side of the feature map with self-attention, None for the default, 0 for none.
        initialise: writes every parameter and buffer.
    """

    def __init__(
        self,
        image: ImageSpec,
        *,
        family: str,
        width: int,
        spectral: bool,
        condition: Condition,
        initialise: Initialise,
        is_wide: bool = False,
        attention_size: int | None = 0,
    ) -> None:
        super().__init__()
        steps = doublings(image.size, family=family)
        widths = [width * min(16, 1 << level) for level in range(steps)]
        self._initialise = initialise
        self.label_maps = image.classes if condition == "concat" else 0
        first = DownBlock(image.channels + self.label_maps, width, hidden=width, spectral=spectral, is_first=True)
        others = [
            DownBlock(fan_in, fan_out, hidden=fan_out if is_wide else fan_in, spectral=spectral) for fan_in, fan_out in pairwise(widths)
        ]
        last = DownBlock(widths[-1], widths[-1], hidden=widths[-1], spectral=spectral, is_halving=False)
        level = attention_level(attention_size, image, family=family, network="discriminator")
        layers: list[nn.Module] = [first, *others, last]
        if level is not None:
            layers.insert(steps - level, SelfAttention(widths[steps - level - 1]))
        self.layers = nn.Sequential(*layers)
        self.head = Head(
            widths[-1],
            classes=image.classes,
            condition=condition,
            linear=SpectralLinear if spectral else nn.Linear,
            embedding=SpectralEmbedding if spectral else nn.Embedding,
        )

    def forward(
        self, images: Tensor, labels: Tensor | None = None, *, full: bool = False
    ) -> Tensor | Judgement:  # [N, C, H, W] -> logits [N] float32
        maps = self.layers(with_label_maps(images, labels, self.label_maps))
        judgement = self.head(F.relu(maps).float().sum((2, 3)), labels)
        return judgement if full else judgement.logits

    def initialise(self, rng: Rng) -> None:
        self._initialise(self, rng)


def initialise_residual(network: nn.Module, rng: Rng) -> None:
    """Glorot's uniform weights, times sqrt(2) in the 3x3 convolutions of blocks (released code of arXiv:1802.05957)."""
    initialise_glorot(network, rng)
    for module in network.modules():
        if isinstance(module, UpBlock | DownBlock):
            module.convolution1.weight *= math.sqrt(2)
            module.convolution2.weight *= math.sqrt(2)


def attention_level(attention_size: int | None, image: ImageSpec, *, family: str, network: str) -> int | None:
    """How often the core is doubled to the map with self-attention; None: no attention.

    Args:
        attention_size: the map's shorter side; 0: no attention; None: of the maps below the image, the one whose shorter side is nearest to
            14..16 pixels (the smaller of two as near), where attention costs little and still sees structure.

    Raises:
        ValueError: no feature map has that side.
    """
    steps = doublings(image.size, family=family)
    sides = [min(image.size) >> (steps - level) for level in range(steps)]
    if attention_size is None:
        return min(range(steps), key=lambda level: max(14 - sides[level], sides[level] - 16))
    if attention_size == 0:
        return None
    if attention_size not in sides:
        raise ValueError(
            f"model.{network}.attention_size={attention_size}: the feature maps of model.name={family} at "
            f"data.image_size={list(image.size)} have shorter sides {sides}; take one of them, or 0 for no attention"
        )
    return sides.index(attention_size)
