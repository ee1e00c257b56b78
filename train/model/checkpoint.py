"""Checkpoints: folders of ``config.json`` and safetensors files, without pickle.

A checkpoint is written beside the one that it replaces and then renamed, so that a kill at any
moment leaves the old one or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ztcir_sdk.bundle.manifest import MANIFEST
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.files import flush_file, folder_whole, standing_folder

__all__ = [
    "CheckpointError",
    "check_files",
    "find_checkpoint",
    "hash_tensors",
    "is_checkpoint",
    "load_optimizer_tensors",
    "optimizer_tensors",
    "read_checkpoint",
    "read_configuration",
    "same_tensors",
    "why_no_checkpoint",
    "write_checkpoint",
]

CONFIG = "config.json"


class CheckpointError(ZtcirError):
    """A checkpoint is missing, damaged, or of another kind than needed."""


def hash_tensors(digest: hashlib._Hash, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Add weights to a checksum: the name and bytes of each, in the given order."""
    for name, tensor in tensors:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().numpy().tobytes())


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor]],
    *,
    same: Mapping[str, Path] | None = None,
) -> None:
    """Write ``config.json`` and one ``<name>.safetensors`` per group; replace ``folder`` whole.

    Args:
        folder: the checkpoint, for example ``runs/map/last``.
        config: JSON values.
        tensors: file name without suffix -> tensors by name.
        same: file name without suffix -> a file that holds these tensors already; see
            `same_tensors`. It gets a second name (a hard link) in place of a second copy, where the
            file system can. The folder is complete in both cases: it can be copied, and the other
            one deleted.

    Raises:
        CheckpointError: it cannot be written; an older checkpoint stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with folder_whole(folder) as fresh:
            for name, group in tensors.items():
                path = fresh / f"{name}.safetensors"
                if same is not None and name in same and _link(same[name], path):
                    continue
                save_file({key: value.detach().contiguous() for key, value in group.items()}, path)
                flush_file(path)
            path = fresh / CONFIG
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            flush_file(path)
    except (OSError, SafetensorError) as error:  # a full disk can be either
        raise CheckpointError(
            f"The checkpoint {folder} could not be written ({error}), and the previous one is "
            "untouched; free some space and resume."
        ) from error


def _link(existing: Path, path: Path) -> bool:
    """Give a file a second name; return whether the file system can."""
    try:
        os.link(existing, path)
    except OSError:  # FAT, some network shares, another disk behind a link, or the file is gone
        return False
    return True


def same_tensors(path: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a safetensors file holds exactly these tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys()) == set(tensors) and all(
                _is_same(file.get_tensor(name), tensor) for name, tensor in tensors.items()
            )
    except (OSError, SafetensorError):
        return False


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other.detach().cpu())


def find_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint at ``folder``, or the one that a killed writer was replacing."""
    found = standing_folder(folder) if folder.name else folder  # "." has no name to add to
    return found if (found / CONFIG).is_file() else None


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Read a checkpoint's configuration and tensors.

    In a run's folder, ``clip`` (a finished backbone) is read, else ``best``, else ``last``.

    Raises:
        CheckpointError: there is no checkpoint, or one of its files cannot be read.
    """
    found, config = _find_and_read(folder)
    try:
        tensors = {path.stem: load_file(path) for path in sorted(found.glob("*.safetensors"))}
    except (OSError, SafetensorError) as error:
        raise _damaged(found, error) from error
    return config, tensors


def read_configuration(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's configuration without its weights; see `read_checkpoint`."""
    return _find_and_read(folder)[1]


def check_files(folder: Path) -> None:
    """Check that a checkpoint's weights can be opened and are not cut short; see `read_checkpoint`.

    Raises:
        CheckpointError: a file is damaged.
    """
    found, _ = _find_and_read(folder)
    for path in sorted(found.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise _damaged(found, error) from error


def is_checkpoint(folder: Path) -> bool:
    """Return whether ``folder`` is a checkpoint, or a run's folder that holds one."""
    return _find_in_run(folder) is not None


def why_no_checkpoint(folder: Path) -> str:
    """Return a sentence that says why ``folder`` is not a checkpoint, and what to do."""
    way_out = "name a checkpoint or run of `ztcir train`."
    if not folder.exists():
        return f"There is no folder {folder}; {way_out}"
    if (folder / MANIFEST).is_file():
        return f"{folder} is an exported bundle, not a checkpoint; {way_out}"
    if (folder / "run.json").is_file():
        return f"The run {folder} has no checkpoint yet; repeat its command to resume it."
    return f"{folder} is not a checkpoint, because it holds no {CONFIG}; {way_out}"


def _find_in_run(folder: Path) -> Path | None:
    candidates = (folder, folder / "clip", folder / "best", folder / "last")
    return next((path for path in map(find_checkpoint, candidates) if path is not None), None)


def _find_and_read(folder: Path) -> tuple[Path, dict[str, Any]]:
    found = _find_in_run(folder)
    if found is None:
        raise CheckpointError(why_no_checkpoint(folder))
    try:
        config = json.loads((found / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"its {CONFIG} is not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(found, error) from error
    return found, config


def _damaged(found: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint {found} cannot be read ({error}); it is damaged, train again."
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's per-parameter state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, entry in state.items()
        for name, value in entry.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state that `optimizer_tensors` returned; hyperparameters stay unchanged."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
