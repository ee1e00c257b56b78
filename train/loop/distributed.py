"""Several processes as one: every one encodes its share of a batch, all see the whole batch's loss.

A contrastive loss needs the whole batch, so the shares' queries are gathered, gradients included,
and every process computes the same loss of all of them. The gradient that reaches a share through
the gathering is summed over the processes, that is, ``count`` times its part of the loss; DDP's
mean over the processes then gives exactly the gradient of one process with the whole batch.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from ztcir_sdk.errors import MissingDependencyError, UsageError

__all__ = ["Workers", "gather_rows"]

Result = TypeVar("Result")

# One process may encode images or evaluate for long while the others wait for it.
PATIENCE = datetime.timedelta(hours=12)


class _GatherRows(torch.autograd.Function):
    """All processes' rows, in order; backwards, the sum of all processes' gradients of one's own.

    The collectives are those that every backend has.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        first = dist.get_rank() * ctx.count
        return gradient[first : first + ctx.count]


def gather_rows(rows: Tensor) -> Tensor:
    """The rows (b, ...) of every process, in the order of the processes: (count * b, ...).

    Differentiable: what comes back is the sum over all processes' losses. Every process must give
    equally many rows.
    """
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


class Workers:
    """The processes that ``accelerate launch`` (or ``torchrun``) started, or this one alone.

    Attributes:
        count: processes; rank: this one's number; device: where it computes.
        is_main: whether this is the one that writes files and prints.
    """

    def __init__(self, device: str = "auto") -> None:
        """Join the other processes, if there are any.

        Args:
            device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".

        Raises:
            MissingDependencyError: there are several processes, but `accelerate` is not installed.
            UsageError: the device is not there.
        """
        self._accelerator: Any = None
        self.count, self.rank = 1, 0
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            self._accelerator = _accelerator(cpu=device == "cpu")
            self.count, self.rank = (
                self._accelerator.num_processes,
                self._accelerator.process_index,
            )
            self.device: torch.device = self._accelerator.device
        else:
            self.device = _device(device)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            self._accelerator.wait_for_everyone()

    def main_first(self, work: Callable[[], Result]) -> Result:
        """Let the main process do what leaves files behind, then the others, who find them."""
        if not self.is_main:
            self.wait()
        result = work()
        if self.is_main:
            self.wait()
        return result

    def share(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process's part of a batch; where the batch does not divide, its start is repeated.

        Args:
            rows: (B,), the same in every process.

        Returns:
            (ceil(B / count),); the shares of all processes, one after another, start with `rows`.
        """
        size = -(-len(rows) // self.count)
        whole = np.resize(rows, size * self.count)
        return whole[self.rank * size : (self.rank + 1) * size]

    def gather(self, rows: Tensor, total: int) -> Tensor:
        """The first ``total`` rows of all shares' results, with their gradients; see `share`."""
        return rows if self.count == 1 else gather_rows(rows)[:total]

    def replicate(self, module: nn.Module) -> nn.Module:
        """The module with DDP around it, so that a backward pass averages gradients."""
        if self.count == 1 or not any(p.requires_grad for p in module.parameters()):
            return module
        replicated: nn.Module = self._accelerator.prepare_model(module)
        return replicated


def _accelerator(*, cpu: bool) -> Any:
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    except ImportError as error:
        raise MissingDependencyError(
            "Training in several processes needs accelerate; install the extra `ztcir[train]`."
        ) from error
    backend = "gloo" if cpu or not torch.cuda.is_available() else "nccl"
    return Accelerator(
        cpu=cpu or not torch.cuda.is_available(),
        mixed_precision="no",  # `train.loop.precision` casts, so that one process does as many do
        kwargs_handlers=[
            InitProcessGroupKwargs(backend=backend, timeout=PATIENCE),
            # parts of a model may be switched off, and blocks may be computed twice
            DistributedDataParallelKwargs(static_graph=True),
        ],
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"There is no device {name!r}: take auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"The device {name} is not there: PyTorch sees {torch.cuda.device_count()} GPUs; "
            "take auto or cpu."
        )
    return device
