"""The upper trunk as matrix products has the outputs and gradients of timm's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from train.stages.fast_trunk import forward_upper_stages

CHANNELS = {3: 40, 4: 80, 5: 112, 6: 192}  # of what comes before each stage of EfficientNet-Lite0


@pytest.fixture(scope="module")
def trunk() -> Any:
    torch.manual_seed(0)
    made = timm.create_model("efficientnet_lite0", pretrained=False)
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):  # as if trained: no gain of 1, no mean of 0
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return made


def plainly(trunk: Any, features: Tensor, first_stage: int) -> Tensor:
    x: Tensor = features
    for stage in trunk.blocks[first_stage:]:
        x = stage(x)
    x = trunk.bn2(trunk.conv_head(x))
    return x.flatten(2).transpose(1, 2)


CASES = [
    (4, 3, (10, 8), True),  # as the default backbone has it
    (4, 5, (7, 5), True),
    (4, 2, (3, 4), False),
    (6, 4, (1, 2), True),
    (5, 1, (1, 1), False),
]


@pytest.mark.parametrize(("first_stage", "batch", "size", "training"), CASES)
def test_values_gradients_and_statistics_equal_timms(
    trunk: Any, first_stage: int, batch: int, size: tuple[int, int], training: bool
) -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(batch, CHANNELS[first_stage], *size, generator=generator)
    results = []
    for forward in (plainly, forward_upper_stages):
        own = copy.deepcopy(trunk).train(training)
        x = features.clone().requires_grad_()
        patches = forward(own, x, first_stage)
        weights = torch.randn(patches.shape, generator=torch.Generator().manual_seed(2))
        (patches * weights).sum().backward()
        gradients = {
            name: p.grad
            for name, p in own.named_parameters()
            if name.startswith(("blocks", "conv_head", "bn2")) and p.grad is not None
        }
        assert x.grad is not None
        results.append((patches, x.grad, gradients, dict(own.named_buffers())))
    (plain, to_input, gradients, buffers), (fast, fast_input, fast_gradients, fast_buffers) = (
        results
    )
    height, width = size
    strides = sum(stage[0].conv_dw.stride[0] == 2 for stage in trunk.blocks[first_stage:])
    assert fast.shape == (batch, -(-height // 2**strides) * -(-width // 2**strides), 1280)
    assert_near(fast, plain)
    assert_gradient_near(fast_input, to_input)
    assert len(gradients) > 10
    assert fast_gradients.keys() == gradients.keys()
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():  # what a norm takes out again has a gradient of 0
        assert_gradient_near(fast_gradients[name], gradient, least=0.05 * largest)
    for name, buffer in buffers.items():
        assert_near(fast_buffers[name].double(), buffer.double())
    moved = [name for name, buffer in trunk.named_buffers() if not buffer.equal(buffers[name])]
    assert bool(moved) == training


def assert_near(found: Tensor, expected: Tensor, least: float = 1e-6) -> None:
    """Equal within rounding, relative to the largest entry: orders of summation differ."""
    unit = max(float(expected.detach().abs().max()), least)
    assert float((found - expected).detach().abs().max()) <= 2e-4 * unit


def assert_gradient_near(found: Tensor, expected: Tensor, least: float = 1e-6) -> None:
    """Equal as a whole: rounding may push a single activation over ReLU6's kink."""
    unit = max(float(expected.norm()), least)
    assert float((found - expected).norm()) <= 2e-2 * unit


def test_training_can_follow_an_evaluation(trunk: Any) -> None:
    features = torch.randn(2, CHANNELS[4], 6, 9)  # a size that no other test has
    with torch.inference_mode():
        forward_upper_stages(trunk.eval(), features, 4)
    forward_upper_stages(trunk, features, 4).sum().backward()
    assert trunk.conv_head.weight.grad is not None
    trunk.zero_grad()


def test_stages_of_another_kind_are_refused(trunk: Any) -> None:
    with pytest.raises(TypeError, match="DepthwiseSeparableConv is not an inverted residual block"):
        forward_upper_stages(trunk, torch.randn(1, 32, 4, 4), 0)
