"""Self-attention over the pixels of a feature map."""

import torch
import torch.nn.functional as F
from torch import Generator as Rng
from torch import Tensor, nn

from ganlib.models.layers.spectral import SpectralConv2d


class SelfAttention(nn.Module):
    """y = gamma o + x, where o is each pixel's average of all values, weighted by softmax(<query, key>) (arXiv:1805.08318, eq. 1-3).

    [N, C, H, W] -> the same. Queries and keys have C / 8 channels, values C / 2; keys and values are max-pooled 2x2, as in the released
    model; all 1x1 convolutions are spectrally normalised. `gamma` starts at 0: the layer begins as the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner, values = max(1, channels // 8), max(1, channels // 2)
        self.query = SpectralConv2d(channels, inner, 1, bias=False)
        self.key = SpectralConv2d(channels, inner, 1, bias=False)
        self.value = SpectralConv2d(channels, values, 1, bias=False)
        self.output = SpectralConv2d(values, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.empty(()))

    def forward(self, x: Tensor) -> Tensor:
        queries = self.query(x).flatten(2).float()  # [N, C / 8, H W]
        keys = F.max_pool2d(self.key(x), 2).flatten(2).float()  # [N, C / 8, H W / 4]
        values = F.max_pool2d(self.value(x), 2).flatten(2)  # [N, C / 2, H W / 4]
        with torch.autocast(x.device.type, enabled=False):  # the scores are not scaled down, so bf16 would be coarse
            weights = (queries.transpose(1, 2) @ keys).softmax(2)  # [N, H W, H W / 4]; each row sums to 1
        mixed = values @ weights.transpose(1, 2).to(values.dtype)
        total: Tensor = x + self.gamma.to(x.dtype) * self.output(mixed.unflatten(2, x.shape[2:]))
        return total

    def initialise(self, rng: Rng) -> None:
        """gamma = 0; the convolutions are written by the network's initialisation."""
        self.gamma.zero_()
