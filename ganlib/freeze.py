"""`train.freeze`: parameters that keep the values they begin with (FreezeD: the lower layers of a trained D, arXiv:2002.10964, section 3).

A pattern is of the shell (`features.0.*`) and is matched with a parameter's whole name. A frozen parameter has no gradient, no place in an optimizer
and none in what processes exchange. Buffers (power iterations, measured statistics) are no parameters and go on.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn


def frozen(module: nn.Module, patterns: Sequence[str], *, network: str) -> set[str]:
    """Names of the parameters that match.

    Raises:
        ValueError: nothing would be left to train.
    """
    names = [name for name, _ in module.named_parameters()]
    found = {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}
    if len(found) == len(names):
        raise ValueError(
            f"train.freeze.{network}={list(patterns)} leaves nothing of the {network} to train; leave out at least one of: {', '.join(names)}"
        )
    return found


def freeze(networks: Mapping[str, nn.Module], patterns: Mapping[str, Sequence[str]]) -> None:
    """Switch the gradients of what matches off, before anything looks at them; ValueError as `frozen`."""
    for network, chosen in patterns.items():
        for name in frozen(networks[network], chosen, network=network):
            networks[network].get_parameter(name).requires_grad_(False)


def check(networks: Mapping[str, nn.Module], patterns: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError for a network that is not there, for a pattern that matches no parameter, and where nothing would be left to train.

    Args:
        networks: with all their layers; they may be on the meta device.
    """
    for network, chosen in patterns.items():
        if network not in networks:
            raise ValueError(f"train.freeze names the network {network!r}; legal: {', '.join(networks)}")
        names = [name for name, _ in networks[network].named_parameters()]
        for pattern in chosen:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(f"train.freeze.{network}: {pattern!r} matches no parameter; there are: {', '.join(names)}")
        frozen(networks[network], chosen, network=network)
