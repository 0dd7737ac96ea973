"""Layers that draw random numbers, always from the generator of the enclosing `rng.layer_noise` block."""

from torch import Tensor, nn

from ganlib import rng


class Dropout(nn.Module):
    """Dropout (JMLR 15:1929, 2014): in training each element is zeroed with probability `p` and the rest scaled by 1 / (1 - p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        keep = rng.draw_uniform(x.shape, like=x) >= self.p
        return x * keep.to(x.dtype) / (1 - self.p)
