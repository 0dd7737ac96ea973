"""What a task delivers: which part of which network makes it, what that is fed, and whether there is a truth to hold it against.

A product is data: it is written to models/generator.json, and whoever reads it there needs neither the task nor its losses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ganlib import modalities, transforms
from ganlib.data.arrow import ArrowImages
from ganlib.models import PARTS, WHOLE, ImageSpec
from ganlib.models.settings import ModelConfig
from ganlib.rng import keyed_rng
from ganlib.sampling import Inputs, Prior, generate
from ganlib.transforms import Transform


class Source(Protocol):
    """Where inputs come from: a `Prior`, or the `Rows` of a data set."""

    def draw(self, count: int, rng: torch.Generator) -> Inputs:
        """`count` inputs on the CPU, all from one generator."""

    def seeded(self, seed: int, indices: Sequence[int]) -> Inputs:
        """Input i depends on (seed, i) alone."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A feed of the data's own rows, perhaps changed on the way: low resolution, a hole.

    Attributes:
        field: a further column of the data (`data.columns`); None: that which is learnt to be made.
    """

    field: str | None = None
    transform: Transform | None = None

    def fed(self, image: ImageSpec) -> ImageSpec:
        """What a network is fed of such data; ValueError where they have no such column."""
        own = image.column(self.field)
        return own if self.transform is None else self.transform.fed(own)

    def rows(self, table: ArrowImages, indices: np.ndarray) -> Tensor:
        """The rows at `indices` [n] as networks see them: [n, C, H, W] float32 in [-1, 1]."""
        name = self.name(table)
        return modalities.of(table.field(name).kind).to_tensor(table.read(name, indices))

    def name(self, table: ArrowImages) -> str:
        """Of the column in a table."""
        return table.made.name if self.field is None else self.field

    def inputs(self, images: Tensor, rng: torch.Generator) -> Inputs:
        """Of images [N, C, H, W] float32 in [-1, 1]; `rng` draws what the transform leaves to chance."""
        return Inputs(images if self.transform is None else self.transform(images, rng))


Feed = Prior | Column  # latents and classes, or the data


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A column with the table whose rows it feeds."""

    column: Column
    images: ArrowImages

    def draw(self, count: int, rng: torch.Generator) -> Inputs:
        chosen = torch.randint(len(self.images), (count,), generator=rng)
        return self.column.inputs(self.column.rows(self.images, chosen.numpy()), rng)

    def seeded(self, seed: int, indices: Sequence[int]) -> Inputs:
        """Input i is row i, changed by what (seed, i) draws."""
        images = self.column.rows(self.images, np.array(indices, np.int64))
        inputs = [self.column.inputs(images[n : n + 1], keyed_rng(seed, "transform", i)).z for n, i in enumerate(indices)]
        return Inputs(torch.cat(inputs))

    def truth(self, indices: Sequence[int]) -> np.ndarray:
        """What should be made of rows `indices`: [n, C, H, W] as it is stored, uint8 of images."""
        return self.images.gather(np.array(indices, np.int64))


@dataclass(frozen=True, kw_only=True)
class Product:
    """Images that a task's network makes.

    Attributes:
        network: its name among the task's; the moving average of it is what makes the product.
        feed: what the network is fed.
        part: of `ganlib.models.PARTS`: what of the network makes it, a module that takes the feed's inputs and gives [N, C, H, W] float32 in [-1, 1].
        has_truth: each image that it makes has one that it should be, that of the row it was fed from; else it is measured against the data's
            distribution.
    """

    name: str
    network: str
    feed: Feed
    part: str = WHOLE
    has_truth: bool = False

    def __post_init__(self) -> None:
        if self.has_truth and isinstance(self.feed, Prior):
            raise ValueError(
                f"product {self.name}: latents have no image that they should become; feed it a Column, or leave has_truth out"
            )

    def of(self, network: nn.Module) -> nn.Module:
        """The part of its network that makes it."""
        return PARTS.get(self.part)(network)

    def fed(self, image: ImageSpec) -> ImageSpec | None:
        """What its network is fed, as `ganlib.models.build_network` takes it: None of latents."""
        return self.feed.fed(image) if isinstance(self.feed, Column) else None

    def source(self, images: ArrowImages) -> Source:
        """Its inputs; where it is fed rows of data, these."""
        return self.feed if isinstance(self.feed, Prior) else Rows(column=self.feed, images=images)

    def facts(self) -> dict[str, Any]:
        """As generator.json has it; `read` is the inverse."""
        return {"name": self.name, "network": self.network, "part": self.part, "feed": _facts(self.feed), "has_truth": self.has_truth}

    @classmethod
    def read(cls, facts: Mapping[str, Any], model: ModelConfig, image: ImageSpec) -> "Product":
        """Of a description of the networks of `model` for `image`."""
        chosen = facts["feed"].get("transform")
        images = Column(field=facts["feed"].get("field"), transform=None if chosen is None else transforms.read(chosen))
        return cls(**{**facts, "feed": Prior.of(model, image) if facts["feed"]["kind"] == "latents" else images})


def _facts(feed: Feed) -> dict[str, Any]:
    if isinstance(feed, Prior):
        return {"kind": "latents"}
    transform = None if feed.transform is None else feed.transform.config.model_dump(mode="json")
    return {"kind": "images", "transform": transform, **({} if feed.field is None else {"field": feed.field})}


def beside(rows: Rows, part: nn.Module, seed: int, indices: Sequence[int], *, batch_images: int) -> dict[str, np.ndarray]:
    """What a person wants to see side by side of rows `indices`: title -> [n, C, H, W] as it is stored, uint8 of images; the input only where it
    is not the truth, and is of the same modality.

    Args:
        part: of a network, in evaluation mode.
        batch_images: part of the numerics.
    """
    inputs = rows.seeded(seed, indices)
    column, made = rows.column, rows.images.made.kind
    shown = {}
    if (column.transform is not None or column.field is not None) and rows.images.field(column.name(rows.images)).kind == made:
        seen = inputs.z if column.transform is None else column.transform.shown(inputs.z)
        shown = {"input": modalities.of(made).from_tensor(seen)}
    return {**shown, "made": generate(part, inputs, batch_images=batch_images, modality=made), "truth": rows.truth(indices)}
