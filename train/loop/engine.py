"""How a step is computed: on which device, in which precision, in how many pieces and processes.

Nothing here but the precision changes what is computed. A batch may be encoded in micro-batches
and by several processes; the loss is always that of the whole batch, as Gao et al. 2021 (GradCache)
do: a micro-batch's activations are dropped after its forward pass, and computed again when the
whole batch's loss has said what its queries' gradients are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from train.loop.distributed import Workers
from train.loop.precision import PRECISIONS, autocast, loss_scaler
from train.model.composed_model import ComposedModel
from ztcir_sdk.errors import UsageError

__all__ = ["Compute", "Engine"]


@dataclass(frozen=True)
class Compute:
    """How a run is computed.

    Attributes:
        precision: "fp32", "bf16" or "fp16" of the matrix products; weights stay float32.
        micro_batches: pieces that each process encodes its share of a batch in; more of them need
            less memory and a second forward pass, and give the same gradients.
        checkpointing: whether text blocks are computed again in the backward pass, not remembered.
        compile: whether the text encoder goes through ``torch.compile``.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
    """

    precision: str = "bf16"
    micro_batches: int = 1
    checkpointing: bool = False
    compile: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"There is no precision {self.precision!r}: choose from {', '.join(PRECISIONS)}."
            )
        if self.micro_batches < 1:
            raise UsageError(f"A batch cannot be cut into {self.micro_batches} pieces: take 1.")

    def identity(self) -> dict[str, str]:
        """What of it a run cannot be resumed without, that is, what changes its numbers."""
        return {} if self.precision == Compute.precision else {"precision": self.precision}


class Engine:
    """A model at work in one or many processes.

    Attributes:
        compute: how. workers: the processes. device: where this one computes.
        scaler: scales the loss in fp16; does nothing otherwise.
    """

    def __init__(self, compute: Compute | None = None) -> None:
        self.compute = compute or Compute()
        self.workers = Workers(self.compute.device)
        self.device = self.workers.device
        self.scaler = loss_scaler(self.device, self.compute.precision)
        self._called: nn.Module = _Called(nn.Identity())

    def prepare(self, model: ComposedModel) -> None:
        """Bring the model to the device and, where there are several processes, tie them together.

        What is to be trained must be known by now: DDP looks at ``requires_grad``.
        """
        model.to(self.device)
        model.checkpointing = self.compute.checkpointing
        if self.compute.compile:
            # lengths and batches vary from step to step
            compiled = torch.compile(model.encode_query, dynamic=True)
            model.encode_query = compiled  # type: ignore[method-assign]
        self._called = self.workers.replicate(_Called(model))

    def autocast(self) -> torch.autocast:
        """The precision's autocasting on the device."""
        return autocast(self.device, self.compute.precision)

    def encode(
        self, encode: Callable[[NDArray[np.int64]], Tensor], rows: NDArray[np.int64]
    ) -> Tensor:
        """Encode a whole batch: each process its share, in micro-batches; gradients flow.

        Args:
            encode: gives (b, D) of some rows (b,), by the prepared model alone.
            rows: (B,), the same in every process.

        Returns:
            (B, D), the same in every process.
        """
        return self.encode_share(encode, self.workers.share(rows), len(rows))

    def encode_share(
        self,
        encode: Callable[[NDArray[np.int64]], Tensor],
        share: NDArray[np.int64],
        total: int,
    ) -> Tensor:
        """Encode a batch of which each process knows its own share alone.

        Args:
            encode: gives (b, D) of some rows (b,) of this process.
            share: equally many in every process.
            total: rows of the whole batch.

        Returns:
            (total, D), the same in every process.
        """
        encoded = self._called(encode, share, self.compute.micro_batches)
        return self.workers.gather(encoded, total)

    def describe(self) -> dict[str, Any]:
        """For ``run.json``."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return {**asdict(self.compute), "device": name, "processes": self.workers.count}


class _Called(nn.Module):
    """The model as DDP must see it: all that a step does with it is one forward call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        encode: Callable[[NDArray[np.int64]], Tensor],
        rows: NDArray[np.int64],
        micro_batches: int,
    ) -> Tensor:
        if micro_batches == 1 or not torch.is_grad_enabled():
            return encode(rows)
        pieces = np.array_split(rows, min(micro_batches, len(rows)))
        return torch.cat([checkpoint(encode, piece, use_reentrant=False) for piece in pieces])
