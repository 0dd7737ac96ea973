"""Layers that let a discriminator see a batch, not one image: cures for mode collapse."""

import torch
from torch import Tensor, nn


class MinibatchStddev(nn.Module):
    """Append one channel: the standard deviation over the shard, averaged over features (arXiv:1710.10196, section 3).

    [N, C, ...] -> [N, C + 1, ...]; computed in float32. The group is the shard of one logical worker, and a discriminator is called on real
    and on generated images separately, so a group never mixes them.
    """

    def forward(self, x: Tensor) -> Tensor:
        centred = x.float() - x.float().mean(0)
        deviation = (centred.square().mean(0) + 1e-8).sqrt().mean().to(x.dtype)
        return torch.cat([x, deviation.expand(x.shape[0], 1, *x.shape[2:])], 1)
