"""The networks of a training: one replica each, and how a phase calls them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ganlib import dist
from ganlib.freeze import freeze
from ganlib.models.layers.advancing import AdvancingLayer
from ganlib.train_settings import TrainConfig


class Networks:
    """Networks by name, on the training device.

    Args:
        modules: on the CPU, freshly initialised; moved here.
    """

    def __init__(self, modules: Mapping[str, nn.Module], *, train: TrainConfig) -> None:
        self.device = dist.device()
        self.is_bf16 = train.precision == "bf16"
        self.memory_format = torch.channels_last if train.channels_last else torch.contiguous_format
        self._modules = {name: self._place(module) for name, module in modules.items()}
        for name, module in self._modules.items():
            dist.require_same(module, what=f"network {name}")
        freeze(self._modules, train.freeze)
        self._replicas = {name: dist.Replica(module, logical_workers=train.logical_workers) for name, module in self._modules.items()}
        self._advancing = [layer for module in self._modules.values() for layer in module.modules() if isinstance(layer, AdvancingLayer)]
        self._trainable = {name: [p for p in module.parameters() if p.requires_grad] for name, module in self._modules.items()}

    def _place(self, module: nn.Module) -> nn.Module:
        # `Module.to` also restrides weights of one input channel, which `contiguous` would leave: without it their backward is slow
        placed: nn.Module = module.to(memory_format=self.memory_format).to(self.device)  # type: ignore[call-overload]
        return placed.train()

    def __getitem__(self, name: str) -> nn.Module:
        """The bare module."""
        return self._modules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def trainable(self, name: str) -> list[nn.Parameter]:
        """The parameters of a network that are not frozen, in its order."""
        return self._trainable[name]

    def replica(self, name: str) -> dist.Replica:
        return self._replicas[name]

    def before_update(self) -> None:
        """Let layers advance what changes once an update, however many shards or processes compute it (`before_update` of a module)."""
        for layer in self._advancing:
            layer.before_update()

    @contextmanager
    def training(self, trains: str) -> Iterator["View"]:
        """A view in which only `trains` collects gradients, and is called through its DDP wrapper."""
        for name, parameters in self._trainable.items():
            for parameter in parameters:
                parameter.requires_grad_(name == trains)
        yield View(self, trains)


class View:
    """How a phase's loss calls networks: `nets("generator", z)`, under autocast unless `is_precise`."""

    def __init__(self, networks: Networks, trains: str) -> None:
        self._networks = networks
        self._called = {name: networks.replica(name).trained if name == trains else networks[name] for name in networks}

    def __call__(self, name: str, x: Tensor, labels: Tensor | None = None, *, is_precise: bool = False, **options: Any) -> Any:
        """The network of that name at x.

        Args:
            is_precise: float32 whatever the precision, for terms that differentiate twice.
            options: what else its `forward` takes, `full=True` for one.
        """
        return self.part(self._called[name], x, labels, is_precise=is_precise, **options)

    def part(self, module: nn.Module, x: Tensor, labels: Tensor | None = None, *, is_precise: bool = False, **options: Any) -> Any:
        """A part of a network at x, in the precision and the layout of memory of the training; it collects no gradients over processes."""
        networks = self._networks
        if x.ndim == 4:
            x = x.contiguous(memory_format=networks.memory_format)
        with torch.autocast(networks.device.type, torch.bfloat16, enabled=networks.is_bf16 and not is_precise):
            return module(x, labels, **options)

    @property
    def is_bf16(self) -> bool:
        """Whether a call is under autocast unless it `is_precise`."""
        return self._networks.is_bf16

    def bare(self, name: str) -> nn.Module:
        """The network itself, for terms that look at its weights."""
        return self._networks[name]
