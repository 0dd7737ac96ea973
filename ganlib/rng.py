"""Counter-based randomness: a generator is a pure function of (seed, purpose, counters), so no generator state is ever saved or shared.

Draws happen on the CPU and are moved: the same numbers on every device, and in whatever order workers ask for them.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor


def key_of(seed: int, purpose: str, *counters: int) -> int:
    """A 64-bit key for (seed, purpose, counters); different arguments give unrelated keys (BLAKE2b)."""
    text = ":".join([str(seed), purpose, *map(str, counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def keyed_rng(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """A fresh CPU generator for (seed, purpose, counters).

    Args:
        seed: `train.seed` or `sample.seed`.
        purpose: what the numbers are for: `"latents"`, `"order"`, `"augment"`, ...
        counters: whatever tells one draw from another: step, repeat, logical worker, epoch.
    """
    return torch.Generator().manual_seed(key_of(seed, purpose, *counters))


_layer_noise: ContextVar[torch.Generator | None] = ContextVar("layer_noise", default=None)


@contextmanager
def layer_noise(rng: torch.Generator) -> Iterator[None]:
    """Inside this block, layers that draw (dropout, noise) take their numbers from `rng`."""
    token = _layer_noise.set(rng)
    try:
        yield
    finally:
        _layer_noise.reset(token)


def draw_uniform(shape: torch.Size | tuple[int, ...], *, like: Tensor) -> Tensor:
    """Uniform [0, 1) float32 of `shape` from the generator of the enclosing `layer_noise` block, on the device of `like`.

    Raises:
        RuntimeError: outside such a block: a layer never falls back to the global generator.
    """
    return torch.rand(shape, generator=_current()).to(like.device)


def draw_normal(shape: torch.Size | tuple[int, ...], *, like: Tensor) -> Tensor:
    """N(0, 1) float32, otherwise as `draw_uniform`."""
    return torch.randn(shape, generator=_current()).to(like.device)


def _current() -> torch.Generator:
    rng = _layer_noise.get()
    if rng is None:
        raise RuntimeError(
            "a layer asked for random numbers outside `with rng.layer_noise(generator):`; wrap the forward call, or use .eval()"
        )
    return rng
