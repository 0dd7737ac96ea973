"""Checks of finiteness, each with a message that says what was got and what was expected."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def require_finite(values: dict[str, float], *, where: str) -> None:
    """Raise ValueError naming the first value that is NaN or infinite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{where}: {name} is {value}, expected a finite number")


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every element of every tensor is finite; one pass, one synchronisation."""
    norms = torch._foreach_norm([t for t in tensors if t.numel() > 0])
    return bool(torch.isfinite(torch.stack([n.double() for n in norms]).sum())) if norms else True
