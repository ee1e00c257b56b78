"""fp16 graphs: strongly typed, with float32 where half precision would overflow."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from exported import Exported, initializers
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from export.attention import attend, plain_attention
from export.half import HalfGraph, to_half

HALF, FULL = TensorProto.FLOAT16, TensorProto.FLOAT


def dtypes(proto: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of every value in a graph, inferred from its operators."""
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    known = {value.name: value.type.tensor_type.elem_type for value in values}
    return known | {name: tensor.data_type for name, tensor in initializers(inferred).items()}


@pytest.mark.parametrize("graph", ["image_encoder", "text_encoder"])
def test_an_fp16_graph_is_strongly_typed(three_precisions: Exported, graph: str) -> None:
    proto = three_precisions.graph(graph, "fp16")
    onnx.checker.check_model(proto, full_check=True)
    assert {own.domain for own in proto.opset_import} == {""}
    types, weights = dtypes(proto), initializers(proto)
    counted: Counter[str] = Counter()
    for node in proto.graph.node:
        taken = [types[name] for name in node.input if name in types]
        if node.op_type in ("MatMul", "Gemm", "Conv"):
            counted["product"] += 1
            assert set(taken) == {HALF}, node.name
        elif node.op_type in ("Softmax", "LayerNormalization", "ReduceL2"):
            counted[node.op_type] += 1
            assert set(taken) - {TensorProto.INT64} == {FULL}, node.name
    assert counted["product"] >= 8
    assert counted["Softmax"] == 2  # one a block
    assert counted["LayerNormalization"] >= 5
    big = [t for t in weights.values() if np.prod(t.dims) >= 200]
    assert big
    assert {tensor.data_type for tensor in big} == {HALF}
    for tensor in weights.values():
        if tensor.data_type in (HALF, FULL):
            assert np.isfinite(numpy_helper.to_array(tensor)).all()  # masks, too
    for value in (*proto.graph.input, *proto.graph.output):
        assert value.type.tensor_type.elem_type in (FULL, TensorProto.INT64)


class Residual(nn.Module):
    """Sums squares and exponentials, as a tower does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.norm = nn.LayerNorm(64)
        self.to_qkv = nn.Linear(64, 192)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(self.norm(x * 300)).chunk(3, dim=-1)
        mask = torch.full((5, 5), -1.0e4).triu(1)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
        return F.normalize(x.mean(dim=1), dim=-1)


class Types(TorchDispatchMode):
    """Records the type of each operator's first tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if args and isinstance(args[0], Tensor):
            self.seen.setdefault(func.overloadpacket.__name__, set()).add(args[0].dtype)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_sums_that_would_overflow_are_computed_in_float32() -> None:
    module, x = Residual().eval(), torch.randn(3, 5, 64) * 2
    half = to_half(module)
    assert half.norm.weight.dtype == torch.float32
    assert half.to_qkv.weight.dtype == torch.float16
    assert module.to_qkv.weight.dtype == torch.float32  # a copy was cast
    with plain_attention(), Types() as types:
        [found] = HalfGraph(half, ["image_embeds"])(x)
    assert types.seen["native_layer_norm"] == {torch.float32}
    assert types.seen["_softmax"] == {torch.float32}
    assert types.seen["mean"] == {torch.float32}
    assert types.seen["linalg_vector_norm"] == {torch.float32}
    assert types.seen["bmm"] == {torch.float16}
    assert torch.float16 in types.seen.get("addmm", types.seen.get("mm"))
    assert found.dtype == torch.float32
    assert float((1 - (found * module(x)).sum(dim=-1)).max()) < 1e-3
    np.testing.assert_allclose(found.norm(dim=-1).numpy(), 1, atol=1e-6)


@given(
    lengths=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    mask=st.sampled_from(["none", "added", "bool", "causal"]),
    scale=st.none() | st.floats(0.05, 2),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_plain_attention_equals_torchs(
    lengths: tuple[int, int], mask: str, scale: float | None, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    t, s = lengths
    options: dict[str, Any] = {}
    q, k, v = noise(2, 3, t, 8), noise(2, 3, s, 8), noise(2, 3, s, 5)
    if mask == "added":
        options["attn_mask"] = noise(t, s)
    elif mask == "bool":
        seen = torch.rand(t, s, generator=generator) < 0.5
        seen[:, 0].fill_(True)  # a position that attends to nothing has no answer
        options["attn_mask"] = seen
    elif mask == "causal":
        options["is_causal"] = True
    expected = F.scaled_dot_product_attention(q, k, v, scale=scale, **options)
    torch.testing.assert_close(attend(q, k, v, scale=scale, **options), expected)


def test_attention_of_large_halves_is_finite() -> None:
    q = torch.full((1, 4, 64), 80.0, dtype=torch.float16)  # whose products sum up to 409 600
    mask = torch.full((4, 4), -1.0e4, dtype=torch.float16).triu(1)
    with Types() as types:
        found = attend(q, q, torch.ones(1, 4, 8, dtype=torch.float16), attn_mask=mask)
    assert types.seen["_softmax"] == {torch.float32}
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, torch.ones_like(found))
