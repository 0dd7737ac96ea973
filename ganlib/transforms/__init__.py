"""Transforms: what is left of an image where a network is to make the rest; a new one is a file here.

A transform is a frozen dataclass made from its options. What it makes of image i depends on the image and, where it `draws`, on the numbers that the
generator it is given holds then: images of a batch are drawn for one after the other.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Protocol

import torch
from pydantic import Field, SerializeAsAny, ValidatorFunctionWrapHandler, WrapValidator
from torch import Tensor

from ganlib import config
from ganlib.config import Section
from ganlib.models import ImageSpec
from ganlib.registry import Registry

KEY = "task.transform"  # where its options stand in params.yaml


class TransformConfig(Section):
    """The section `task.transform`: which one, and beside the name its options."""

    name: str = Field(description="a registered transform")


class Transform(Protocol):
    """What a transform's file registers in `TRANSFORMS`.

    Attributes:
        options: the schema of the section `task.transform` where it names this one.
        config: its own options; plain JSON when dumped, from which `of` makes the same transform.
        draws: it uses the generator; else the same image becomes the same thing each time.
    """

    options: ClassVar[type[TransformConfig]]
    draws: ClassVar[bool]

    @property
    def config(self) -> TransformConfig: ...

    @property
    def words(self) -> str:
        """What a network is fed, for whoever has only the network: of `fed`'s channels and size, in [-1, 1]."""

    def fed(self, image: ImageSpec) -> ImageSpec:
        """What a network is fed of images [N, C, H, W]: its channels and size; raises ValueError naming the key where the image does not fit."""

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """[N, C, H, W] float32 in [-1, 1] -> [N, *fed] float32, on the same device; draws on the CPU, image by image in order."""

    def shown(self, fed: Tensor) -> Tensor:
        """[N, *fed] -> [N, C, H, W] float32 in [-1, 1]: what a person is shown of it."""

    def plain(self, fed: Tensor) -> Tensor:
        """[N, *fed] -> [N, C, H, W] float32 in [-1, 1]: what is made of it without learning, to be compared with."""


TRANSFORMS: Registry[Any] = Registry("transform", package="ganlib.transforms")


def of(chosen: TransformConfig) -> Transform:
    """The transform that these options name."""
    made: Transform = TRANSFORMS.get(chosen.name, key=f"{KEY}.name")(config=chosen)
    return made


def read(values: Mapping[str, Any]) -> Transform:
    """The transform that options in plain JSON name."""
    return of(_options(values))


def _options(values: Mapping[str, Any]) -> TransformConfig:
    schema: type[TransformConfig] = TRANSFORMS.get(values["name"], key=f"{KEY}.name").options
    return config.options(schema, dict(values), key=KEY)


def _validated(values: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(values, TransformConfig):
        return values
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
        return validate(values)  # which refuses it
    return _options(values)


# The type of a field `transform`: validated as the options of the transform that it names.
TransformSettings = Annotated[SerializeAsAny[TransformConfig], WrapValidator(_validated)]
