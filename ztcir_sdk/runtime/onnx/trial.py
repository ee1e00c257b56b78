"""A trial run of a tiny graph: the only proof that an execution provider works."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ztcir_sdk.errors import first_line
from ztcir_sdk.runtime.onnx.preload import CPU, preload

# y = MatMul(x, x) for 2 x 2 float32 (opset 13, IR version 8), serialised by `onnx.helper`.
TINY_GRAPH = bytes.fromhex(
    "08083a400a110a01780a017812017922064d61744d756c1201675a130a0178120e0a0c"
    "080112080a0208020a02080262130a0179120e0a0c080112080a0208020a02080242040a00100d"
)
TINY_INPUT = np.array([[1, 2], [3, 4]], dtype=np.float32)
_SILENT = 4  # log severity
PLACEMENT = "session.record_ep_graph_assignment_info"
"""Session option that `placement` needs."""


@dataclass(frozen=True)
class ProviderRun:
    """Whether an execution provider of ONNX Runtime ran a graph on this machine."""

    provider: str
    ran: bool
    why_not: str = ""
    nodes: dict[str, int] = field(default_factory=dict)
    """Provider -> number of nodes that it ran; empty if ONNX Runtime does not report it."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        values: dict[str, Any] = {"provider": self.provider, "ran": self.ran}
        if self.nodes:
            values["nodes"] = self.nodes
        return values if self.ran else {**values, "why_not": self.why_not}


def run_tiny_graph(ort: Any, provider: str) -> ProviderRun:
    """Run a graph on one provider, without a silent fallback to another."""
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT  # the result reports errors
    options.intra_op_num_threads = 1
    options.add_session_config_entry(PLACEMENT, "1")
    if provider != CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if missing := preload(ort, provider):
            return ProviderRun(provider, False, missing)
    try:
        session = ort.InferenceSession(TINY_GRAPH, options, providers=[provider], enable_fallback=0)
        used = session.get_providers()[0]
        [y] = session.run(None, {"x": TINY_INPUT})
        nodes = placement(session)
    except Exception as error:  # its exceptions have no other common base
        return ProviderRun(provider, False, first_line(error))
    if used != provider:
        return ProviderRun(provider, False, f"{used} ran instead", nodes)
    if nodes and provider not in nodes:
        return ProviderRun(provider, False, f"{next(iter(nodes))} ran instead", nodes)
    if not np.allclose(y, TINY_INPUT @ TINY_INPUT):
        return ProviderRun(provider, False, f"the result is wrong: {y.tolist()}", nodes)
    return ProviderRun(provider, True, nodes=nodes)


def placement(session: Any) -> dict[str, int]:
    """Return provider -> number of its nodes; empty if ONNX Runtime does not report it."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    nodes: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        nodes[part.ep_name] = nodes.get(part.ep_name, 0) + len(part.get_nodes())
    return nodes
