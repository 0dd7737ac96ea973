"""Layers that let a discriminator see a batch, not one image: cures for mode collapse."""

import torch
from torch import Tensor, nn


class MinibatchDiscrimination(nn.Module):
    """Append how near each sample is to the others of its shard, in `kernels` learned projections (arXiv:1606.03498, section 3.2).

    [N, A] -> [N, A + kernels]: o(i, b) = sum over j of exp(-|M_ib - M_jb|_1), M_i = f(x_i) T of shape [kernels, dims]; in float32.
    """

    def __init__(self, features: int, kernels: int, dims: int = 5) -> None:
        super().__init__()
        self.kernels = kernels
        self.projection = nn.Linear(features, kernels * dims, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            m = self.projection(x.float()).unflatten(1, (self.kernels, -1))
            distances = (m[:, None] - m[None]).abs().sum(3)  # [N, N, kernels]
            nearness = torch.exp(-distances).sum(1) - 1  # not to itself
        return torch.cat([x, nearness.to(x.dtype)], 1)


class MinibatchStddev(nn.Module):
    """Append one channel: the standard deviation over the shard, averaged over features (arXiv:1710.10196, section 3).

    [N, C, ...] -> [N, C + 1, ...]; computed in float32. The group is the shard of one logical worker, and a discriminator is called on real
    and on generated images separately, so a group never mixes them.
    """

    def forward(self, x: Tensor) -> Tensor:
        centred = x.float() - x.float().mean(0)
        deviation = (centred.square().mean(0) + 1e-8).sqrt().mean().to(x.dtype)
        return torch.cat([x, deviation.expand(x.shape[0], 1, *x.shape[2:])], 1)
