"""What a run leaves beside its weights: ``log.jsonl``, TensorBoard events and one ``run.json``."""

from __future__ import annotations

import datetime
import hashlib
import json
import resource
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from train.data.image import TrainingImage
from ztcir_sdk import environment
from ztcir_sdk.errors import MissingDependencyError
from ztcir_sdk.evaluation.triplets import Triplet
from ztcir_sdk.files import write_whole

__all__ = [
    "Cost",
    "Log",
    "Record",
    "data_fingerprint",
    "triplets_fingerprint",
    "versions",
]

LOG = "log.jsonl"
SUMMARY = "run.json"
EVENTS = "tensorboard"
TRAINED_WITH = ("torch", "open_clip_torch", "timm", "accelerate", "onnx")


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = environment.versions()
    for name in TRAINED_WITH:
        version = environment.installed(name)
        if version is not None:
            found[name] = version
    return found


def data_fingerprint(images: Sequence[TrainingImage]) -> dict[str, Any]:
    """What a collection is: how many images, checksums of what is known of them and of pictures.

    ``sha256`` is of their ids, captions and attributes, ``pictures`` of the encoded pictures.
    """
    return {
        "images": len(images),
        "sha256": _checksum(astuple(one.item) for one in images),
        "pictures": _checksum((one.checksum,) for one in images),
    }


def triplets_fingerprint(triplets: Sequence[Triplet]) -> dict[str, Any]:
    """What is learnt from: how many triplets, and a checksum of all that is in them."""
    return {"triplets": len(triplets), "sha256": _checksum(map(astuple, triplets))}


def _features_key(data: Mapping[str, Any]) -> str:
    """What the image features of some data were made by; empty where there are none."""
    return str(data.get("features", {}).get("key", ""))


def _checksum(rows: Iterable[tuple[Any, ...]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


class Cost:
    """What a run costs while it goes: samples a second, expected end, peak memory.

    Args:
        steps: that this process will make, and samples a step, over all processes.
        device: a GPU's peak memory is reported beside the process's.
    """

    def __init__(self, steps: int, samples: int, device: torch.device) -> None:
        self.steps, self.samples, self.device = steps, samples, device
        self.done = 0
        self._started = time.monotonic()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @property
    def seconds(self) -> float:
        """Since the start, evaluations and checkpoints included."""
        return time.monotonic() - self._started

    def figures(self) -> dict[str, float]:
        """Samples a second, and peak memory in MiB: of this process, and of its GPU's tensors."""
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        figures = {
            "samples_per_second": round(self.done * self.samples / max(self.seconds, 1e-9), 1),
            "peak_memory_mib": round(peak / 2**20),
        }
        if self.device.type == "cuda":
            gpu = torch.cuda.max_memory_allocated(self.device)
            figures["peak_gpu_memory_mib"] = round(gpu / 2**20)
        return figures

    def sentence(self) -> str:
        """For a person, after one step at least."""
        left = self.seconds / max(1, self.done) * (self.steps - self.done)
        end = datetime.datetime.now().astimezone() + datetime.timedelta(seconds=left)
        figures = self.figures()
        gpu = figures.get("peak_gpu_memory_mib")
        return (
            f"{figures['samples_per_second']:.0f} samples/s, ends about {end:%Y-%m-%d %H:%M}, "
            f"peak memory {figures['peak_memory_mib']:.0f} MiB"
            + ("" if gpu is None else f", of the GPU {gpu:.0f} MiB")
        )


class Log:
    """A line of JSON and TensorBoard's scalars for every step, each step once.

    Args:
        folder: the run's.
        step: where the run goes on; what was logged after it is dropped, for it is run again.
        tensorboard: ``True`` needs TensorBoard, ``None`` takes it where it is installed.

    Raises:
        MissingDependencyError: TensorBoard is asked for, and not installed.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool | None = None) -> None:
        self._events = _events(folder / EVENTS, step, tensorboard)
        path = folder / LOG
        _forget_after(path, step)
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any], **scalars: float) -> None:
        """Log one step's figures, with ``step`` among them; ``scalars`` only go to TensorBoard."""
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


def _forget_after(path: Path, step: int) -> None:
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [x for x in lines if x.endswith("\n") and json.loads(x)["step"] <= step]
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
            "TensorBoard's logs need TensorBoard; install the extra `ztcir[tensorboard]`, or leave "
            "out --tensorboard."
        ) from error
    # events of steps that are run again are marked as void
    return SummaryWriter(str(folder), purge_step=step + 1)


class Record:
    """``run.json``: written when a run begins, and again when it ends.

    Args:
        folder: the run's.
        config: its whole configuration, seed included.
        compute: how it is computed.
        data: fingerprints of its data, by what it is for.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        compute: Mapping[str, Any],
        data: Mapping[str, Any],
    ) -> None:
        self.path = folder / SUMMARY
        self._known = {
            "config": dict(config),
            "seed": config["seed"],
            "data": dict(data),
            "compute": dict(compute),
            "machine": {**environment.describe_machine(), "threads": torch.get_num_threads()},
            "versions": versions(),
        }

    @property
    def is_complete(self) -> bool:
        """Whether a run in this folder has ended, and said so."""
        return "figures" in self._told()

    def other_data(self) -> list[str]:
        """What the data are for that the folder's run began on, and that are others now.

        Image features of another backbone, or of a retrained one, are other data as well.
        """
        before, now = self._told().get("data", {}), self._known["data"]
        return sorted(
            name
            for name in before.keys() & now.keys()
            if before[name].get("sha256") != now[name].get("sha256")
            or len({_features_key(one[name]) for one in (before, now)} - {""}) > 1
        )

    def _told(self) -> dict[str, Any]:
        """The folder's ``run.json``; empty where there is none that can be read."""
        try:
            told: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return told

    def write(self, **outcome: Any) -> None:
        """Replace ``run.json``; without an outcome when a run begins, with one when it ends."""
        summary = {**self._known, "date": environment.now(), **outcome}
        write_whole(self.path, json.dumps(summary, indent=2) + "\n")
