"""What a discriminator ends in, and how it is told the class."""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ganlib.models import Judgement

Condition = Literal["projection", "auxiliary", "concat"]


class Head(nn.Module):
    """Features [N, F] -> logits [N], with the class conditions that act at the end of a network.

    Args:
        classes: 0 for an unconditional network, whatever `condition` says.
        condition: `projection` adds <embedding(label), features> (arXiv:1802.05637, eq. 3); `auxiliary` classifies beside the logit and is not
            told the label (AC-GAN, arXiv:1610.09585); `concat` is done at the image (`with_label_maps`), nothing is added here.
        linear, embedding: makers of the layers, for networks that normalise their weights.
    """

    def __init__(
        self,
        features: int,
        *,
        classes: int = 0,
        condition: Condition = "projection",
        linear: type[nn.Linear] = nn.Linear,
        embedding: type[nn.Embedding] = nn.Embedding,
    ) -> None:
        super().__init__()
        self.logit = linear(features, 1)
        self.embedding = embedding(classes, features) if classes and condition == "projection" else None
        self.classifier = linear(features, classes) if classes and condition == "auxiliary" else None

    if TYPE_CHECKING:  # else a module's call is Any

        def __call__(self, features: Tensor, labels: Tensor | None) -> Judgement: ...

    def forward(self, features: Tensor, labels: Tensor | None) -> Judgement:
        logits = self.logit(features).float()[:, 0]
        if self.embedding is not None:
            assert labels is not None
            logits = logits + (self.embedding(labels).float() * features.float()).sum(1)
        class_logits = None
        if self.classifier is not None:
            class_logits = self.classifier(features).float()
            logits = logits + 0.0 * class_logits.sum(1)  # every parameter stays in the graph of the logit: DDP waits for each one
        return Judgement(logits=logits, features=features.float(), class_logits=class_logits)


def with_label_maps(images: Tensor, labels: Tensor | None, classes: int) -> Tensor:
    """[N, C, H, W] -> [N, C + classes, H, W]: the class as one map of ones among maps of zeros (cGAN, arXiv:1411.1784)."""
    if not classes:
        return images
    assert labels is not None
    maps = torch.nn.functional.one_hot(labels, classes).to(images.dtype)[:, :, None, None].expand(-1, -1, *images.shape[2:])
    return torch.cat([images, maps], 1)


def with_label(z: Tensor, labels: Tensor | None, classes: int) -> Tensor:
    """[N, D] -> [N, D + classes]: the class one-hot beside the latent (cGAN, arXiv:1411.1784)."""
    if not classes:
        return z
    assert labels is not None
    return torch.cat([z, torch.nn.functional.one_hot(labels, classes).to(z.dtype)], 1)
