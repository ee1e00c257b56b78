"""What a run records beside its weights: ``run.json``, ``log.jsonl`` and TensorBoard events."""

from __future__ import annotations

import datetime
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from train.data import TrainingImage
from ztcir_sdk import environment
from ztcir_sdk.environment import peak_memory
from ztcir_sdk.errors import MissingDependencyError, install_hint
from ztcir_sdk.evaluation.triplets import Triplet
from ztcir_sdk.files import write_whole

LOG = "log.jsonl"
SUMMARY = "run.json"
EVENTS = "tensorboard"
TRAINED_WITH = ("torch", "open_clip_torch", "timm", "accelerate", "onnx")


def versions() -> dict[str, str]:
    """Return the versions of the packages that a training result depends on."""
    found = environment.versions()
    for name in TRAINED_WITH:
        version = environment.installed(name)
        if version is not None:
            found[name] = version
    return found


def data_fingerprint(images: Sequence[TrainingImage]) -> dict[str, Any]:
    """Return the size and checksums of a collection.

    ``sha256`` covers ids, captions and attributes; ``pictures`` covers the encoded images.
    """
    return {
        "images": len(images),
        "sha256": _checksum(astuple(image.item) for image in images),
        "pictures": _checksum((image.checksum,) for image in images),
    }


def triplets_fingerprint(triplets: Sequence[Triplet]) -> dict[str, Any]:
    """Return the number of triplets and a checksum of all their fields."""
    return {"triplets": len(triplets), "sha256": _checksum(map(astuple, triplets))}


def _checksum(rows: Iterable[tuple[Any, ...]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


class Cost:
    """Measures a run's speed, expected end and peak memory.

    Args:
        steps: number of steps that this process will take; the caller counts them in ``done``.
        samples: samples per step, over all processes.
        device: if it is a GPU, its peak memory is measured too.
    """

    def __init__(self, steps: int, samples: int, device: torch.device) -> None:
        self.steps, self.samples, self.device = steps, samples, device
        self.done = 0
        self._started = time.monotonic()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @property
    def seconds(self) -> float:
        """Seconds since the start, including evaluations and checkpoints."""
        return time.monotonic() - self._started

    def figures(self) -> dict[str, float]:
        """Return samples per second, and peak memory in MiB of this process and its GPU."""
        figures: dict[str, float] = {
            "samples_per_second": round(self.done * self.samples / max(self.seconds, 1e-9), 1)
        }
        peak = peak_memory()
        if peak is not None:
            figures["peak_memory_mib"] = round(peak / 2**20)
        if self.device.type == "cuda":
            gpu = torch.cuda.max_memory_allocated(self.device)
            figures["peak_gpu_memory_mib"] = round(gpu / 2**20)
        return figures

    def sentence(self) -> str:
        """Return the figures and the expected end for the user."""
        left = self.seconds / max(1, self.done) * (self.steps - self.done)
        end = datetime.datetime.now().astimezone() + datetime.timedelta(seconds=left)
        figures = self.figures()
        parts = [
            f"{figures['samples_per_second']:.0f} samples/s, expected end {end:%Y-%m-%d %H:%M}"
        ]
        for what, key in (("memory", "peak_memory_mib"), ("GPU memory", "peak_gpu_memory_mib")):
            if key in figures:
                parts.append(f"peak {what} {figures[key]:.0f} MiB")
        return ", ".join(parts)


class Log:
    """Writes each step once, as a line of JSON and as TensorBoard scalars.

    Args:
        folder: the run's folder.
        step: step from which the run resumes; what was logged after it is removed, because those
            steps are repeated.
        tensorboard: ``True`` requires TensorBoard, ``None`` uses it where it is installed.

    Raises:
        MissingDependencyError: TensorBoard is required, but not installed.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool | None = None) -> None:
        self._events = _events(folder / EVENTS, step, tensorboard)
        path = folder / LOG
        _remove_after(path, step)
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any], **scalars: float) -> None:
        """Log the figures of ``record["step"]``; ``scalars`` go to TensorBoard alone."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in {**record, **scalars}.items():
                if name != "step":
                    self._events.add_scalar(name, value, record["step"])

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()


def _remove_after(path: Path, step: int) -> None:
    """Remove the lines of later steps, and a line that was not written to its end."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    if len(kept) < len(lines):
        write_whole(path, "".join(kept))


def _events(folder: Path, step: int, wanted: bool | None) -> Any:
    if wanted is False:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        if wanted is None:
            return None
        raise MissingDependencyError(
            f"--tensorboard needs TensorBoard; install it with {install_hint('tensorboard')}."
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1)  # hides events of repeated steps


class Record:
    """``run.json``: written when a run begins, and again when it ends; see `Run`."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        compute: Mapping[str, Any],
        data: Mapping[str, Any],
    ) -> None:
        self.path = folder / SUMMARY
        self._content = {
            "config": dict(config),
            "seed": config["seed"],
            "data": dict(data),
            "compute": dict(compute),
            "machine": {**environment.describe_machine(), "threads": torch.get_num_threads()},
            "versions": versions(),
        }

    @property
    def is_complete(self) -> bool:
        """Whether the folder holds the record of a run that has ended."""
        return "figures" in self._read()

    def changed_data(self) -> list[str]:
        """Return the purposes whose data differ from those that the folder's run began with.

        Image features of another backbone count as other data.
        """
        before, now = self._read().get("data", {}), self._content["data"]
        return sorted(
            name
            for name in before.keys() & now.keys()
            if before[name].get("sha256") != now[name].get("sha256")
            or len({_features_key(data[name]) for data in (before, now)} - {""}) > 1
        )

    def _read(self) -> dict[str, Any]:
        """Return the folder's ``run.json``; empty if there is none or it cannot be read."""
        try:
            content: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content

    def write(self, **outcome: Any) -> None:
        """Replace ``run.json``; with ``outcome`` when the run ends."""
        summary = {**self._content, "date": environment.now(), **outcome}
        write_whole(self.path, json.dumps(summary, indent=2) + "\n")


def _features_key(data: Mapping[str, Any]) -> str:
    """Return the key of the data's image features; empty if they have none."""
    return str(data.get("features", {}).get("key", ""))
