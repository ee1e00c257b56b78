"""An exponential moving average of the trained weights (EMA; Tarvainen and Valpola 2017)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

__all__ = ["Average"]


class Average:
    """The average of the weights that are trained; it can take their place for a while.

    Args:
        modules: by name; only parameters that need a gradient are averaged.
        decay: share of the average that a step keeps, below 1. In the first steps it is less, so
            that the average soon forgets the initial weights.
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        self.decay = decay
        self._trained = {
            f"{key}.{name}": parameter
            for key, module in modules.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self.tensors: dict[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in self._trained.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after a step, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        own = list(self.tensors.values())
        torch._foreach_lerp_(own, [one.detach() for one in self._trained.values()], 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the modules have the average as their weights."""
        before = {name: parameter.data for name, parameter in self._trained.items()}
        try:
            for name, parameter in self._trained.items():
                parameter.data = self.tensors[name]
            yield
        finally:
            for name, parameter in self._trained.items():
                parameter.data = before[name]

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the average that a checkpoint holds."""
        for name, own in self.tensors.items():
            own.copy_(tensors[name])
