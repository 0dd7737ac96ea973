"""Checks at the doors: shapes, ranges and finiteness, each with a message that says what was got and what was expected."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def require_images(images: Tensor, *, channels: int, size: tuple[int, int], what: str = "images") -> None:
    """Raise ValueError unless `images` is [N, channels, *size] float32."""
    expected = (channels, *size)
    if images.ndim != 4 or tuple(images.shape[1:]) != expected or images.dtype != torch.float32:
        raise ValueError(
            f"{what}: got {tuple(images.shape)} {images.dtype}, expected [N, {channels}, {size[0]}, {size[1]}] torch.float32 in [-1, 1]"
        )


def require_finite(values: dict[str, float], *, where: str) -> None:
    """Raise ValueError naming the first value that is NaN or infinite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{where}: {name} is {value}, expected a finite number")


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every element of every tensor is finite; one pass, one synchronisation."""
    norms = torch._foreach_norm([t for t in tensors if t.numel() > 0])
    return bool(torch.isfinite(torch.stack([n.double() for n in norms]).sum())) if norms else True
