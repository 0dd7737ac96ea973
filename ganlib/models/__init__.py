"""Network families: one file a family, both networks, resolution and channels as arguments.

A family is an object with option schemas, a check and two constructors. `build` makes a network whose weights depend on the seed alone:
it is laid out without memory, then every parameter and buffer is written by the network's own `initialise`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Protocol, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from ganlib.config import Section, options
from ganlib.models.settings import ModelConfig
from ganlib.registry import Registry
from ganlib.rng import keyed_rng


class ImageSpec(Section):
    """The images a network makes or reads: [N, channels, *size] float32 in [-1, 1]."""

    channels: int = Field(ge=1)
    size: tuple[int, int] = Field(strict=False)
    class_counts: tuple[int, ...] = Field(
        default=(), strict=False, description="training images of each class; () where the networks know no classes"
    )

    @property
    def classes(self) -> int:
        """Number of classes the networks are told; 0: unconditional."""
        return len(self.class_counts)


@dataclass(frozen=True)
class Judgement:
    """All that a discriminator finds in a batch.

    Attributes:
        logits: [N] float32.
        features: [N, F] float32, what the logit is a linear function of.
        class_logits: [N, classes] float32 of an auxiliary classifier, None without one.
    """

    logits: Tensor
    features: Tensor
    class_logits: Tensor | None = None


@dataclass(frozen=True)
class Synthesis:
    """All that a style-based generator makes, with `full=True`.

    Attributes:
        images: [N, C, H, W].
        styles: [N, L, D] float32, the w that each of its L layers was given.
    """

    images: Tensor
    styles: Tensor


class Generator(Protocol):
    """`forward(z [N, latent_dim], labels [N] int64 | None) -> [N, C, H, W]` in [-1, 1]."""

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor: ...
    def initialise(self, rng: torch.Generator) -> None: ...


class Discriminator(Protocol):
    """`forward(images [N, C, H, W], labels [N] int64 | None) -> logits [N]` in float32; with `full=True` -> Judgement."""

    def forward(self, images: Tensor, labels: Tensor | None = None, *, full: bool = False) -> Tensor | Judgement: ...
    def initialise(self, rng: torch.Generator) -> None: ...


class Family(Protocol):
    """What a family's file registers in `MODELS`.

    Attributes:
        grows: it is a `GrowingFamily`.
        has_styles: its generator takes `full=True` (-> Synthesis) and `truncation`.
    """

    grows: ClassVar[bool]
    has_styles: ClassVar[bool]

    @property
    def generator_options(self) -> type[Section]: ...

    @property
    def discriminator_options(self) -> type[Section]: ...

    def check(self, image: ImageSpec) -> None:
        """Raise ValueError for an image size or channel count this family cannot make; names the nearest legal sizes."""

    def generator(self, image: ImageSpec, latent_dim: int, options: Any) -> nn.Module: ...

    def discriminator(self, image: ImageSpec, options: Any) -> nn.Module: ...


class GrowingFamily(Family, Protocol):
    """A family whose networks exist at intermediate levels, 0 to that of the full image."""

    def generator_at(self, image: ImageSpec, latent_dim: int, options: Any, level: int) -> nn.Module: ...

    def discriminator_at(self, image: ImageSpec, options: Any, level: int) -> nn.Module: ...


MODELS: Registry[Family] = Registry("network family", package="ganlib.models")


def check(config: ModelConfig, image: ImageSpec) -> Family:
    """Resolve and validate a `model` section before any work.

    Raises:
        ValueError: unknown family, options the family does not have, an image it cannot make, or class conditions without classes.
    """
    if config.conditional and not image.classes:
        raise ValueError("model.conditional=true needs labelled data, and this data has no labels; set model.conditional: false")
    family = MODELS.get(config.name, key="model.name")
    family.check(image)
    for network in ("generator", "discriminator"):
        sketch(config, image, network)
    return family


def known_to(config: ModelConfig, image: ImageSpec) -> ImageSpec:
    """`image` as the networks of `config` know it: without classes unless they are conditional."""
    return image if config.conditional else image.model_copy(update={"class_counts": ()})


def build(config: ModelConfig, image: ImageSpec, *, seed: int, level: int | None = None) -> tuple[nn.Module, nn.Module]:
    """A generator and a discriminator on the CPU, float32, initialised from `seed` alone.

    Args:
        level: of a family that grows; None: full size.
    """
    return build_generator(config, image, seed=seed, level=level), build_discriminator(config, image, seed=seed, level=level)


def build_generator(config: ModelConfig, image: ImageSpec, *, seed: int, level: int | None = None) -> nn.Module:
    check(config, image)
    return _materialise(sketch(config, image, "generator", level=level), keyed_rng(seed, "initialise generator"))


def build_discriminator(config: ModelConfig, image: ImageSpec, *, seed: int, level: int | None = None) -> nn.Module:
    check(config, image)
    return _materialise(sketch(config, image, "discriminator", level=level), keyed_rng(seed, "initialise discriminator"))


def sketch(config: ModelConfig, image: ImageSpec, network: Literal["generator", "discriminator"], *, level: int | None = None) -> nn.Module:
    """A network without memory: its layers and shapes, no numbers.

    Raises:
        ValueError: options the family does not have, or that do not fit each other or the image.
    """
    family = MODELS.get(config.name, key="model.name")
    known = known_to(config, image)
    if network == "generator":
        chosen = options(family.generator_options, config.generator, key="model.generator")
        make = family.generator if level is None else partial(cast(GrowingFamily, family).generator_at, level=level)
        with torch.device("meta"):
            return make(known, config.latent_dim, chosen)
    chosen = options(family.discriminator_options, config.discriminator, key="model.discriminator")
    make_discriminator = family.discriminator if level is None else partial(cast(GrowingFamily, family).discriminator_at, level=level)
    with torch.device("meta"):
        return make_discriminator(known, chosen)


def _materialise(network: nn.Module, rng: torch.Generator) -> nn.Module:
    network.to_empty(device="cpu")
    for tensor in (*network.parameters(), *network.buffers()):  # whatever `initialise` forgets is caught as NaN by the contract test
        tensor.data.fill_(float("nan") if tensor.is_floating_point() else -1)
    with torch.no_grad():
        network.initialise(rng)  # type: ignore[operator]
    return network
