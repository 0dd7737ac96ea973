"""SRGAN's networks: residual blocks at the low resolution, then pixel shuffles; and strided convolutions that judge the result."""

from itertools import pairwise
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator as Rng
from torch import Tensor, nn

from ganlib.config import Section
from ganlib.models import MODELS, ImageSpec, Judgement
from ganlib.models.layers.heads import Head
from ganlib.models.layers.initialise import initialise_he
from ganlib.models.layers.norm import BatchNorm
from ganlib.models.layers.sizes import doublings
from ganlib.models.layers.spectral import SpectralConv2d, SpectralLinear
from ganlib.transforms.low_resolution import bicubic

RESIDUAL_SCALE = 0.2  # of an RRDB's branches (arXiv:1809.00219, section 3.1 and released code)
NEARLY_ONE = 0.98  # tanh reaches black and white nowhere
DENSE_LAYERS, DENSE_BLOCKS = 5, 3  # of an RRDB


class TranslatorOptions(Section):
    """Options of the network that enlarges."""

    width: int = Field(32, ge=2, description="channels of every block (the paper has 64)")
    blocks: int = Field(4, ge=1, description="residual blocks, all at the low resolution (the paper has 16)")
    block: Literal["residual", "rrdb"] = Field("residual", description="of SRGAN, or ESRGAN's dense blocks within residual ones")
    normalization: Literal["none", "batch"] = Field("none", description="of residual blocks; batch as in SRGAN, none as in ESRGAN")


class DiscriminatorOptions(Section):
    """Options of the discriminator."""

    width: int = Field(32, ge=1, description="channels at the image's size; doubles with each level, up to 8 times (the paper has 64)")
    normalization: Literal["none", "batch", "spectral"] = Field("batch", description="batch as in the paper, never on the first layer")


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a PReLU between (arXiv:1609.04802, figure 4)."""

    def __init__(self, width: int, *, has_norm: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=not has_norm)
        self.between = nn.Sequential(*([BatchNorm(width)] if has_norm else []), nn.PReLU())
        self.last = nn.Conv2d(width, width, 3, padding=1, bias=not has_norm)
        self.norm = BatchNorm(width) if has_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.norm(self.last(self.between(self.first(x))))
        return out


class DenseBlock(nn.Module):
    """Convolutions that each see all maps before them, the last one added to the input (arXiv:1809.00219, figure 4)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        growth = width // 2
        outputs = [growth] * (DENSE_LAYERS - 1) + [width]
        self.layers = nn.ModuleList(nn.Conv2d(width + i * growth, fan_out, 3, padding=1) for i, fan_out in enumerate(outputs))

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.layers:
            maps.append(F.leaky_relu(layer(torch.cat(maps, 1)), 0.2) if layer is not self.layers[-1] else layer(torch.cat(maps, 1)))
        return x + RESIDUAL_SCALE * maps[-1]


