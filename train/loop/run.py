"""A training run that can be killed at any moment and goes on exactly where it was.

Everything random in a step is drawn from a generator seeded by (seed, step), the learning rate is
a function of the step, and a checkpoint holds weights and optimizer state; so the step number is
the whole of what has to be remembered.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from train.loop.engine import Compute, Engine
from train.loop.record import Cost, Log, Record, versions
from train.model.checkpoint import (
    CheckpointError,
    find_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    read_checkpoint,
    write_checkpoint,
)

__all__ = ["Run", "Schedule", "parameter_groups", "step_generator", "versions"]

STATE = "optimizer"
FIRST_ESTIMATE = 20  # steps after which the cost is first told


def step_generator(seed: int, step: int) -> np.random.Generator:
    """The only source of randomness of one step."""
    return np.random.default_rng([seed, step])


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a cosine to zero.

    Attributes:
        steps: length of the run, in optimizer steps.
        warmup: steps until the peak.
    """

    steps: int
    warmup: int

    def factor(self, step: int) -> float:
        """Multiplier of the peak learning rate at ``step`` (from 0)."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


class Run:
    """Steps, logs, saves and resumes a training run in a folder.

    Args:
        folder: where ``last/``, ``best/``, ``log.jsonl`` and ``run.json`` go.
        config: the run's whole configuration; a run is only resumed under the same one.
        modules: what is saved, by file name; each module's ``state_dict`` whole.
        optimizer: its state is saved beside the weights.
        schedule: learning-rate schedule and length.
        fixed: modules that are not trained but belong to the checkpoint, by file name.
        selected: states of modules that ``best/`` holds in place of their own, by file name.
        save_every: steps between checkpoints.
        engine: what the steps are computed by; one process on the CPU by default.
        data: fingerprints of the data, by what it is for, for ``run.json``; a run is only resumed
            on the data that it began on.
        tensorboard: whether TensorBoard's events are written; ``None``: where it is installed.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        modules: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        fixed: Mapping[str, nn.Module] | None = None,
        selected: Mapping[str, Callable[[], Mapping[str, Tensor]]] | None = None,
        save_every: int = 100,
        engine: Engine | None = None,
        data: Mapping[str, Any] | None = None,
        tensorboard: bool | None = False,
    ) -> None:
        self.folder = folder
        self.engine = engine or Engine(Compute(device="cpu"))
        self.config = {**config, **self.engine.compute.identity()}
        self.record = Record(folder, self.config, self.engine.describe(), data or {})
        self.tensorboard = tensorboard
        self.modules = dict(modules)
        self.optimizer = optimizer
        self.schedule = schedule
        self.fixed = dict(fixed or {})
        self.selected = dict(selected or {})
        self.save_every = save_every
        self.best = -math.inf
        self._best: dict[str, Any] = {}  # its step and all of its figures
        self._peaks = [float(group["lr"]) for group in optimizer.param_groups]

    def _save(self, name: str, step: int, *, with_optimizer: bool) -> None:
        groups: dict[str, Mapping[str, Tensor]] = {
            key: _trained_state(module) for key, module in {**self.modules, **self.fixed}.items()
        }
        progress: dict[str, Any] = {
            "step": step,
            "best": self.best if math.isfinite(self.best) else None,
            **({"best_evaluation": self._best} if self._best else {}),
        }
        if name == "best":
            groups |= {key: state() for key, state in self.selected.items()}
        if with_optimizer:
            groups[STATE] = optimizer_tensors(self.optimizer)
            if self.engine.scaler.is_enabled():
                progress["scaler"] = self.engine.scaler.state_dict()
        write_checkpoint(self.folder / name, {**self.config, "progress": progress}, groups)

    def _resume(self) -> int:
        found = find_checkpoint(self.folder / "last")
        if found is None:
            return 0
        config, tensors = read_checkpoint(found)
        progress = config.pop("progress")
        asked = json.loads(json.dumps(self.config))  # tuples become lists, as in the file
        if config != asked:
            changed = sorted(key for key in {*config, *asked} if config.get(key) != asked.get(key))
            raise CheckpointError(
                f"{self.folder} holds a run with another configuration "
                f"(different: {', '.join(changed)}); name another --out, or delete it."
            )
        if others := self.record.other_data():
            raise CheckpointError(
                f"{self.folder} holds a run on other data (different: {', '.join(others)}); name "
                "another --out, or delete it."
            )
        missing = sorted({*self.modules, STATE} - tensors.keys())
        if missing:
            raise CheckpointError(
                f"The checkpoint {found} has lost {missing[0]}.safetensors; delete the folder "
                f"{self.folder} and train again."
            )
        for key, module in self.modules.items():
            module.load_state_dict(tensors[key], strict=False)
        load_optimizer_tensors(self.optimizer, tensors[STATE])
        if "scaler" in progress:
            self.engine.scaler.load_state_dict(progress["scaler"])
        self.best = -math.inf if progress["best"] is None else float(progress["best"])
        self._best = progress.get("best_evaluation", {})
        return int(progress["step"])

    def train(
        self,
        step: Callable[[int, np.random.Generator], tuple[Tensor, dict[str, float]]],
        *,
        evaluate: Callable[[], dict[str, float]] | None = None,
        select_by: str = "",
        evaluate_every: int = 0,
        from_start: bool = False,
        samples: int = 1,
        stop_after: int | None = None,
    ) -> dict[str, float]:
        """Run to the end of the schedule, from wherever the folder's last checkpoint is.

        Of several processes, all make the steps; the main one alone evaluates, logs and saves.

        Args:
            step: takes the step number and its generator; gives the loss and figures to log.
            evaluate: figures on held-out data; the checkpoint with the highest ``select_by``
                becomes ``best/``.
            evaluate_every: steps between evaluations; one is made at the end in any case.
            from_start: what the run begins with may be the best, too.
            samples: that one step sees, over all processes; for the cost.
            stop_after: stop early at this step, as a kill would (for tests).

        Returns:
            The last evaluation's figures; none in a process that is not the main one.
        """
        workers, total = self.engine.workers, self.schedule.steps
        first = self._resume()
        workers.wait()  # nobody writes while somebody reads
        self.folder.mkdir(parents=True, exist_ok=True)
        figures: dict[str, float] = {}
        if first >= total:  # killed after its last step, or called again
            figures = evaluate() if evaluate is not None and workers.is_main else {}
            if self.record.is_complete:
                return figures
        elif workers.is_main:
            self.record.write()
        seed, cost = int(self.config["seed"]), Cost(total - first, samples, self.engine.device)
        bar = tqdm(
            total=total, initial=first, unit="step", file=sys.stderr, disable=not workers.is_main
        )
        log = Log(self.folder, first, tensorboard=self.tensorboard) if workers.is_main else None
        with contextlib.nullcontext() if log is None else log, bar:
            if from_start and first == 0 and evaluate is not None and workers.is_main:
                self._select(evaluate(), select_by, 0, bar)
            for number in range(first, total):
                for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
                    group["lr"] = peak * self.schedule.factor(number)
                loss, values = step(number, step_generator(seed, number))
                norm = self._descend(number, loss)
                cost.done, done, last = number + 1 - first, number + 1, number + 1 == total
                if log is not None:
                    bar.update()
                    bar.set_postfix(loss=f"{loss.item():.3f}")
                    record: dict[str, Any] = {"step": done, "loss": loss.item(), **values}
                    if math.isfinite(norm):  # in fp16 a step may overflow, and is left out
                        record["gradient_norm"] = norm
                    evaluated = evaluate is not None and (
                        last or (evaluate_every > 0 and done % evaluate_every == 0)
                    )
                    if evaluate is not None and evaluated:
                        figures = evaluate()
                        record.update(figures)
                        self._select(figures, select_by, done, bar)
                    if evaluated or cost.done == FIRST_ESTIMATE:
                        bar.write(cost.sentence(), file=sys.stderr)
                    log.write(record, lr=self.optimizer.param_groups[0]["lr"])
                    if last or done % self.save_every == 0:
                        self._save("last", done, with_optimizer=True)
                if stop_after is not None and done >= stop_after:
                    return figures
        if workers.is_main:
            self.record.write(
                seconds=round(cost.seconds, 1),
                steps_in_this_process=cost.done,
                **cost.figures(),
                figures=figures,
                **({"best": self._best} if self._best else {}),
            )
        workers.wait()
        return figures

    def _select(
        self, figures: Mapping[str, float], select_by: str, step: int, bar: tqdm[Any]
    ) -> None:
        """Tell an evaluation's figures, and keep the weights as ``best/`` if they are."""
        bar.write(f"step {step}: {_readable(figures)}", file=sys.stderr)
        if figures[select_by] > self.best:
            self.best = figures[select_by]
            self._best = {"step": step, "figures": dict(figures)}
            self._save("best", step, with_optimizer=False)

    def _descend(self, number: int, loss: Tensor) -> float:
        """One step down the gradient of a loss, which every process has whole; gives its norm."""
        if not torch.isfinite(loss):
            raise CheckpointError(
                f"The loss became {loss.item()} at step {number}; lower the learning rate."
            )
        scaler = self.engine.scaler
        self.optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(self.optimizer)
        scaler.update()
        return float(norm)


def parameter_groups(
    modules: Sequence[nn.Module | None], lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """AdamW groups of what is trainable; gains, biases and gates are not decayed."""
    trained = [
        p
        for module in modules
        if module is not None
        for p in module.parameters()
        if p.requires_grad
    ]
    return [
        {"params": [p for p in trained if p.ndim > 1], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "lr": lr, "weight_decay": 0.0},
    ]


def _trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers to save: a module may name them itself in ``checkpoint_state``."""
    own = getattr(module, "checkpoint_state", None)
    state: dict[str, Tensor] = own() if callable(own) else module.state_dict()
    return state


def _readable(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
