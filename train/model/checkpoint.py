"""Checkpoints: a folder of ``config.json`` and safetensors, replaced as a whole, resumable.

Nothing is pickled. A checkpoint is written beside the one it replaces and renamed into its place,
so that a kill at any moment leaves the old one or the new one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.files import flush_file, folder_whole, standing_folder

__all__ = [
    "CheckpointError",
    "find_checkpoint",
    "hash_tensors",
    "read_checkpoint",
    "read_configuration",
    "write_checkpoint",
]

CONFIG = "config.json"


class CheckpointError(ZtcirError):
    """A checkpoint is missing, incomplete, or of another kind than what was asked for."""


def hash_tensors(digest: hashlib._Hash, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Add weights to a checksum: name and bytes of each, in the order they come in."""
    for name, tensor in tensors:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().numpy().tobytes())


def write_checkpoint(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Write ``config.json`` and one ``<name>.safetensors`` a group, then swap them into place.

    Args:
        folder: the checkpoint, for example ``runs/map/last``; replaced whole if it exists.
        config: anything JSON can hold.
        tensors: file name without suffix -> tensors by name.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with folder_whole(folder) as fresh:
            for name, group in tensors.items():
                path = fresh / f"{name}.safetensors"
                save_file({key: value.detach().contiguous() for key, value in group.items()}, path)
                flush_file(path)
            path = fresh / CONFIG
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            flush_file(path)
    except (OSError, SafetensorError) as error:  # the latter where save_file finds the disk full
        raise CheckpointError(
            f"The checkpoint {folder} could not be written ({error}); "
            "the one before it is untouched. Free some space and resume."
        ) from error


def find_checkpoint(folder: Path) -> Path | None:
    """The checkpoint at ``folder``, or the one it was replacing when the writer was killed."""
    found = standing_folder(folder) if folder.name else folder  # "." has no name to add to
    return found if (found / CONFIG).is_file() else None


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Read what `write_checkpoint` wrote.

    A run's folder stands for its ``clip`` (a finished backbone), else ``best``, else ``last``.

    Raises:
        CheckpointError: there is none, or a file of it cannot be read.
    """
    found, config = _find_and_read(folder)
    try:
        tensors = {path.stem: load_file(path) for path in sorted(found.glob("*.safetensors"))}
    except (OSError, SafetensorError) as error:
        raise _damaged(found, error) from error
    return config, tensors


def read_configuration(folder: Path) -> dict[str, Any]:
    """Read what a checkpoint says of itself, and none of its weights; see `read_checkpoint`."""
    return _find_and_read(folder)[1]


def _find_and_read(folder: Path) -> tuple[Path, dict[str, Any]]:
    candidates = (folder, folder / "clip", folder / "best", folder / "last")
    found = next((path for path in map(find_checkpoint, candidates) if path is not None), None)
    if found is None:
        raise CheckpointError(
            f"{folder} is no checkpoint: no {CONFIG} in it. Name a folder that `ztcir train` wrote."
        )
    try:
        return found, json.loads((found / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(found, error) from error


def _damaged(found: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint {found} cannot be read ({error}); it is damaged, train it again."
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten an optimizer's per-parameter state to named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, entry in state.items()
        for name, value in entry.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave; hyperparameters stay the optimizer's own."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    whole = optimizer.state_dict()
    whole["state"] = state
    optimizer.load_state_dict(whole)
