"""Weight initialisation from explicit generators."""

import torch
from torch import nn

from ganlib.models.layers.attention import SelfAttention
from ganlib.models.layers.norm import BatchNorm
from ganlib.models.layers.spectral import initialise_spectral


def initialise_normal(network: nn.Module, rng: torch.Generator, *, std: float = 0.02) -> None:
    """Weights N(0, std), biases 0, batch-norm scales N(1, std): the initialisation of DCGAN (arXiv:1511.06434, section 3)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            module.weight.normal_(0.0, std, generator=rng)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(0.0, std, generator=rng)
        elif isinstance(module, BatchNorm):
            module.initialise(rng, std=std)
    initialise_spectral(network, rng)


def initialise_he(network: nn.Module, rng: torch.Generator, *, slope: float = 0.0) -> None:
    """Weights N(0, 2 / ((1 + slope^2) fan_in)), biases 0 (arXiv:1502.01852, eq. 15), for (leaky) rectifiers; batch-norm scales 1."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, a=slope, generator=rng)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            nn.init.kaiming_normal_(module.weight, a=slope, generator=rng)
        elif isinstance(module, BatchNorm):
            module.initialise(rng, std=0.0)
    initialise_spectral(network, rng)


def initialise_glorot(network: nn.Module, rng: torch.Generator) -> None:
    """Weights U(-a, a) with a^2 = 6 / (fan_in + fan_out) (Glorot & Bengio, AISTATS 2010, eq. 16), biases 0, batch norms plain."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            nn.init.xavier_uniform_(module.weight, generator=rng)
    _initialise_rest(network, rng)


def initialise_orthogonal(network: nn.Module, rng: torch.Generator) -> None:
    """Orthogonal weights [out, rest] (arXiv:1312.6120; BigGAN, arXiv:1809.11096, section 3), biases 0, batch norms plain."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            nn.init.orthogonal_(module.weight, generator=rng)
    _initialise_rest(network, rng)


def _initialise_rest(network: nn.Module, rng: torch.Generator) -> None:
    for module in network.modules():  # after the weights: a conditional batch norm sets embeddings of its own
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            module.bias.zero_()
        elif isinstance(module, BatchNorm):
            module.initialise(rng, std=0.0)
        elif isinstance(module, SelfAttention):
            module.initialise(rng)
    initialise_spectral(network, rng)
