"""Images: [C, H, W] uint8, 1 grey, 3 RGB, 4 RGBA."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ganlib import levels
from ganlib.modalities import MODALITIES
from ganlib.pictures import grid_png


@MODALITIES.register("image")
class Image:
    """Pictures of 8 bits a channel, shown as a grid."""

    dtype: ClassVar[str] = "uint8"
    stored_range: ClassVar[tuple[float, float]] = (0.0, 255.0)
    least_shown: ClassVar[int] = 1

    def to_tensor(self, values: np.ndarray) -> Tensor:
        return levels.to_unit(torch.from_numpy(values))

    def from_tensor(self, made: Tensor) -> np.ndarray:
        array: np.ndarray = levels.to_levels(made).round().to(torch.uint8).cpu().numpy()
        return array

    def preview(self, values: np.ndarray, *, columns: int, description: Mapping[str, str]) -> bytes:
        return grid_png(values, columns=columns, description=description)
