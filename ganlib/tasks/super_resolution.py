"""Super-resolution: an image of many pixels from one of few."""

from typing import ClassVar

from pydantic import Field

from ganlib.tasks import TASKS
from ganlib.tasks.restoration import Restoration, RestorationConfig
from ganlib.tasks.settings import TaskConfig
from ganlib.transforms import TransformSettings
from ganlib.transforms.low_resolution import LowResolutionConfig


class SuperResolutionConfig(RestorationConfig):
    """The section `task` of super-resolution."""

    transform: TransformSettings = Field(LowResolutionConfig(), description="how the image of few pixels is made")


@TASKS.register("super_resolution", paper="arXiv:1609.04802, eq. 3; with arXiv:1809.00219, eq. 3")
class SuperResolution(Restoration):
    """A generator that is fed images of fewer pixels, held to the images in pixels and features, against a discriminator (SRGAN, ESRGAN)."""

    options: ClassVar[type[TaskConfig]] = SuperResolutionConfig
    product: ClassVar[str] = "super_resolution"
