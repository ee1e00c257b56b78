"""The upper part of an EfficientNet-Lite trunk, computed with matrix products alone.

On a CPU, the backward pass of depthwise convolutions takes most of the time of training the upper
stages, although it needs hardly any arithmetic. At their sizes (10x8 positions and fewer) it is
cheaper to write a depthwise convolution as one matrix over positions per channel, and to keep
activations as ``(channels, positions, batch)``: pointwise and depthwise convolutions are then
matrix products without a copy. The weights are timm's; only the order of the sums differs.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from timm.models._efficientnet_blocks import InvertedResidual
from torch import Tensor, nn

__all__ = ["forward_upper_stages"]


@functools.lru_cache(maxsize=32)
def _taps(height: int, width: int, kernel: int, stride: int) -> Tensor:
    """Return the one-hot map from kernel taps to (output, input) position pairs.

    Returns:
        ``(kernel * kernel, out_positions * in_positions)`` float32.
    """
    with torch.inference_mode(False):  # training must be able to use the cached tensor
        identity = torch.eye(height * width).reshape(height * width, 1, height, width)
        patches = F.unfold(identity, kernel, padding=kernel // 2, stride=stride)  # (in, k*k, out)
        return patches.permute(1, 2, 0).reshape(kernel * kernel, -1).contiguous()


def _depthwise(x: Tensor, conv: nn.Conv2d, height: int, width: int) -> tuple[Tensor, int, int]:
    """Convolve ``x`` (C, height * width, B) depthwise; return the result, its height and width."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    out_height, out_width = -(-height // stride), -(-width // stride)
    taps = _taps(height, width, kernel, stride)
    matrix = conv.weight.reshape(conv.out_channels, -1) @ taps
    matrix = matrix.reshape(conv.out_channels, out_height * out_width, height * width)
    return torch.bmm(matrix, x), out_height, out_width


def _pointwise(x: Tensor, conv: nn.Conv2d) -> Tensor:
    channels, positions, batch = x.shape
    y = conv.weight.reshape(conv.out_channels, channels) @ x.reshape(channels, -1)
    return y.reshape(conv.out_channels, positions, batch)


def _norm(x: Tensor, bn: nn.BatchNorm2d, *, act: bool) -> Tensor:
    channels, positions, batch = x.shape
    if bn.training and bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
    y = F.batch_norm(
        x.reshape(1, channels, positions * batch),
        bn.running_mean,
        bn.running_var,
        bn.weight,
        bn.bias,
        bn.training,
        bn.momentum if bn.momentum is not None else 0.1,
        bn.eps,
    ).reshape(channels, positions, batch)
    return F.relu6(y) if act else y


def forward_upper_stages(trunk: nn.Module, features: Tensor, first_stage: int) -> Tensor:
    """Run the stages of a timm ``efficientnet_lite*`` trunk from ``first_stage`` on.

    Args:
        trunk: timm EfficientNet; its ``training`` flags decide which statistics normalise.
        features: (B, C, h, w), the output of ``trunk.blocks[:first_stage]``.
        first_stage: index of the first entry of ``trunk.blocks`` to run.

    Returns:
        (B, h' * w', 1280): the last feature map, flattened row by row; equal to
        ``trunk.forward_features`` up to rounding.

    Raises:
        TypeError: a stage has a block that is not an inverted residual block.
    """
    batch, channels, height, width = features.shape
    x = features.permute(1, 2, 3, 0).reshape(channels, height * width, batch)
    for stage in trunk.blocks[first_stage:]:  # type: ignore[index]
        for block in stage:
            if not isinstance(block, InvertedResidual):
                raise TypeError(f"{type(block).__name__} is not an inverted residual block")
            shortcut = x
            y = _norm(_pointwise(x, block.conv_pw), block.bn1, act=True)
            y, height, width = _depthwise(y, block.conv_dw, height, width)
            y = _norm(y, block.bn2, act=True)
            y = _norm(_pointwise(y, block.conv_pwl), block.bn3, act=False)
            x = y + shortcut if block.has_skip else y
    x = _norm(_pointwise(x, trunk.conv_head), trunk.bn2, act=True)  # type: ignore[arg-type]
    return x.permute(2, 1, 0)  # (B, positions, 1280)
