"""Data-parallel training in which every process computes the loss of the whole batch.

A contrastive loss needs the whole batch, so each process encodes its share, the queries are
gathered with their gradients, and every process computes the same loss. The gradient that reaches
a share through the gathering is summed over all ``count`` processes, so it is ``count`` times too
large; DDP then averages over the processes, which gives exactly the gradient of one process with
the whole batch.
"""

from __future__ import annotations

import atexit
import datetime
import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from ztcir_sdk.errors import MissingDependencyError, UsageError, install_hint
from ztcir_sdk.names import AUTOMATIC

Result = TypeVar("Result")

TIMEOUT = datetime.timedelta(hours=12)
"""How long processes wait for one that encodes images or evaluates."""


class _GatherRows(torch.autograd.Function):
    """Concatenates the rows of all processes; the backward pass sums the gradients of its own.

    Every process must give the same number of rows. Only collectives that every backend has are
    used.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)  # (count * b, ...), in the order of the processes

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        first = dist.get_rank() * ctx.count
        return gradient[first : first + ctx.count]


def _leave() -> None:
    """End the connections, whose threads would abort an interpreter that ends before them."""
    if dist.is_initialized():
        dist.destroy_process_group()


class Workers:
    """The processes that ``accelerate launch`` or ``torchrun`` started, or this process alone.

    Attributes:
        count: number of processes; ``rank`` is this one's number, and ``device`` its device.
    """

    def __init__(self, device: str = AUTOMATIC) -> None:
        """Join the other processes, if there are any.

        Args:
            device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".

        Raises:
            MissingDependencyError: there are several processes, but `accelerate` is not installed.
            UsageError: the device does not exist.
        """
        self._accelerator: Any = None
        self.count, self.rank = 1, 0
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            self._accelerator = _accelerator(cpu=device == "cpu")
            self.count = self._accelerator.num_processes
            self.rank = self._accelerator.process_index
            self.device: torch.device = self._accelerator.device
            atexit.register(_leave)
        else:
            self.device = _device(device)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes have arrived here."""
        if self.count > 1:
            self._accelerator.wait_for_everyone()

    def from_main(self, work: Callable[[], Result]) -> Result:
        """Run ``work`` in the main process alone, and return its result in all of them.

        If it fails there, the others end without a message of their own.
        """
        if self.count == 1:
            return work()
        outcome: list[Any] = [None, False]
        try:
            if self.is_main:
                outcome = [work(), True]
        finally:
            dist.broadcast_object_list(outcome, src=0)
        result, done = outcome
        if not done:
            raise SystemExit(1)
        return cast(Result, result)

    def share(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this process's share of a batch.

        Args:
            rows: (B,), the same in every process.

        Returns:
            (ceil(B / count),). The shares of all processes, concatenated, begin with ``rows``; what
            fills the last share repeats the beginning of the batch.
        """
        size = -(-len(rows) // self.count)
        whole = np.resize(rows, size * self.count)
        return whole[self.rank * size : (self.rank + 1) * size]

    def gather(self, rows: Tensor, total: int) -> Tensor:
        """Return the first ``total`` rows of all shares, with their gradients; see `share`."""
        if self.count == 1:
            return rows
        gathered: Tensor = _GatherRows.apply(rows)
        return gathered[:total]

    def collect(self, rows: Tensor) -> list[Tensor]:
        """Return a tensor of every process, all of one shape, without gradients."""
        if self.count == 1:
            return [rows]
        parts = [torch.empty_like(rows) for _ in range(self.count)]
        dist.all_gather(parts, rows.contiguous())
        return parts

    def replicate(self, module: nn.Module) -> nn.Module:
        """Return the module wrapped in DDP, so that a backward pass averages gradients."""
        if self.count == 1 or not any(p.requires_grad for p in module.parameters()):
            return module
        replicated: nn.Module = self._accelerator.prepare_model(module)
        return replicated


def _accelerator(*, cpu: bool) -> Any:
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    except ImportError as error:
        raise MissingDependencyError(
            "Training in several processes needs the package accelerate; install it with "
            f"{install_hint('train')}."
        ) from error
    cpu = cpu or not torch.cuda.is_available()
    return Accelerator(
        cpu=cpu,
        mixed_precision="no",  # `train.loop.precision` casts, in one process as in many
        kwargs_handlers=[
            InitProcessGroupKwargs(backend="gloo" if cpu else "nccl", timeout=TIMEOUT),
            # a model may lack parts, and text blocks may be recomputed
            DistributedDataParallelKwargs(static_graph=True),
        ],
    )


def _device(name: str) -> torch.device:
    if name == AUTOMATIC:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(
            f"Unknown device {name!r}; choose from auto, cpu, cuda or cuda:N."
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"Device {name} does not exist: PyTorch sees {torch.cuda.device_count()} GPUs; "
            "choose from auto or cpu."
        )
    return device
