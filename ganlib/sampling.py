"""What a generator is fed, and images from it."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ganlib.models import ImageSpec, known_to
from ganlib.models.settings import ModelConfig
from ganlib.rng import keyed_rng

Distribution = Literal["normal", "uniform"]


def latents(count: int, dim: int, distribution: Distribution, rng: torch.Generator) -> Tensor:
    """[count, dim] float32 on the CPU: N(0, 1), or U(-1, 1) for `uniform`."""
    if distribution == "uniform":
        return torch.rand(count, dim, generator=rng) * 2 - 1
    return torch.randn(count, dim, generator=rng)


class Inputs(NamedTuple):
    """Arguments of a generator: z [N, latent_dim] float32, labels [N] int64 or None."""

    z: Tensor
    labels: Tensor | None = None

    def to(self, device: torch.device) -> "Inputs":
        return Inputs(self.z.to(device), None if self.labels is None else self.labels.to(device))

    def split(self, size: int) -> list["Inputs"]:
        """Batches of `size`, the last one shorter."""
        parts = self.z.split(size)
        return [Inputs(z, y) for z, y in zip(parts, [None] * len(parts) if self.labels is None else self.labels.split(size), strict=True)]


@dataclass(frozen=True, kw_only=True)
class Prior:
    """The distribution of a generator's inputs: p(z), and p(y) of the training data where it is told a class.

    Attributes:
        class_counts: training images of each class; () for an unconditional generator.
    """

    latent_dim: int
    distribution: Distribution
    class_counts: tuple[int, ...] = ()

    @classmethod
    def of(cls, model: ModelConfig, image: ImageSpec) -> "Prior":
        return cls(latent_dim=model.latent_dim, distribution=model.latent_distribution, class_counts=known_to(model, image).class_counts)

    @property
    def classes(self) -> tuple[int, ...]:
        """Numbers of the classes that have training images: of the others the networks know nothing."""
        return tuple(number for number, count in enumerate(self.class_counts) if count)

    def column_classes(self, columns: int) -> tuple[int, ...]:
        """The class that each of `columns` columns of a picture shows: in turn, or spread evenly over more classes; () without classes."""
        known = self.classes
        return tuple(known[column * max(1, len(known) // columns) % len(known)] for column in range(columns)) if known else ()

    def draw(self, count: int, rng: torch.Generator) -> Inputs:
        """`count` inputs on the CPU, all from one generator."""
        z = latents(count, self.latent_dim, self.distribution, rng)
        return Inputs(z, self._labels(count, rng) if self.class_counts else None)

    def seeded(self, seed: int, indices: range) -> Inputs:
        """Input i depends on (seed, i) alone, so any single image can be made again."""
        z = torch.cat([latents(1, self.latent_dim, self.distribution, keyed_rng(seed, "sample", i)) for i in indices])
        if not self.class_counts:
            return Inputs(z)
        return Inputs(z, torch.cat([self._labels(1, keyed_rng(seed, "sample label", i)) for i in indices]))

    def seeded_of_classes(self, seed: int, indices: range, *, columns: int) -> Inputs:
        """The same latents, but each of the `columns` columns of a picture shows one class; as `seeded` where there are no classes."""
        z, labels = self.seeded(seed, indices)
        return Inputs(z, None if labels is None else torch.tensor(self.column_classes(columns))[torch.arange(len(z)) % columns])

    def _labels(self, count: int, rng: torch.Generator) -> Tensor:
        """[count] int64: the class of an image drawn from the training data."""
        ends = torch.tensor(self.class_counts).cumsum(0)
        return torch.searchsorted(ends, torch.randint(int(ends[-1]), (count,), generator=rng), right=True)


@torch.no_grad()
def generate(network: nn.Module, inputs: Inputs, *, batch_images: int, **options: Any) -> np.ndarray:
    """Images of a generator in evaluation mode.

    Args:
        batch_images: fixed size of a forward pass; part of the numerics.
        options: what else its `forward` takes, `truncation=0.7` for one.

    Returns:
        [N, C, H, W] uint8.
    """
    assert not network.training
    device = next(network.parameters()).device
    return np.concatenate([to_uint8(network(*part.to(device), **options)) for part in inputs.split(batch_images)])


def to_uint8(images: Tensor) -> np.ndarray:
    """[N, C, H, W] float in [-1, 1] -> uint8, rounded to nearest."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def to_float(images: np.ndarray) -> Tensor:
    """[N, C, H, W] uint8 -> float32 in [-1, 1]."""
    return torch.from_numpy(images).float().div_(127.5).sub_(1)
