"""Perceptual losses: how far what was made of an image is from the image, in features of a network."""

from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ganlib.metrics.efficientnet_lite0 import folded
from ganlib.metrics.imagenet import MIDDLE_BLOCK, check_channels, network_of, published_weights, scaled, weights_path
from ganlib.moment import Moment
from ganlib.registry import Registry

KEY = "task.perceptual"


class Perceptual(Protocol):
    """`(device)` makes one; calling it gives the distance of each generated image of a moment from the real one in its place.

    Attributes:
        reads_discriminator: the features are the discriminator's.
    """

    reads_discriminator: ClassVar[bool]

    @staticmethod
    def check(channels: int) -> None:
        """Raise ValueError where such images have no such features."""

    def __call__(self, moment: Moment) -> Tensor:
        """[n] float32, with a gradient towards what was made."""


PERCEPTUAL: Registry[Any] = Registry("perceptual loss", package="ganlib.perceptual")


@PERCEPTUAL.register("discriminator", paper="arXiv:1512.09300, section 2.3; arXiv:1711.11585, eq. 4")
class DiscriminatorFeatures:
    """Mean absolute difference of the discriminator's features, as far as it has learnt them."""

    reads_discriminator: ClassVar[bool] = True

    def __init__(self, device: torch.device) -> None:
        del device  # the discriminator is where it is

    @staticmethod
    def check(channels: int) -> None:
        return

    def __call__(self, moment: Moment) -> Tensor:
        distance: Tensor = (moment.fake_judgement.features - moment.real_judgement.features.detach()).abs().mean(1)
        return distance


@PERCEPTUAL.register("efficientnet_lite0", paper="arXiv:1603.08155, eq. 2, of a smaller network")
class ImageNetFeatures:
    """Mean squared difference of the maps half-way through EfficientNet-Lite0, trained on ImageNet; it stays as it is, and no checkpoint holds it.

    An extractor of the same name then measures what was trained for; name another beside it in reference.extractor.
    """

    reads_discriminator: ClassVar[bool] = False

    def __init__(self, device: torch.device) -> None:
        self.maps = Maps().to(device)

    @staticmethod
    def check(channels: int) -> None:
        check_channels(channels, KEY)
        weights_path(KEY)

    def __call__(self, moment: Moment) -> Tensor:
        with torch.no_grad():
            truth: Tensor = moment.seen(self.maps, moment.real)
        made: Tensor = moment.seen(self.maps, moment.fake)
        return (made.float() - truth.float()).square().flatten(1).mean(1)


class Maps(nn.Module):
    """Images [n, 1 or 3, H, W] in [-1, 1] -> the maps [n, 112, h, w] that the extractor `efficientnet_lite0` takes the statistics of."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network_of(folded(published_weights(KEY)), torch.float32)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        middle, _ = self.network(scaled((images + 1) * 127.5, torch.float32), middle_block=MIDDLE_BLOCK)
        found: Tensor = middle
        return found
