"""What a trained discriminator looks at: its logits, where a pixel moves them (arXiv:1312.6034, section 3), and where each of its levels is active.

Networks are judged as they were trained: batch statistics of the batch at hand, because training keeps none, and dropout off.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ganlib.models.layers.norm import Measured

BATCH_IMAGES = 32  # fixed: batch statistics and the minibatch deviation depend on it, so it is part of the numerics


@contextmanager
def judging(network: nn.Module) -> Iterator[None]:
    """Inside, evaluation mode but for the layers that would need measured statistics, which a discriminator has none of."""
    was_training = network.training
    network.eval()
    for module in network.modules():
        if isinstance(module, Measured):
            module.train()
    try:
        yield
    finally:
        network.train(was_training)


def logits(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """[N] float32: D's logits of images [N, C, H, W] in [-1, 1], of one kind each call (real or generated), as in training.

    Args:
        labels: [N] int64 where the network is told the class.
    """
    with judging(network), torch.no_grad():
        parts = [network(batch, told).float() for batch, told in _batches(images, labels)]
    return torch.cat(parts)


def saliency(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """[N, H, W] float32, at least 0: the largest absolute derivative of an image's logit by the channels of a pixel (arXiv:1312.6034, eq. 3-4)."""
    with judging(network), torch.enable_grad():
        parts = []
        for batch, told in _batches(images, labels):
            batch = batch.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(network(batch, told).sum(), batch)
            parts.append(gradient.abs().amax(dim=1))
    return torch.cat(parts).float()


def activity(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> dict[tuple[int, int], Tensor]:
    """Mean absolute activation over channels, [N, h, w] float32, of the last layer at each size of feature map, fine to coarse.

    At most one batch: the first `BATCH_IMAGES` images. Maps of one pixel say nothing and are left out.
    """
    found: dict[tuple[int, int], Tensor] = {}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1 and len(output) == len(batch):
            found[output.shape[2], output.shape[3]] = output.detach().abs().mean(dim=1).float()

    leaves = [module for module in network.modules() if not list(module.children())]
    batch, told = next(_batches(images, labels))
    handles = [module.register_forward_hook(keep) for module in leaves]
    try:
        with judging(network), torch.no_grad():
            network(batch, told)
    finally:
        for handle in handles:
            handle.remove()
    return dict(sorted(found.items(), reverse=True))


def _batches(images: Tensor, labels: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    for start in range(0, len(images), BATCH_IMAGES):
        chosen = slice(start, start + BATCH_IMAGES)
        yield images[chosen], None if labels is None else labels[chosen]
