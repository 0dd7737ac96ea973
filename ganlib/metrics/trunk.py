"""The small convolutional network behind the learned extractors: how it is built, fed and trained."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganlib.levels import to_unit
from ganlib.metrics.interface import EXTRACT_BATCH_IMAGES, Images, checked_images
from ganlib.metrics.spread import channel_statistics, units
from ganlib.rng import keyed_rng

FEATURE_DIM = 128
WIDTHS = (24, 32, 64, 128)
LAYER_MODULES = 3  # convolution, batch norm, rectifier
MIDDLE_LAYER = 3  # of 5, counted from 1
MIDDLE_DIM = 2 * WIDTHS[2]
FEATURE_DIMS = {"middle": MIDDLE_DIM, "last": FEATURE_DIM}
MAX_PIXELS = 64 * 64  # larger images are shrunk to this area, so that the cost has a bound
FINE_PIXELS = 16 * 16  # smaller images keep their resolution in the first layer
BATCH_IMAGES = 256
SMALL_BATCH_IMAGES = 64  # where the epochs asked for are fewer than MIN_STEPS batches
MIN_STEPS = 300  # a small data set gets at least so many updates, however many epochs they make
PEAK_LR = 1e-2
WEIGHT_DECAY = 1e-3

Task = Callable[[np.ndarray, int], tuple[Tensor, Tensor]]  # (indices, step) -> images [n, C, H, W] uint8, targets [n] int64


def working_size(height: int, width: int) -> tuple[int, int]:
    """The size the network sees: unchanged up to MAX_PIXELS, else shrunk to that area with the aspect ratio kept."""
    scale = min(1.0, math.sqrt(MAX_PIXELS / (height * width)))
    return max(1, round(height * scale)), max(1, round(width * scale))


class Trunk(nn.Module):
    """Images [n, C, H, W] uint8 -> features [n, FEATURE_DIM] -> logits [n, num_outputs]; texture from a layer half-way.

    Args:
        image_shape: (C, H, W), of any size and aspect ratio.
        num_outputs: what the head tells apart.
        seed: of the initial weights; None leaves them empty, to be loaded.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_outputs: int, *, seed: int | None) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.num_outputs = num_outputs
        channels, height, width = image_shape
        self.size = working_size(height, width)
        pixels = self.size[0] * self.size[1]
        strides = (1 if pixels <= FINE_PIXELS else 2, 2 if pixels > 32 * 32 else 1, 2, 1, 2)
        widths = (channels, WIDTHS[0], WIDTHS[1], WIDTHS[2], WIDTHS[2], WIDTHS[3])
        with torch.device("meta"):  # layers initialise themselves from the global generator; on "meta" there is nothing to draw
            layers: list[nn.Module] = []
            for i, stride in enumerate(strides):
                layers += [nn.Conv2d(widths[i], widths[i + 1], 3, stride, padding=1, bias=False), nn.BatchNorm2d(widths[i + 1]), nn.ReLU()]
            self.body = nn.Sequential(*layers)
            self.project = nn.Linear(WIDTHS[3], FEATURE_DIM)
            self.head = nn.Linear(FEATURE_DIM, num_outputs)
            self.middle_units: Tensor
            self.register_buffer("middle_units", torch.empty(MIDDLE_DIM))
        self.to_empty(device="cpu")
        if seed is not None:
            self._initialise(seed)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """He initialisation for rectifiers, arXiv:1502.01852, eq. 10; batch norm starts as the identity."""
        for i, module in enumerate(self.modules()):
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()  # constants, no draws
            elif isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0.0, math.sqrt(2 / fan_in), generator=keyed_rng(seed, "extractor weights", i))
                if module.bias is not None:
                    module.bias.zero_()
        self.middle_units.fill_(1.0)

    def working(self, images: Tensor) -> Tensor:
        """[n, C, H, W] uint8, or float32 in [0, 255] -> [n, C, *size] float32 in [-1, 1], channels last."""
        x = to_unit(images)
        if tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)
        return x.contiguous(memory_format=torch.channels_last)

    def middle(self, images: Tensor) -> Tensor:
        """[n, C, H, W] uint8 -> [n, MIDDLE_DIM] float32: the statistics of layer MIDDLE_LAYER's channels, in no units yet."""
        return channel_statistics(self.body[: LAYER_MODULES * MIDDLE_LAYER](self.working(images)))

    def both(self, images: Tensor) -> dict[str, Tensor]:
        """[n, C, H, W] uint8 -> {"middle": [n, MIDDLE_DIM], "last": [n, FEATURE_DIM]} float32."""
        half_way = self.body[: LAYER_MODULES * MIDDLE_LAYER](self.working(images))
        last = self._last(self.body[LAYER_MODULES * MIDDLE_LAYER :](half_way))
        return {"middle": channel_statistics(half_way) / self.middle_units, "last": last}

    def features(self, images: Tensor) -> Tensor:
        """[n, C, H, W] uint8 -> [n, FEATURE_DIM] float32, non-negative."""
        return self._last(self.body(self.working(images)))

    def _last(self, x: Tensor) -> Tensor:
        return F.relu(self.project(x.mean(dim=(2, 3))))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def batches(num_images: int, batch_images: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """`steps` batches of indices [batch_images] int64; each epoch is one permutation, and an epoch's rest opens the next."""
    waiting, epoch = np.empty(0, dtype=np.int64), 0
    for _ in range(steps):
        while len(waiting) < batch_images:
            order = torch.randperm(num_images, generator=keyed_rng(seed, "extractor order", epoch)).numpy()
            waiting, epoch = np.concatenate([waiting, order]), epoch + 1
        yield np.sort(waiting[:batch_images])  # sorted: a batch is a set, and a file is read forwards
        waiting = waiting[batch_images:]


def train(trunk: Trunk, task: Task, *, num_images: int, seed: int, epochs: float) -> Trunk:
    """Minimise cross-entropy with AdamW on a one-cycle schedule (arXiv:1708.07120), in bf16 autocast; returns `trunk` for evaluation.

    Raises:
        ValueError: the loss is not finite.
    """
    asked = math.ceil(epochs * num_images / BATCH_IMAGES)
    batch_images = BATCH_IMAGES if asked >= MIN_STEPS else SMALL_BATCH_IMAGES
    steps = max(MIN_STEPS, math.ceil(epochs * num_images / batch_images))
    optimizer = torch.optim.AdamW(trunk.parameters(), lr=PEAK_LR, weight_decay=WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps)
    trunk.train()
    for step, indices in enumerate(batches(num_images, batch_images, steps, seed)):
        images, targets = task(indices, step)
        with torch.autocast("cpu", torch.bfloat16):
            logits = trunk(images)
        loss = F.cross_entropy(logits.float(), targets)
        if not bool(torch.isfinite(loss)):
            raise ValueError(f"training the feature extractor: the loss is {float(loss)} at step {step}; try another reference.seed")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return trunk.eval()


@torch.inference_mode()
def share_correct(trunk: Trunk, task: Task, *, num_images: int) -> float:
    """Share of `num_images` images whose target is the largest logit."""
    correct = 0
    for step, start in enumerate(range(0, num_images, EXTRACT_BATCH_IMAGES)):
        images, targets = task(np.arange(start, min(start + EXTRACT_BATCH_IMAGES, num_images)), step)
        correct += int((trunk(images).argmax(dim=1) == targets).sum())
    return correct / num_images


@torch.inference_mode()
def measure_units(trunk: Trunk, images: Images, *, seed: int) -> Trunk:
    """Set the units of the middle's numbers to their spread over `images`; returns `trunk`."""
    trunk.middle_units.copy_(units(lambda batch: {"middle": trunk.middle(batch)}, images, seed=seed)["middle"])
    return trunk


@torch.inference_mode()
def features(trunk: Trunk, images: Tensor) -> dict[str, Tensor]:
    """[n, C, H, W] uint8, or float32 in [0, 255] -> {"middle": [n, MIDDLE_DIM], "last": [n, FEATURE_DIM]} float32.

    Raises:
        ValueError: images of another shape than the trunk was trained on, or of another type.
    """
    found = trunk.both(checked_images(images, trunk.image_shape, takes_float=True))
    return {depth: tensor.clone() for depth, tensor in found.items()}


def describe(trunk: Trunk) -> dict[str, Any]:
    """What `restore` needs besides the weights."""
    return {"image_shape": list(trunk.image_shape), "num_outputs": trunk.num_outputs}


def restore(description: dict[str, Any], weights: dict[str, Tensor]) -> Trunk:
    """The trunk of `describe` and its `state_dict`."""
    channels, height, width = description["image_shape"]
    trunk = Trunk((channels, height, width), description["num_outputs"], seed=None)
    trunk.load_state_dict(weights)
    return trunk.eval()


def gather(images: Images, indices: np.ndarray) -> Tensor:
    """[n] int64 -> [n, C, H, W] uint8, in memory of its own."""
    return torch.from_numpy(np.array(images.gather(indices)))
