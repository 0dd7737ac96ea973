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
    """Append one channel: the standard deviation over a group of samples, averaged over features (arXiv:1710.10196, section 3).

    [N, C, ...] -> [N, C + 1, ...]; computed in float32. A discriminator is called on real and on generated images separately, so a group never
    mixes them.

    Args:
        group: samples in a group, 4 in the papers' released code; 0: the shard of one logical worker is one. Sample i is in group i mod N / group.
    """

    def __init__(self, group: int = 0) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        groups = len(x) // self.group if self.group else 1
        if groups <= 1:
            return torch.cat([x, self._deviation(x).expand(x.shape[0], 1, *x.shape[2:])], 1)
        assert len(x) % self.group == 0  # `ganlib.tasks.adversarial.check_shards`
        deviations = torch.stack([self._deviation(x[index::groups]) for index in range(groups)]).repeat(self.group)
        return torch.cat([x, deviations.reshape(-1, *[1] * (x.ndim - 1)).expand(-1, 1, *x.shape[2:])], 1)

    @staticmethod
    def _deviation(x: Tensor) -> Tensor:
        """A scalar."""
        centred = x.float() - x.float().mean(0)
        return (centred.square().mean(0) + 1e-8).sqrt().mean().to(x.dtype)
