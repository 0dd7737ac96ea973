"""What a discriminator looks at, against closed forms: a linear one, whose gradient is its weight, and one that sees a single pixel."""

import torch
from torch import Tensor, nn

from ganlib import saliency
from ganlib.models import ImageSpec, build_discriminator
from ganlib.models.layers.norm import BatchNorm
from ganlib.models.settings import ModelConfig
from ganlib.rng import keyed_rng


class Linear(nn.Module):
    """logit = <w, x> + class."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        logits = (images * self.weight).sum((1, 2, 3))
        return logits if labels is None else logits + labels


def test_the_gradient_of_a_linear_discriminator_is_its_weight() -> None:
    """The largest channel, by its size. Kills a mean over channels, a signed maximum, and a gradient of the batch's mean."""
    rng = keyed_rng(0, "test")
    weight = torch.randn(3, 4, 5, generator=rng)
    images = torch.randn(saliency.BATCH_IMAGES + 3, 3, 4, 5, generator=rng)
    found = saliency.saliency(Linear(weight), images)
    torch.testing.assert_close(found, weight.abs().amax(0).expand(len(images), -1, -1))
    labels = torch.arange(len(images))
    torch.testing.assert_close(saliency.logits(Linear(weight), images, labels), (images * weight).sum((1, 2, 3)) + labels)


def test_a_discriminator_is_judged_with_the_statistics_of_its_batch_and_left_as_it_was() -> None:
    """A trained D has no running statistics: in evaluation mode its batch norm would divide by 1. Kills `network.eval()` alone."""
    model = ModelConfig(name="dcgan", latent_dim=4, discriminator={"width": 4, "normalization": "batch", "dropout": 0.5})
    network = build_discriminator(model, ImageSpec(channels=1, size=(8, 8)), seed=0).eval()
    images = torch.randn(16, 1, 8, 8, generator=keyed_rng(1, "test")) * 10
    seen = []
    norm = next(module for module in network.modules() if isinstance(module, BatchNorm))
    handle = norm.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))  # what follows writes into it
    one, two = saliency.logits(network, images), saliency.logits(network, images)
    handle.remove()
    torch.testing.assert_close(one, two, rtol=0, atol=0)  # no dropout
    normalised = (seen[0] - norm.bias[:, None, None]) / norm.weight[:, None, None]
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(normalised.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalised.std((0, 2, 3)), torch.ones(normalised.shape[1]), atol=0.05, rtol=0)
    assert not any(module.training for module in network.modules())


def test_activity_is_where_the_image_is_bright() -> None:
    """One convolution of a single bright pixel: its neighbourhood alone is active, at every size that the network has."""
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.AvgPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 1), nn.Flatten(0)
    )
    wrapped = WithLabels(network)
    with torch.no_grad():
        network[0].weight.fill_(1.0)
    images = torch.zeros(3, 1, 8, 8)
    images[:, :, 2, 5] = 3.0
    found = saliency.activity(wrapped, images)
    assert list(found) == [(8, 8), (4, 4)]
    expected = torch.zeros(8, 8)
    expected[1:4, 4:7] = 3.0
    torch.testing.assert_close(found[8, 8], expected.expand(3, -1, -1))
    torch.testing.assert_close(found[4, 4][0], nn.functional.avg_pool2d(expected[None], 2)[0])


class WithLabels(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.inner(images)
