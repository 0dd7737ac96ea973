"""What a task delivers: which network makes it, what that network is fed, and what it is measured against."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from ganlib.sampling import Inputs, Prior, generate, to_float


@dataclass(frozen=True, kw_only=True)
class Column:
    """A feed of the data's own images, perhaps changed on the way: low resolution, a hole.

    Attributes:
        transform: [N, C, H, W] float32 in [-1, 1] -> what the network is fed, image by image; None: the images as they are.
    """

    transform: Callable[[Tensor], Tensor] | None = None

    def inputs(self, images: Tensor) -> Inputs:
        """Of images [N, C, H, W] float32 in [-1, 1]."""
        return Inputs(images if self.transform is None else self.transform(images))


Feed = Prior | Column  # latents and classes, or the data


def whole(network: nn.Module) -> nn.Module:
    return network


@dataclass(frozen=True, kw_only=True)
class Product:
    """Images that a task's network makes.

    Attributes:
        network: its name among the task's; the moving average of it is what makes the product.
        feed: what the network is fed.
        part: the part of the network that makes it, a module that takes the feed's inputs and gives [N, C, H, W] float32 in [-1, 1].
        has_truth: each image that it makes has one that it should be, the image it was fed from; else it is measured against the data's distribution.
    """

    name: str
    network: str
    feed: Feed
    part: Callable[[nn.Module], nn.Module] = whole
    has_truth: bool = False

    def __post_init__(self) -> None:
        if self.has_truth and isinstance(self.feed, Prior):
            raise ValueError(
                f"product {self.name}: latents have no image that they should become; feed it a Column, or leave has_truth out"
            )


def made(part: nn.Module, feed: Column, images: np.ndarray, *, batch_images: int) -> np.ndarray:
    """What a part of a network, in evaluation mode, makes of images: [N, C, H, W] uint8 -> the same; `batch_images` is part of the numerics."""
    return generate(part, feed.inputs(to_float(images)), batch_images=batch_images)


def sampled(products: tuple[Product, ...]) -> tuple[Product, Prior]:
    """The product that is drawn from latents, with its feed: what grids, samples, the judge of candidates and the registry show first.

    Raises:
        ValueError: the task has none.
    """
    for product in products:
        if isinstance(product.feed, Prior):
            return product, product.feed
    raise ValueError(f"the task draws nothing from latents; its products are {', '.join(product.name for product in products)}")
