"""How a step is computed: in which precision, in how many micro-batches and processes.

Only the precision changes results beyond rounding. A batch may be encoded in micro-batches and by
several processes, but its loss is always that of the whole batch (GradCache, Gao et al. 2021): the
activations of a micro-batch are dropped after its forward pass and recomputed in the backward pass,
when the gradients of its queries are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from train.loop.distributed import Workers
from train.loop.precision import autocast, loss_scaler
from train.model import ComposedModel
from train.settings import Compute

Encode = Callable[[NDArray[np.int64]], Tensor]
"""Encodes some rows (b,) as (b, D)."""


class Engine:
    """Computes steps of a model, in one process or several."""

    def __init__(self, compute: Compute | None = None) -> None:
        self.compute = compute or Compute()
        self.workers = Workers(self.compute.device)
        self.device = self.workers.device
        self.scaler = loss_scaler(self.device, self.compute.precision)
        self._forward: nn.Module = _Forward(nn.Identity())
        if self.device.type == "cuda" and self.compute.precision != "fp32":
            # products that autocasting leaves in fp32: their inputs are rounded to 10 bits, sums
            # stay fp32, and the matrices they come from were rounded to 7 or 10 bits anyway
            torch.set_float32_matmul_precision("high")

    def prepare(self, model: ComposedModel) -> None:
        """Move the model to the device and, where there are several processes, wrap it in DDP.

        ``requires_grad`` must be set before, because DDP reads it.
        """
        model.to(self.device)
        model.checkpointing = self.compute.checkpointing
        if self.compute.compile:
            # lengths and batches vary from step to step
            compiled = torch.compile(model.encode_query, dynamic=True)
            model.encode_query = compiled  # type: ignore[method-assign]
        self._forward = self.workers.replicate(_Forward(model))

    def optimizer(self, groups: Sequence[dict[str, Any]]) -> torch.optim.AdamW:
        """Return AdamW over groups of parameters; on a GPU in one kernel per group.

        On a CPU it stays the plain one, whose sums older runs were made with.
        """
        fused = True if self.device.type == "cuda" else None
        return torch.optim.AdamW(list(groups), betas=(0.9, 0.98), fused=fused)

    def autocast(self) -> torch.autocast:
        """Return autocasting to the precision, on the device."""
        return autocast(self.device, self.compute.precision)

    def encode(self, encode: Encode, rows: NDArray[np.int64]) -> Tensor:
        """Encode a whole batch with gradients: each process its share, in micro-batches.

        Args:
            encode: encodes some of the rows, with no module but the prepared model.
            rows: (B,), the same in every process, as is the result (B, D).
        """
        return self.encode_share(encode, self.workers.share(rows), len(rows))

    def encode_share(self, encode: Encode, share: NDArray[np.int64], total: int) -> Tensor:
        """Encode a batch of which each process knows only its own share.

        Args:
            encode: encodes some rows of this process.
            share: this process's rows; every process has the same number.
            total: number of rows in the whole batch, all of which are returned: (total, D).
        """
        encoded = self._forward(encode, share, self.compute.micro_batches)
        return self.workers.gather(encoded, total)

    def describe(self) -> dict[str, Any]:
        """Return what ``run.json`` records about it."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return {**asdict(self.compute), "device": name, "processes": self.workers.count}


class _Forward(nn.Module):
    """Everything that a step does with the model as one forward call, as DDP needs it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, encode: Encode, rows: NDArray[np.int64], micro_batches: int) -> Tensor:
        if micro_batches == 1 or not torch.is_grad_enabled():
            return encode(rows)
        pieces = np.array_split(rows, min(micro_batches, len(rows)))
        return torch.cat([checkpoint(encode, piece, use_reentrant=False) for piece in pieces])