class RRDB(nn.Module):
    """Residual in residual dense block (arXiv:1809.00219, section 3.1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[DenseBlock(width) for _ in range(DENSE_BLOCKS)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + RESIDUAL_SCALE * self.layers(x)
        return out


class SRResNet(nn.Module):
    """The image from one of fewer pixels: what the blocks find is added, after pixel shuffles, to what bicubic interpolation makes of it.

    The sum with the interpolated image is not in the paper: so the network begins where the plain way ends, and in trainings of minutes need not
    learn first to copy what it is fed. It is a sum within tanh, as figure 4 ends in: no pixel leaves [-1, 1].
    """

    def __init__(self, image: ImageSpec, fed: ImageSpec, options: TranslatorOptions) -> None:
        super().__init__()
        self.factor, self.blocks = enlargement(image, fed), options.blocks
        width, has_norm = options.width, options.normalization == "batch"
        self.first = nn.Sequential(nn.Conv2d(fed.channels, width, 9, padding=4), nn.PReLU())
        blocks: list[nn.Module] = [
            RRDB(width) if options.block == "rrdb" else ResidualBlock(width, has_norm=has_norm) for _ in range(options.blocks)
        ]
        norm: list[nn.Module] = [BatchNorm(width)] if has_norm and options.block == "residual" else []
        self.body = nn.Sequential(*blocks, nn.Conv2d(width, width, 3, padding=1), *norm)
        enlarging: list[nn.Module] = []
        for _ in range(self.factor.bit_length() - 1):
            enlarging += [nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.PReLU()]
        self.enlarging = nn.Sequential(*enlarging)
        self.last = nn.Conv2d(width, image.channels, 9, padding=4)

    def forward(self, fed: Tensor, labels: Tensor | None = None) -> Tensor:  # [N, C, h, w] -> [N, C, H, W] float32 in [-1, 1]
        x = self.first(fed)
        made = self.last(self.enlarging(x + self.body(x))).float()
        plain = bicubic(fed, self.factor)
        images: Tensor = (made + (NEARLY_ONE * plain).atanh()).tanh()
        return images

    def initialise(self, rng: Rng) -> None:
        initialise_he(self, rng, slope=0.25)
        for module in self.modules():
            if isinstance(module, nn.PReLU):
                module.weight.fill_(0.25)
            elif isinstance(module, ResidualBlock):
                module.last.weight.mul_(self.blocks**-0.5)  # so that the sum over all blocks has the size of one
        self.last.weight.mul_(0.1)


class SRDiscriminator(nn.Module):
    """Pairs of 3x3 convolutions, the second of stride 2, down to a core of 4 to 7 pixels; then two linear layers (arXiv:1609.04802, figure 4)."""

    def __init__(self, image: ImageSpec, options: DiscriminatorOptions) -> None:
        super().__init__()
        steps = doublings(image.size, family="srresnet")
        is_spectral = options.normalization == "spectral"
        convolution, linear = (SpectralConv2d, SpectralLinear) if is_spectral else (nn.Conv2d, nn.Linear)
        widths = [options.width * min(8, 1 << level) for level in range(steps + 1)]
        layers: list[nn.Module] = [convolution(image.channels, widths[0], 3, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        for fan_in, fan_out in pairwise(widths):
            for inputs, outputs, stride in ((fan_in, fan_in, 2), (fan_in, fan_out, 1)):
                has_norm = options.normalization == "batch"
                layers.append(convolution(inputs, outputs, 3, stride, 1, bias=not has_norm))
                layers += [*([BatchNorm(outputs)] if has_norm else []), nn.LeakyReLU(0.2, inplace=True)]
        core = (image.size[0] >> steps) * (image.size[1] >> steps)
        hidden = 4 * widths[-1]
        self.features = nn.Sequential(*layers, nn.Flatten(), linear(widths[-1] * core, hidden), nn.LeakyReLU(0.2, inplace=True))
        self.head = Head(hidden, linear=linear)

    def forward(
        self, images: Tensor, labels: Tensor | None = None, *, full: bool = False
    ) -> Tensor | Judgement:  # [N, C, H, W] -> logits [N] float32
        judgement = self.head(self.features(images), None)
        return judgement if full else judgement.logits

    def initialise(self, rng: Rng) -> None:
        initialise_he(self, rng, slope=0.2)


def enlargement(image: ImageSpec, fed: ImageSpec) -> int:
    """How often the sides of `fed` go into those of `image`.

    Raises:
        ValueError: not a power of two, not the same for both sides, or of other channels.
    """
    factor = image.size[0] // fed.size[0]
    has_factor = tuple(side * factor for side in fed.size) == image.size
    if not has_factor or factor < 2 or factor & (factor - 1) or image.channels != fed.channels:
        raise ValueError(
            f"model.name=srresnet cannot make {image.channels} channels of {list(image.size)} from {fed.channels} of {list(fed.size)}: it makes as "
            "many channels, and sides that are 2, 4, 8, ... times as long; set task.transform: {name: low_resolution, factor: 4}, or another family"
        )
    return factor


class SRResNetFamily:
    """SRResNet and ESRGAN's variant of it, for sides that are 2, 4, 8, ... times those of what is fed; the discriminator of SRGAN."""

    translator_options = TranslatorOptions
    discriminator_options = DiscriminatorOptions
    roles: ClassVar[tuple[str, ...]] = ("translator", "discriminator")
    grows: ClassVar[bool] = False
    has_styles: ClassVar[bool] = False

    def check(self, image: ImageSpec) -> None:
        doublings(image.size, family="srresnet")

    def translator(self, image: ImageSpec, fed: ImageSpec, options: TranslatorOptions) -> nn.Module:
        return SRResNet(image, fed, options)

    def discriminator(self, image: ImageSpec, latent_dim: int, options: DiscriminatorOptions) -> nn.Module:
        return SRDiscriminator(image, options)


MODELS.register("srresnet", paper="arXiv:1609.04802, figure 4; arXiv:1809.00219, section 3.1")(SRResNetFamily())
