"""Spectral normalisation: layers whose weight is divided by its largest singular value (arXiv:1802.05957, section 2.1)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganlib.models.layers.advancing import AdvancingLayer

FIRST_ITERATIONS = 15  # power iterations before the first forward, so that sigma holds from the start


class Spectral(AdvancingLayer):
    """What the layers below share: `weight` seen as the matrix W [out, rest], and the buffers u [out], v [rest].

    sigma = u^T W v in float32, with u and v constant: its gradient in W is u v^T (eq. 8). u and v are advanced by one power iteration per
    optimizer update (`before_update`), not per forward as in the released model: so a result does not depend on how many shards or
    processes compute an update, nor on how often a loss calls the network. In `.eval()` nothing changes either.
    """

    weight: Tensor
    u: Tensor
    v: Tensor

    def _make_vectors(self) -> None:
        rows = self.weight.shape[0]
        self.register_buffer("u", torch.empty(rows))
        self.register_buffer("v", torch.empty(self.weight.numel() // rows))

    def _matrix(self) -> Tensor:
        w = self.weight
        return (w.permute(0, 2, 3, 1) if w.ndim == 4 else w).flatten(1)  # channels last: a view where the weight is strided so

    def sigma(self) -> Tensor:
        """Largest singular value of `weight`, [] float32."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return self.u @ (self._matrix() @ self.v)

    def normalised(self) -> Tensor:
        """`weight` / sigma, float32."""
        return self.weight / self.sigma()

    @torch.no_grad()
    def before_update(self, iterations: int = 1) -> None:
        """Advance u and v (algorithm 1, lines 1 and 2)."""
        matrix = self._matrix()
        u, v = self.u, self.v
        for _ in range(iterations):
            v = F.normalize(u @ matrix, dim=0)
            u = F.normalize(matrix @ v, dim=0)
        self.u.copy_(u)
        self.v.copy_(v)


class SpectralConv2d(Spectral, nn.Conv2d):
    """`nn.Conv2d` with normalised weight [out, in, kh, kw]; W is [out, in kh kw], as in section 2.1's footnote."""

    def __init__(self, *args: Any, **keys: Any) -> None:
        super().__init__(*args, **keys)
        self._make_vectors()

    def forward(self, input: Tensor) -> Tensor:
        maps: Tensor = self._conv_forward(input, self.normalised(), self.bias)
        return maps


class SpectralLinear(Spectral, nn.Linear):
    """`nn.Linear` with normalised weight [out, in]."""

    def __init__(self, *args: Any, **keys: Any) -> None:
        super().__init__(*args, **keys)
        self._make_vectors()

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.normalised(), self.bias)


class SpectralEmbedding(Spectral, nn.Embedding):
    """`nn.Embedding` with normalised weight [classes, features]."""

    def __init__(self, *args: Any, **keys: Any) -> None:
        super().__init__(*args, **keys)
        self._make_vectors()

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(input, self.weight) / self.sigma()


def initialise_spectral(network: nn.Module, rng: torch.Generator) -> None:
    """Write u and v of every spectral layer; call it when the weights are written."""
    for module in network.modules():
        if isinstance(module, Spectral):
            module.u.normal_(generator=rng)
            module.before_update(FIRST_ITERATIONS)
