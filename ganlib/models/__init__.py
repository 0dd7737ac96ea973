"""Network families: one file a family, all its networks, resolution and channels as arguments.

A family is an object with a check, and an option schema and a constructor for each role it can build. `build_network` makes a network whose weights
depend on the seed alone: it is laid out without memory, then every parameter and buffer is written by the network's own `initialise`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from ganlib.config import Section, options
from ganlib.fields import IMAGE
from ganlib.models.settings import ModelConfig
from ganlib.registry import Registry
from ganlib.rng import keyed_rng


class ImageSpec(Section):
    """The images, or rows of another modality, a network makes or reads: [N, channels, *size] float32 in [-1, 1]."""

    channels: int = Field(ge=1)
    size: tuple[int, int] = Field(strict=False)
    class_counts: tuple[int, ...] = Field(
        default=(), strict=False, description="training images of each class; () where the networks know no classes"
    )
    modality: str = Field(default=IMAGE, exclude_if=lambda name: name == IMAGE)  # what was exported before there was another stays as it is
    columns: "dict[str, ImageSpec]" = Field(
        default_factory=dict, exclude_if=lambda columns: not columns, description="of the same rows: further columns by name"
    )

    def column(self, name: str | None) -> "ImageSpec":
        """What a further column holds; None: these images themselves.

        Raises:
            ValueError: the data have no such column; names those there are.
        """
        if name is None:
            return self
        if name not in self.columns:
            legal = ", ".join(self.columns) or "none"
            raise ValueError(f"the data have no column {name!r} beside the {self.modality}; there are: {legal} (params.yaml: data.columns)")
        return self.columns[name]

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
        patch_logits: [N, P] float32 of a discriminator that judges P patches of an image by themselves; their mean is the logit. Else None.
    """

    logits: Tensor
    features: Tensor
    class_logits: Tensor | None = None
    patch_logits: Tensor | None = None

    @property
    def verdicts(self) -> Tensor:
        """What a loss is a function of: [N], or [N, P] of patches, over which its values are then averaged."""
        return self.logits if self.patch_logits is None else self.patch_logits


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


class Translator(Protocol):
    """`forward(fed [N, *fed], labels None) -> [N, C, H, W]` in [-1, 1]: images of what a transform left of them (`ganlib.transforms`)."""

    def forward(self, fed: Tensor, labels: Tensor | None = None) -> Tensor: ...
    def initialise(self, rng: torch.Generator) -> None: ...


class Family(Protocol):
    """What a family's file registers in `MODELS`.

    For each ROLE in its `roles` it has `ROLE_options`, a schema, and `ROLE(image, latent_dim, options) -> nn.Module`; where it `grows`, also
    `ROLE_at(image, latent_dim, options, level)` for its intermediate levels, 0 to that of the full image. A translator is not fed latents:
    `translator(image, fed, options)`, `fed` being the `ImageSpec` of what it is fed; it raises ValueError where it cannot make `image` of that.

    Attributes:
        roles: what it can build: generator, discriminator, autoencoder, translator, ...
        grows: its networks exist at intermediate levels.
        has_styles: its generator takes `full=True` (-> Synthesis) and `truncation`.
    """

    roles: ClassVar[tuple[str, ...]]
    grows: ClassVar[bool]
    has_styles: ClassVar[bool]

    def check(self, image: ImageSpec) -> None:
        """Raise ValueError for an image size or channel count this family cannot make; names the nearest legal sizes."""


MODELS: Registry[Family] = Registry("network family", package="ganlib.models")
PARTS: Registry[Callable[[nn.Module], nn.Module]] = Registry("part of a network", package="ganlib.models")  # network -> what makes images
WHOLE = "whole"


@PARTS.register(WHOLE)
def whole(network: nn.Module) -> nn.Module:
    """All of it."""
    return network


PAIR = {"generator": "generator", "discriminator": "discriminator"}  # the networks of a GAN: name -> role
TRANSLATOR = "translator"  # the role of a network that is fed images


def check(config: ModelConfig, image: ImageSpec, networks: Mapping[str, str] = PAIR, *, fed: ImageSpec | None = None) -> Family:
    """Resolve and validate a `model` section before any work.

    Args:
        networks: name -> role.
        fed: as of `sketch`.

    Raises:
        ValueError: unknown family, one that builds no such networks, options it does not have, an image it cannot make, or class conditions
            without classes.
    """
    if config.conditional and not image.classes:
        raise ValueError("model.conditional=true needs labelled data, and this data has no labels; set model.conditional: false")
    family = MODELS.get(config.name, key="model.name")
    for role in networks.values():
        options_of(config, role)
    family.check(image)
    for network, role in networks.items():
        sketch(config, image, network, role=role, fed=fed)
    return family


def options_of(config: ModelConfig, role: str) -> type[Section]:
    """The schema of the options that the family of `config` has for a role.

    Raises:
        ValueError: it builds nothing in that role.
    """
    family = MODELS.get(config.name, key="model.name")
    if role not in family.roles:
        raise ValueError(
            f"model.name={config.name!r} builds {' and '.join(family.roles)}, and the task needs a network in the role of {role}; "
            f"take a family whose options begin with {role} (python -m ganlib.catalog {config.name} shows those of this one)"
        )
    schema: type[Section] = getattr(family, f"{role}_options")
    return schema


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
    return build_network(config, image, "generator", seed=seed, level=level)


def build_discriminator(config: ModelConfig, image: ImageSpec, *, seed: int, level: int | None = None) -> nn.Module:
    check(config, image)
    return build_network(config, image, "discriminator", seed=seed, level=level)


def build_network(
    config: ModelConfig,
    image: ImageSpec,
    network: str,
    *,
    role: str | None = None,
    seed: int,
    level: int | None = None,
    fed: ImageSpec | None = None,
) -> nn.Module:
    """One network on the CPU, float32, initialised from `seed` and its name alone; arguments and errors as of `sketch`."""
    return _materialise(sketch(config, image, network, role=role, level=level, fed=fed), keyed_rng(seed, f"initialise {network}"))


def sketch(
    config: ModelConfig, image: ImageSpec, network: str, *, role: str | None = None, level: int | None = None, fed: ImageSpec | None = None
) -> nn.Module:
    """A network without memory: its layers and shapes, no numbers.

    Args:
        network: its name, under which `config` has its options.
        role: what the family is to build; None: it is called as its role.
        level: of a family that grows; None: full size.
        fed: what a translator is fed; not looked at in other roles, which are fed latents or the image.

    Raises:
        ValueError: a role or options the family does not have, or that do not fit each other or the image.
    """
    role = role or network
    chosen = options(options_of(config, role), config[network], key=f"model.{network}")
    family = MODELS.get(config.name, key="model.name")
    make = getattr(family, role) if level is None else partial(getattr(family, f"{role}_at"), level=level)
    assert role != TRANSLATOR or fed is not None, f"{network} is a translator: say what it is fed"
    with torch.device("meta"):
        module: nn.Module = make(known_to(config, image), fed if role == TRANSLATOR else config.latent_dim, chosen)
    return module


def _materialise(network: nn.Module, rng: torch.Generator) -> nn.Module:
    network.to_empty(device="cpu")
    for tensor in (*network.parameters(), *network.buffers()):  # whatever `initialise` forgets is caught as NaN by the contract test
        tensor.data.fill_(float("nan") if tensor.is_floating_point() else -1)
    with torch.no_grad():
        network.initialise(rng)  # type: ignore[operator]
    return network
