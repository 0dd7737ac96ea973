"""Inpainting: what may have been in a hole of an image."""

from typing import ClassVar

from pydantic import Field

from ganlib.tasks import TASKS
from ganlib.tasks.restoration import Restoration, RestorationConfig
from ganlib.tasks.settings import TaskConfig
from ganlib.transforms import TransformSettings
from ganlib.transforms.holes import HolesConfig


class InpaintingConfig(RestorationConfig):
    """The section `task` of inpainting."""

    transform: TransformSettings = Field(HolesConfig(), description="how holes are made")


@TASKS.register("inpainting", paper="arXiv:1806.03589, section 3.3")
class Inpainting(Restoration):
    """A generator that is fed images with a hole, held to the whole images in pixels and features, against a discriminator."""

    options: ClassVar[type[TaskConfig]] = InpaintingConfig
    product: ClassVar[str] = "inpainting"
