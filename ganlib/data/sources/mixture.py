"""Mixtures of Gaussians in the plane, drawn on the spot: data whose every mode is known.

The centres are those of PacGAN, arXiv:1712.04086, section 4.1, scaled into [-1, 1]; the Gaussians are wider, so that a short training can find them.
"""

import math
from pathlib import Path

import numpy as np

from ganlib.data.idx import write_idx
from ganlib.data.raw import Fetched
from ganlib.data.settings import DataConfig
from ganlib.data.sources import SOURCES

COUNT = 50_000


class Mixture:
    """Points [1, 2] of Gaussians of one width, equally often of each; the class is the Gaussian."""

    centres: np.ndarray  # [k, 2]
    std: float

    def fetch(self, config: DataConfig, raw: Path) -> Fetched:
        import torch

        from ganlib.rng import keyed_rng

        rng = keyed_rng(0, "mixture")
        chosen = torch.randint(len(self.centres), (COUNT,), generator=rng).numpy()
        points = self.centres[chosen] + self.std * torch.randn(COUNT, 2, generator=rng).numpy()
        write_idx(raw / "mixture-images-idx3-float", points[:, None].astype(np.float32))
        write_idx(raw / "mixture-labels-idx1-ubyte", chosen.astype(np.uint8))
        return Fetched(layout="idx", class_names=tuple(f"({x:.2f}, {y:.2f})" for x, y in self.centres))


@SOURCES.register("ring", paper="arXiv:1712.04086, section 4.1")
class Ring(Mixture):
    """50,000 points of 8 Gaussians on a circle (data.modality: points)."""

    def __init__(self) -> None:
        angles = np.arange(8) * (2 * math.pi / 8)
        self.centres, self.std = 0.8 * np.stack([np.cos(angles), np.sin(angles)], 1), 0.03


@SOURCES.register("grid", paper="arXiv:1712.04086, section 4.1")
class Grid(Mixture):
    """50,000 points of 25 Gaussians on a grid (data.modality: points)."""

    def __init__(self) -> None:
        steps = np.arange(-4, 5, 2) / 5
        self.centres, self.std = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2), 0.02
