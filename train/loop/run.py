"""A training run that can be killed at any moment and resumes exactly where it was.

Everything random in a step is drawn from a generator seeded by (seed, step), the learning rate is
a function of the step, and a checkpoint holds weights and optimizer state; so nothing else but the
step number has to be remembered.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from train.loop.averaging import Average
from train.loop.engine import Engine
from train.loop.record import Cost, Log, Record
from train.model import (
    CheckpointError,
    find_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    read_checkpoint,
    same_tensors,
    write_checkpoint,
)
from train.progress import progress_bar
from train.settings import Compute
from train.word_counts import VOCABULARY_KEY

__all__ = ["Evaluation", "Run", "Schedule", "Step", "Validation", "parameter_groups"]

STATE, AVERAGE = "optimizer", "average"
CHECKPOINT_STEPS = 100  # between two checkpoints
FIRST_ESTIMATE = 20  # steps after which the cost is first printed

Step = Callable[[int, np.random.Generator], tuple[Tensor, dict[str, float]]]
"""Takes the step's number and random generator; returns the loss, and figures to log."""


def step_generator(seed: int, step: int) -> np.random.Generator:
    """Return the only source of randomness of one step."""
    return np.random.default_rng([seed, step])


@dataclass(frozen=True)
class Schedule:
    """Learning-rate schedule: linear warm-up, then a cosine to zero.

    Attributes:
        steps: length of the run, in optimizer steps.
        warmup: steps until the peak.
    """

    steps: int
    warmup: int

    def factor(self, step: int) -> float:
        """Return the multiplier of the peak learning rate at ``step``, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


@dataclass(frozen=True)
class Evaluation:
    """The outcome of one evaluation.

    Attributes:
        figures: measurements on held-out data.
        weights: tensors that ``best/`` holds in place of a module's own, by file name.
    """

    figures: dict[str, float]
    weights: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Validation:
    """How a run is evaluated, and which checkpoint becomes ``best/``.

    Attributes:
        evaluate: measures the current weights.
        select_by: the figure whose highest value selects ``best/``.
        every: steps between evaluations; 0: only after the last step, which is always evaluated.
        at_start: also evaluate before the first step, so that the initial weights can be the best.
    """

    evaluate: Callable[[], Evaluation]
    select_by: str
    every: int = 0
    at_start: bool = False

    def is_due(self, done: int, total: int) -> bool:
        """Return whether to evaluate after ``done`` of ``total`` steps."""
        return done == total or (self.every > 0 and done % self.every == 0)


@dataclass(frozen=True)
class _Journal:
    """What the main process shows and logs while a run goes on."""

    bar: tqdm[Any]
    log: Log
    cost: Cost

    def print(self, line: str) -> None:
        """Print a line above the progress bar."""
        self.bar.write(line, file=sys.stderr)


class Run:
    """Steps, logs, saves and resumes a training run in a folder.

    Args:
        folder: where ``last/``, ``best/``, ``log.jsonl`` and ``run.json`` are written.
        config: the run's whole configuration; a run is only resumed with the same one.
        modules: modules that are trained and saved, by file name.
        optimizer: its state is saved beside the weights.
        schedule: learning-rate schedule and length.
        fixed: modules that are saved but not trained, by file name; ``best/`` and ``last/`` share
            one file of each.
        save_every: steps between checkpoints.
        engine: how steps are computed; by default one process on the CPU.
        data: fingerprints of the data, by purpose, for ``run.json``; a run is only resumed with
            the same data.
        tensorboard: write TensorBoard events; ``None``: where TensorBoard is installed.
        ema: decay of the average of the weights that is evaluated and saved as ``best/``; 0: none.
        clip: norm that gradients are scaled down to; 0: they are not scaled.
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
        save_every: int = CHECKPOINT_STEPS,
        engine: Engine | None = None,
        data: Mapping[str, Any] | None = None,
        tensorboard: bool | None = False,
        ema: float = 0.0,
        clip: float = 1.0,
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
        self.save_every = save_every
        self.best = -math.inf
        self._best: dict[str, Any] = {}  # step and figures of the best evaluation
        self._known: dict[str, tuple[int, ...]] = {}  # identity of the files of `fixed`
        self._average = Average(self.modules, ema) if ema else None
        self._clip = clip or math.inf
        self._peaks = [float(group["lr"]) for group in optimizer.param_groups]

    def train(
        self,
        step: Step,
        validation: Validation | None = None,
        *,
        samples: int = 1,
        stop_after: int | None = None,
        out_of_time: Callable[[], bool] | None = None,
    ) -> dict[str, float]:
        """Run to the end of the schedule, starting from the folder's last checkpoint.

        All processes take the steps; only the main one evaluates, logs and saves.

        Args:
            step: computes the loss of a step.
            validation: how the run is evaluated; ``None``: not at all.
            samples: samples per step, over all processes; for the cost.
            stop_after: stop at this step, as a kill would (for tests).
            out_of_time: asked after each step; if it answers true, the run ends there.

        Returns:
            The figures of the last evaluation; empty in a process that is not the main one.

        Raises:
            CheckpointError: the folder holds another run or a damaged one, a checkpoint cannot be
                written, or the loss is not finite.
        """
        workers, total = self.engine.workers, self.schedule.steps
        first = self._resume()
        workers.wait()  # no process writes while another one reads
        self.folder.mkdir(parents=True, exist_ok=True)
        if not workers.is_main:
            validation = None
        figures: dict[str, float] = {}
        if first >= total:  # the run was killed after its last step, or had ended
            figures = validation.evaluate().figures if validation is not None else {}
            if self.record.is_complete:
                return figures
        cost = Cost(total - first, samples, self.engine.device)
        with self._open_journal(first, cost) as journal:
            if journal is not None and validation is not None and validation.at_start and not first:
                self._evaluate(validation, 0, journal)
            for number in range(first, total):
                record = self._step(step, number)
                cost.done = number + 1 - first
                last = number + 1 == total or (out_of_time is not None and out_of_time())
                if journal is not None:
                    figures = self._report(record, validation, journal, last=last) or figures
                if stop_after is not None and number + 1 >= stop_after:
                    return figures
                if last:
                    break
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

    def _resume(self) -> int:
        """Load the last checkpoint, if there is one; return the number of steps it has taken."""
        found = find_checkpoint(self.folder / "last")
        if found is None:
            return 0
        config, tensors = read_checkpoint(found)
        progress = config.pop("progress")
        asked = json.loads(json.dumps(self.config))  # tuples become lists, as in the file
        config, asked = _without_words(config), _without_words(asked)
        if config != asked:
            self._check_processes(config, asked)
            changed = sorted(key for key in {*config, *asked} if config.get(key) != asked.get(key))
            raise CheckpointError(
                f"{self.folder} holds a run with another configuration "
                f"(different: {', '.join(changed)}); choose another --out, or delete the folder."
            )
        if changed := self.record.changed_data():
            raise CheckpointError(
                f"{self.folder} holds a run on other data (different: {', '.join(changed)}); "
                "choose another --out, or delete the folder."
            )
        averaged = set() if self._average is None else {AVERAGE}
        missing = sorted({*self.modules, STATE, *averaged} - tensors.keys())
        if missing:
            raise CheckpointError(
                f"The checkpoint {found} lacks {missing[0]}.safetensors; delete the folder "
                f"{self.folder} and train again."
            )
        for key, module in self.modules.items():
            module.load_state_dict(tensors[key], strict=False)
        load_optimizer_tensors(self.optimizer, tensors[STATE])
        if self._average is not None:
            self._average.load(tensors[AVERAGE])
        if "scaler" in progress:
            self.engine.scaler.load_state_dict(progress["scaler"])
        self.best = -math.inf if progress["best"] is None else float(progress["best"])
        self._best = progress.get("best_evaluation", {})
        return int(progress["step"])

    def _check_processes(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Raise if a run of a stream is resumed in another number of processes."""
        old, new = (some.get("training", {}).get("processes") for some in (before, now))
        if old and new and old != new:
            raise CheckpointError(
                f"{self.folder} was trained from a stream in {old} processes, which share out its "
                f"shards, and now there are {new}; start {old} to resume it, or choose another "
                "--out."
            )

    @contextlib.contextmanager
    def _open_journal(self, first: int, cost: Cost) -> Iterator[_Journal | None]:
        """Open the main process's progress bar and log; ``None`` in the other processes."""
        if not self.engine.workers.is_main:
            yield None
            return
        total = self.schedule.steps
        if first < total:
            self.record.write()
        log = Log(self.folder, first, tensorboard=self.tensorboard)
        with log, progress_bar(total=total, initial=first, unit="step") as bar:
            yield _Journal(bar, log, cost)

    def _step(self, step: Step, number: int) -> dict[str, Any]:
        """Take one step down the gradient; return what the log records about it."""
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * self.schedule.factor(number)
        loss, values = step(number, step_generator(int(self.config["seed"]), number))
        if not torch.isfinite(loss):
            raise CheckpointError(
                f"The loss became {loss.item()} at step {number}; lower the learning rate."
            )
        scaler = self.engine.scaler
        self.optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(parameters, self._clip))
        scaler.step(self.optimizer)
        if self._average is not None:
            self._average.update(number)
        scaler.update()
        record = {"step": number + 1, "loss": loss.item(), **values}
        # in fp16 a gradient may overflow, and the scaler skips the step
        return {**record, "gradient_norm": norm} if math.isfinite(norm) else record

    def _report(
        self,
        record: dict[str, Any],
        validation: Validation | None,
        journal: _Journal,
        *,
        last: bool,
    ) -> dict[str, float]:
        """Show, evaluate, log and save a step; return the figures of its evaluation, if any."""
        done, total, figures = record["step"], self.schedule.steps, {}
        journal.bar.update()
        journal.bar.set_postfix(loss=f"{record['loss']:.3f}")
        if validation is not None and (last or validation.is_due(done, total)):
            figures = self._evaluate(validation, done, journal)
        if figures or journal.cost.done == FIRST_ESTIMATE:
            journal.print(journal.cost.sentence())
        journal.log.write({**record, **figures}, lr=self.optimizer.param_groups[0]["lr"])
        if last or done % self.save_every == 0:
            scaler = self.engine.scaler
            state = {"scaler": scaler.state_dict()} if scaler.is_enabled() else {}
            beside = {STATE: optimizer_tensors(self.optimizer)}
            if self._average is not None:
                beside[AVERAGE] = self._average.tensors
            self._save("last", done, beside, **state)
        return figures

    def _evaluate(self, validation: Validation, step: int, journal: _Journal) -> dict[str, float]:
        """Print an evaluation's figures, and save its weights as ``best/`` if they are the best."""
        with contextlib.nullcontext() if self._average is None else self._average.applied():
            return self._evaluate_current(validation, step, journal)

    def _evaluate_current(
        self, validation: Validation, step: int, journal: _Journal
    ) -> dict[str, float]:
        evaluation = validation.evaluate()
        figures = evaluation.figures
        readable = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        journal.print(f"step {step}: {readable}")
        if figures[validation.select_by] > self.best:
            self.best = figures[validation.select_by]
            self._best = {"step": step, "figures": dict(figures)}
            self._save("best", step, evaluation.weights)
        return figures

    def _save(
        self, name: str, step: int, tensors: Mapping[str, Mapping[str, Tensor]], **more: Any
    ) -> None:
        """Write a checkpoint; ``tensors`` are added to the modules' own, or replace them."""
        states = {
            key: _trained_state(module) for key, module in {**self.modules, **self.fixed}.items()
        }
        progress: dict[str, Any] = {
            "step": step,
            "best": self.best if math.isfinite(self.best) else None,
            **({"best_evaluation": self._best} if self._best else {}),
            **more,
        }
        write_checkpoint(
            self.folder / name,
            {**self.config, "progress": progress},
            {**states, **tensors},
            same=self._same({key: states[key] for key in self.fixed if key not in tensors}),
        )
        for key in self.fixed:
            if key not in tensors:
                self._known[key] = _identity(self.folder / name / f"{key}.safetensors")

    def _same(self, fixed: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Path]:
        """Return the files of this run's checkpoints that hold modules which are not trained.

        A file that this process has written or compared before is not read again.
        """
        found: dict[str, Path] = {}
        for key, tensors in fixed.items():
            for checkpoint in map(find_checkpoint, (self.folder / "last", self.folder / "best")):
                file = None if checkpoint is None else checkpoint / f"{key}.safetensors"
                if file is None or not file.is_file():
                    continue
                if self._known.get(key) == _identity(file) or same_tensors(file, tensors):
                    found[key] = file
                    break
        return found


def parameter_groups(
    modules: Sequence[nn.Module | None], lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return AdamW's groups of the trainable parameters; gains, biases and gates do not decay."""
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


def _identity(file: Path) -> tuple[int, ...]:
    """Return what tells a file apart from another one, or from another version of itself."""
    status = file.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _without_words(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without the vocabulary, which follows from the data."""
    training = {k: v for k, v in config.get("training", {}).items() if k != VOCABULARY_KEY}
    return {**config, **({"training": training} if "training" in config else {})}


def _trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Return what to save of a module: its ``checkpoint_state()`` if it has one, else all."""
    own = getattr(module, "checkpoint_state", None)
    state: dict[str, Tensor] = own() if callable(own) else module.state_dict()
    return state
