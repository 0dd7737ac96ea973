"""Layers with numbers that change once an update, however many shards or processes compute it."""

from torch import nn


class AdvancingLayer(nn.Module):
    """Its `before_update` is called once before every optimizer update, on every process alike; a forward changes nothing of it."""

    def before_update(self) -> None:
        raise NotImplementedError
