"""Checks that a GPU can be measured: PyTorch and ONNX Runtime must both run on it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import torch

from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.runtime import RuntimeSettings, open_graph
from ztcir_sdk.runtime.onnx.trial import TINY_GRAPH, TINY_INPUT


def check_gpu(device: str) -> str:
    """Run PyTorch and ONNX Runtime on a GPU; return its name, such as "NVIDIA GeForce RTX 3090".

    Args:
        device: "cuda:N".

    Raises:
        UsageError: there is no GPU with this number.
        ZtcirError: PyTorch or ONNX Runtime does not run on it.
    """
    if torch.version.cuda is None:
        raise ZtcirError(
            f"{device} cannot be measured: this PyTorch was built without CUDA; install one with "
            "CUDA from https://pytorch.org, or use --device cpu."
        )
    if not torch.cuda.is_available():
        raise ZtcirError(
            f"{device} cannot be measured: PyTorch finds no NVIDIA GPU; check nvidia-smi, "
            "CUDA_VISIBLE_DEVICES and the container's --gpus, or use --device cpu."
        )
    count = torch.cuda.device_count()
    if int(device.partition(":")[2]) >= count:
        raise UsageError(
            f"There is no {device}: PyTorch finds {count} GPUs; choose another, or check "
            "CUDA_VISIBLE_DEVICES."
        )
    with tempfile.TemporaryDirectory(prefix="ztcir-gpu-") as scratch:
        graph = Path(scratch) / "tiny.onnx"
        graph.write_bytes(TINY_GRAPH)
        open_graph(graph, RuntimeSettings(backend="onnx", device=device)).run({"x": TINY_INPUT})
    return torch.cuda.get_device_name(device)


def slug(gpu: str) -> str:
    """Return a GPU's name for use in a file name: "nvidia-geforce-rtx-3090"."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
