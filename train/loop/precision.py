"""In which floating-point format a step is computed; weights and losses stay float32."""

from __future__ import annotations

import torch

from ztcir_sdk.errors import UsageError

__all__ = ["PRECISIONS", "autocast", "loss_scaler"]

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str = "bf16") -> torch.autocast:
    """Autocasting of matrix products to ``precision``, of `PRECISIONS`; "fp32" casts nothing.

    Raises:
        UsageError: the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise UsageError(
            f"There is no precision {precision!r}: choose from {', '.join(PRECISIONS)}."
        )
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def loss_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """What keeps small gradients above fp16's least number; does nothing in other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
