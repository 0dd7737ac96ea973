"""What a generator is fed, and images from it."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ganlib import modalities
from ganlib.fields import IMAGE
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

    def seeded(self, seed: int, indices: Sequence[int]) -> Inputs:
        """Input i depends on (seed, i) alone, so any single image can be made again."""
        z = torch.cat([latents(1, self.latent_dim, self.distribution, keyed_rng(seed, "sample", i)) for i in indices])
        if not self.class_counts:
            return Inputs(z)
        return Inputs(z, torch.cat([self._labels(1, keyed_rng(seed, "sample label", i)) for i in indices]))

    def seeded_of_classes(self, seed: int, indices: Sequence[int], *, columns: int) -> Inputs:
        """The same latents, but each of the `columns` columns of a picture shows one class; as `seeded` where there are no classes."""
        z, labels = self.seeded(seed, indices)
        return Inputs(z, None if labels is None else torch.tensor(self.column_classes(columns))[torch.arange(len(z)) % columns])

    def _labels(self, count: int, rng: torch.Generator) -> Tensor:
        """[count] int64: the class of an image drawn from the training data."""
        ends = torch.tensor(self.class_counts).cumsum(0)
        return torch.searchsorted(ends, torch.randint(int(ends[-1]), (count,), generator=rng), right=True)


def only(prior: Prior, classes: Collection[int]) -> Prior:
    """The prior of these classes alone, as often among each other as before; of all where none are named."""
    return (
        replace(prior, class_counts=tuple(count if i in classes else 0 for i, count in enumerate(prior.class_counts))) if classes else prior
    )


def interpolate(z: Tensor, *, steps: int, distribution: Distribution) -> Tensor:
    """Walks between latents that stay where latents are drawn from: [2 R, D] -> [R * steps, D], each pair joined, both ends among the steps."""
    walk = {"normal": _great_circle, "uniform": _transported_line}[distribution]
    return torch.stack([walk(a, b, t) for a, b in zip(z[0::2], z[1::2], strict=True) for t in torch.linspace(0, 1, steps)])


def along(a: Tensor, b: Tensor, t: Tensor, *, distribution: Distribution) -> Tensor:
    """Places on such walks: from a to b, both [N, D], at t [N] in [0, 1], 0 being a -> [N, D]."""
    walk = {"normal": _great_circle, "uniform": _transported_line}[distribution]
    return torch.stack([walk(*each) for each in zip(a, b, t, strict=True)])


def _great_circle(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """From a to b [D] along a great circle (arXiv:1609.04468, section 2), lengths interpolated linearly.

    Between opposite latents any great circle is as short: the one through the axis on which a is smallest is taken. Parallel latents, the origin and
    a single dimension have none, and are joined by a line.
    """
    length_a, length_b = a.norm(), b.norm()
    line = a + t * (b - a)
    if len(a) == 1 or length_a == 0 or length_b == 0:
        return line
    angle = torch.arccos(torch.clamp(torch.dot(a / length_a, b / length_b), -1, 1))
    if angle < 1e-4:
        return line
    length = length_a + t * (length_b - length_a)
    if math.pi - angle < 1e-3:  # float32 tells angles near pi apart to about 5e-4
        aside = torch.zeros_like(a)
        aside[a.abs().argmin()] = 1
        aside = torch.nn.functional.normalize(aside - torch.dot(aside, a) / length_a.square() * a, dim=0)
        direction = torch.cos(math.pi * t) * a / length_a + torch.sin(math.pi * t) * aside
    else:
        direction = (torch.sin((1 - t) * angle) * a / length_a + torch.sin(t * angle) * b / length_b) / torch.sin(angle)
    path: Tensor = direction * length
    return path


def _transported_line(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """(1 - t) a + t b [D], each coordinate carried monotonically from its distribution back to U(-1, 1) (arXiv:1711.01970, section 3).

    With p = max(t, 1 - t) and q = 1 - p, a coordinate y of the line has P(Y > |y|) = (1 - |y|)^2 / (8 p q) where |y| > p - q, and is uniform with
    density 1 / (2 p) below.
    """
    y, p = (1 - t) * a + t * b, torch.maximum(t, 1 - t)
    q = 1 - p
    size = y.abs()
    tail = 1 - (1 - size).square() / (4 * p * q).clamp(min=1e-30)  # not looked at where q is 0
    return torch.where(size <= p - q, size / p, tail) * y.sign()


@torch.no_grad()
def generate(network: nn.Module, inputs: Inputs, *, batch_images: int, modality: str = IMAGE, **options: Any) -> np.ndarray:
    """What a generator makes, in evaluation mode.

    Args:
        batch_images: fixed size of a forward pass; part of the numerics.
        modality: what it makes (`ImageSpec.modality`).
        options: what else its `forward` takes, `truncation=0.7` for one.

    Returns:
        [N, C, H, W] as it is stored: uint8 of images.
    """
    assert not network.training
    device, stored = next(network.parameters()).device, modalities.of(modality).from_tensor
    return np.concatenate([stored(network(*part.to(device), **options)) for part in inputs.split(batch_images)])


def to_uint8(images: Tensor) -> np.ndarray:
    """[N, C, H, W] float in [-1, 1] -> uint8, rounded to nearest."""
    return modalities.of(IMAGE).from_tensor(images)


def to_float(images: np.ndarray) -> Tensor:
    """[N, C, H, W] uint8 -> float32 in [-1, 1]."""
    return modalities.of(IMAGE).to_tensor(images)
