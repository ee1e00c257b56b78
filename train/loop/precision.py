"""Mixed precision: matrix products in a shorter floating-point type; weights and losses in fp32."""

from __future__ import annotations

import torch

from ztcir_sdk.names import TRAINING_PRECISIONS

_TYPES = dict(zip(TRAINING_PRECISIONS, (None, torch.bfloat16, torch.float16), strict=True))


def autocast(device: torch.device, precision: str = "bf16") -> torch.autocast:
    """Return autocasting to a precision of `TRAINING_PRECISIONS`; "fp32" casts nothing."""
    dtype = _TYPES[precision]
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def loss_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Return the scaler that keeps small fp16 gradients from underflow; disabled otherwise."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
