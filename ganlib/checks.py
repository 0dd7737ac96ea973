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


def norm(tensors: Iterable[Tensor]) -> float:
    """Euclidean norm of all tensors together, in one pass and one synchronisation; not finite where one element is not."""
    norms = torch._foreach_norm([t for t in tensors if t.numel() > 0])
    return float(torch.stack([n.double() for n in norms]).square().sum().sqrt()) if norms else 0.0
