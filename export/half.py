"""fp16 as a strongly typed graph: the model itself in half precision, without what would overflow.

TensorRT has no fp16 switch any more: the graph states the precision. Converters that rewrite a
float32 graph have written invalid ones. So a copy of the model is cast before it is traced. Sums of
many squares or exponentials overflow in half precision, whose largest number is 65504: norms,
softmax and means compute in float32 between two casts, and their weights stay float32. Inputs and
outputs are float32 in every precision.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from export.storage import Int8Embedding

Module = TypeVar("Module", bound=nn.Module)

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Modules whose weights stay float32."""

_IN_FLOAT32 = {
    *(F.layer_norm, F.group_norm, F.rms_norm, F.normalize),
    *(F.softmax, torch.softmax, Tensor.softmax),
    *(torch.mean, Tensor.mean, torch.norm, Tensor.norm, torch.linalg.vector_norm),
}


class _Float32Where(TorchFunctionMode):
    """Compute the functions of `_IN_FLOAT32` on half tensors in float32, and cast the result."""

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _IN_FLOAT32 or not _is_half(args[0]):
            return func(*args, **kwargs)
        result = func(*map(_widen, args), **{key: _widen(v) for key, v in kwargs.items()})
        return result.half()


class HalfGraph(nn.Module):
    """A graph's module in half precision, with float32 inputs and outputs.

    Args:
        module: the module of a model from `to_half`.
        outputs: names of its outputs; embeddings are normalised again in float32.
    """

    def __init__(self, module: nn.Module, outputs: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.outputs = tuple(outputs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with _Float32Where():
            results = self.module(*(x.half() if x.is_floating_point() else x for x in inputs))
        results = (results,) if isinstance(results, Tensor) else results
        return tuple(
            F.normalize(y.float(), dim=-1) if name.endswith("embeds") else y.float()
            for name, y in zip(self.outputs, results, strict=True)
        )


def to_half(module: Module) -> Module:
    """Return a copy of a model with its weights in fp16, except those of its norms."""
    halves: dict[int, Any] = {}  # by id: deepcopy takes these instead of copying in float32
    for part in module.modules():
        if isinstance(part, (*_NORMS, Int8Embedding)):
            continue
        for parameter in part.parameters(recurse=False):
            halves[id(parameter)] = nn.Parameter(parameter.detach().half(), requires_grad=False)
        for buffer in part.buffers(recurse=False):
            if buffer.is_floating_point():
                halves[id(buffer)] = buffer.half()
    half = copy.deepcopy(module, halves)
    for part in half.modules():
        if isinstance(part, Int8Embedding):
            part.dtype = torch.float16
    return half


def _is_half(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float16


def _widen(value: Any) -> Any:
    return value.float() if _is_half(value) else value
