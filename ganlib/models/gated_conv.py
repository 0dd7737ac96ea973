"""Gated convolutions that fill a hole, and a discriminator of patches with spectral normalisation (SN-PatchGAN)."""

from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator as Rng
from torch import Tensor, nn

from ganlib.config import Section
from ganlib.models import MODELS, ImageSpec, Judgement
from ganlib.models.layers.initialise import initialise_he
from ganlib.models.layers.sizes import doublings
from ganlib.models.layers.spectral import SpectralConv2d

FEATURE_GAIN = 2.0  # on He's weights: a gate begins near a half, which this undoes


class TranslatorOptions(Section):
    """Options of the network that fills holes."""

    width: int = Field(32, ge=1, description="channels at the image's size; doubles with each of two halvings")
    dilated: int = Field(2, ge=0, description="dilated convolutions in the middle: dilation 2, 4, 8, ..., no wider than the map")


class DiscriminatorOptions(Section):
    """Options of the discriminator."""

    width: int = Field(32, ge=1, description="channels after the first layer; doubles with each level, up to 4 times")


class GatedConv2d(nn.Module):
    """elu(W_f x) * sigmoid(W_g x): a convolution that chooses, for each channel and place, what it lets through (arXiv:1806.03589, eq. 1-2)."""

    def __init__(self, fan_in: int, fan_out: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.both = nn.Conv2d(fan_in, 2 * fan_out, kernel, stride, dilation * (kernel - 1) // 2, dilation)

    def forward(self, x: Tensor) -> Tensor:
        feature, gate = self.both(x).chunk(2, 1)
        passed: Tensor = F.elu(feature) * gate.sigmoid()
        return passed


class GatedNetwork(nn.Module):
    """Two halvings, dilated convolutions and two doublings, gated all; known pixels are passed on as they are.

    The first of the paper's two networks (figure 3) without contextual attention: holes of a few pixels have what they need within its view.
    """

    def __init__(self, image: ImageSpec, fed: ImageSpec, options: TranslatorOptions) -> None:
        super().__init__()
        check_fed(image, fed)
        width = options.width
        widest = min(image.size) // 4
        dilations = [2**i for i in range(1, options.dilated + 1) if 2**i < widest]
        layers: list[nn.Module] = [GatedConv2d(fed.channels, width, 5)]
        for fan_in, fan_out in pairwise((width, 2 * width, 4 * width)):
            layers += [GatedConv2d(fan_in, fan_out, stride=2), GatedConv2d(fan_out, fan_out)]
        layers += [GatedConv2d(4 * width, 4 * width, dilation=dilation) for dilation in dilations]
        for fan_in, fan_out in pairwise((4 * width, 2 * width, width)):
            layers += [GatedConv2d(fan_in, fan_in), nn.Upsample(scale_factor=2.0), GatedConv2d(fan_in, fan_out)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, image.channels, 3, padding=1))

    def forward(self, fed: Tensor, labels: Tensor | None = None) -> Tensor:  # [N, C + 1, H, W] -> [N, C, H, W] float32 in [-1, 1]
        made = self.layers(fed).float().tanh()
        return torch.where(fed[:, -1:] > 0.5, made, fed[:, :-1].float())

    def initialise(self, rng: Rng) -> None:
        initialise_he(self, rng)
        for module in self.modules():
            if isinstance(module, GatedConv2d):
                feature, gate = module.both.weight.chunk(2, 0)
                feature.mul_(FEATURE_GAIN)
                gate.mul_(0.5**0.5)  # no rectifier before a sigmoid


class PatchDiscriminator(nn.Module):
    """5x5 convolutions of stride 2, each normalised, down to a core of 4 to 7 pixels; every place of it is judged (arXiv:1806.03589, section 3.3).

    The paper takes each channel of the last map for a verdict; here a 1x1 convolution makes one verdict a place of them. It is shown images, and
    not where the hole was.
    """

    def __init__(self, image: ImageSpec, options: DiscriminatorOptions) -> None:
        super().__init__()
        steps = doublings(image.size, family="gated_conv")
        widths = [image.channels, *(options.width * min(4, 1 << level) for level in range(steps + 1))]
        layers: list[nn.Module] = []
        for level, (fan_in, fan_out) in enumerate(pairwise(widths)):
            layers += [SpectralConv2d(fan_in, fan_out, 5, 1 if level == 0 else 2, 2), nn.LeakyReLU(0.2, inplace=True)]
        self.features = nn.Sequential(*layers)
        self.head = SpectralConv2d(widths[-1], 1, 1)

    def forward(
        self, images: Tensor, labels: Tensor | None = None, *, full: bool = False
    ) -> Tensor | Judgement:  # [N, C, H, W] -> logits [N] float32, the mean over patches
        maps = self.features(images)
        patch_logits = self.head(maps).float().flatten(1)
        logits = patch_logits.mean(1)
        return Judgement(logits=logits, features=maps.float().flatten(1), patch_logits=patch_logits) if full else logits

    def initialise(self, rng: Rng) -> None:
        initialise_he(self, rng, slope=0.2)


def check_fed(image: ImageSpec, fed: ImageSpec) -> None:
    """Raise ValueError unless `fed` is the image and one more channel, the hole."""
    if fed.size != image.size or fed.channels != image.channels + 1:
        raise ValueError(
            f"model.name=gated_conv fills holes: it is fed {image.channels} + 1 channels of {list(image.size)} and not {fed.channels} of "
            f"{list(fed.size)}; set task.transform.name: holes, or another model.name"
        )


class GatedConv:
    """Gated convolutions for holes, and SN-PatchGAN; sizes that halve to a core of 4..7 pixels, at least twice where the hole is filled."""

    translator_options = TranslatorOptions
    discriminator_options = DiscriminatorOptions
    roles: ClassVar[tuple[str, ...]] = ("translator", "discriminator")
    grows: ClassVar[bool] = False
    has_styles: ClassVar[bool] = False

    def check(self, image: ImageSpec) -> None:
        doublings(image.size, family="gated_conv")
        if any(side % 4 for side in image.size):
            raise ValueError(f"data.image_size={list(image.size)} cannot be made by model.name=gated_conv: each side is a multiple of 4")

    def translator(self, image: ImageSpec, fed: ImageSpec, options: TranslatorOptions) -> nn.Module:
        return GatedNetwork(image, fed, options)

    def discriminator(self, image: ImageSpec, latent_dim: int, options: DiscriminatorOptions) -> nn.Module:
        return PatchDiscriminator(image, options)


MODELS.register("gated_conv", paper="arXiv:1806.03589, eq. 1-2 and section 3.3")(GatedConv())
