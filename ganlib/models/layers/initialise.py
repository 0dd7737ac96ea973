"""Weight initialisation from explicit generators."""

import torch
from torch import nn

from ganlib.models.layers.norm import BatchNorm


def initialise_normal(network: nn.Module, generator: torch.Generator, *, std: float = 0.02) -> None:
    """Weights N(0, std), biases 0, batch-norm scales N(1, std): the initialisation of DCGAN (arXiv:1511.06434, section 3)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            module.weight.normal_(0.0, std, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, BatchNorm):
            module.initialise(generator, std=std)


def initialise_he(network: nn.Module, generator: torch.Generator, *, slope: float = 0.0) -> None:
    """Weights N(0, 2 / ((1 + slope^2) fan_in)), biases 0 (arXiv:1502.01852, eq. 15), for (leaky) rectifiers; batch-norm scales 1."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, a=slope, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, BatchNorm):
            module.initialise(generator, std=0.0)
