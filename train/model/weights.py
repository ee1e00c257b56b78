"""Weights of a CLIP from files of any common layout, read without running what a file holds.

A file can hold more than weights: options, an optimizer, a whole pickled module. Only tensors are
taken out of it. A class that PyTorch does not load safely is replaced by a stand-in, which does
nothing.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import convert_to_custom_text_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from train.model import lora, transformers_layout
from train.model_names import UnsupportedBackboneError
from ztcir_sdk.errors import first_line

__all__ = [
    "WeightsSource",
    "check_weights",
    "load_adapter",
    "load_weights",
    "needs_quick_gelu",
    "weights_source",
]

FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network")
OTHER_FRAMEWORKS = {
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".onnx": "ONNX",
    ".gguf": "llama.cpp",
    ".ot": "Rust",
}


class _StandIn:
    """Takes the place of an object whose class is not loaded; does nothing."""

    def __init__(self, *args: Any) -> None:
        """Ignore the arguments."""

    def __new__(cls, *args: Any) -> Any:
        """Return an empty mapping in place of a subclass of dict, whose items follow."""
        return OrderedDict() if cls.__name__.lower().endswith("dict") else super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""


# --- files --------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file or folder, by name.

    Raises:
        UnsupportedBackboneError: there are none that can be read safely.
    """
    path = _weights_file(path)
    if path.name.endswith(".index.json"):
        return {k: v for shard in _shards(path) for k, v in _read(shard).items()}
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _unpickle(path)
    except (
        *(OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError),
        *(pickle.UnpicklingError, SafetensorError),
    ) as error:
        raise _damaged(path, error) from error
    return _tensors(content, path)


def _damaged(path: Path, error: Exception) -> UnsupportedBackboneError:
    return UnsupportedBackboneError(
        f"{path} is not a weights file, or is damaged ({first_line(error)}); name a file of "
        "PyTorch weights or safetensors."
    )


def check_weights(path: Path) -> None:
    """Check that a file or folder of weights is there and can be opened, without reading it.

    Raises:
        UnsupportedBackboneError: it is missing, cut short, or of another framework.
    """
    path = _weights_file(path)
    if path.name.endswith(".index.json"):
        for shard in _shards(path):
            check_weights(shard)
        return
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return
        with path.open("rb") as file:
            start = file.read(2)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error
    if start == b"PK" and not zipfile.is_zipfile(path):  # its table of contents is at the end
        raise _damaged(path, EOFError("it is cut short"))


def _shards(path: Path) -> list[Path]:
    """Return the files that an index such as ``model.safetensors.index.json`` names."""
    try:
        names = sorted(set(_read_json(path)["weight_map"].values()))
        return [path.with_name(name) for name in names]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(path, error) from error


def _weights_file(path: Path) -> Path:
    if path.suffix in OTHER_FRAMEWORKS:
        raise UnsupportedBackboneError(
            f"{path} holds weights of {OTHER_FRAMEWORKS[path.suffix]}; convert them to PyTorch, "
            "as safetensors."
        )
    if not path.is_dir():
        return path
    found = next((path / name for name in FILES if (path / name).is_file()), None)
    if found is None:
        raise UnsupportedBackboneError(
            f"The folder {path} holds none of {', '.join(FILES)}; name the weights file itself."
        )
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnsupportedBackboneError(f"{path} cannot be read ({error}).") from error
    return content


def _unpickle(path: Path) -> Any:
    """Load a file of ``torch.save`` with PyTorch's safe unpickler alone."""
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise UnsupportedBackboneError(
                    f"{path} is a TorchScript program, which holds code; save only its weights: "
                    f"torch.save(torch.jit.load({str(path)!r}, map_location='cpu').state_dict(), "
                    "'weights.pt')."
                )
    names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path)) if zipped else []
    stand_ins = [(type(name, (_StandIn,), {}), name) for name in names]
    with torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors of what a file holds: a state dict, alone or in a training checkpoint."""
    if isinstance(content, Mapping):
        found = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        inner = next((content[name] for name in WRAPPERS if _is_state(content.get(name))), None)
        if inner is not None:  # beside an optimizer, options, a step
            return _tensors(inner, path)
        if found:
            return found
    if isinstance(content, _StandIn):
        raise UnsupportedBackboneError(
            f"{path} holds a whole pickled module ({type(content).__name__}), which cannot be "
            "loaded without running its code; where it was trained, save only its weights: "
            f"torch.save(torch.load({str(path)!r}, weights_only=False).state_dict(), 'weights.pt')."
        )
    what = f"only {', '.join(map(str, content))}" if isinstance(content, Mapping) else "no mapping"
    raise UnsupportedBackboneError(
        f"{path} holds {what} and no weights by name; save them with "
        "torch.save(model.state_dict(), 'weights.pt')."
    )


def _is_state(value: Any) -> bool:
    """Return whether a value is a state dict, or a module in place of one."""
    return isinstance(value, (Mapping, _StandIn))


# --- layouts ------------------------------------------------------------------------------------


def _open_clip_state(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return weights under the names of open_clip's CLIP.

    Raises:
        UnsupportedBackboneError: they are of another kind of model, or of an adapter.
    """
    if lora.is_adapter(state):
        raise UnsupportedBackboneError(
            f"{path} holds a LoRA adapter that is not merged; in Python, model.merge_and_unload() "
            "of peft merges it, then save the model's state dict."
        )
    state = _without_prefix(state, path)
    return transformers_layout.to_open_clip(state, path) if _is_transformers(state) else state


def _is_transformers(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(("text_model.", "vision_model.")) for name in state)


def _without_prefix(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Remove the prefix of a CLIP inside another module, such as DDP's or Lightning's."""
    prefixes = {name.removesuffix("logit_scale") for name in state if name.endswith("logit_scale")}
    if not prefixes or "" in prefixes:
        return state
    trained = [p for p in prefixes if not any(k in p for k in ("ema", "teacher", "momentum"))]
    if len(trained) != 1:
        raise UnsupportedBackboneError(
            f"{path} holds several models ({', '.join(sorted(prefixes))}); save the state dict of "
            "one of them."
        )
    start = trained[0]
    return {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}


def needs_quick_gelu(path: Path) -> bool | None:
    """Return whether weights in Transformers' layout need QuickGELU; ``None`` if nothing says so.

    The config.json beside them says so. With the other activation they would run and give wrong
    results.
    """
    config = (path if path.is_dir() else path.parent) / "config.json"
    if not config.is_file():
        return None
    return transformers_layout.needs_quick_gelu(_read_json(config))


def load_weights(clip: Any, path: Path) -> None:
    """Load weights from a file or folder into an open_clip model.

    Layouts: open_clip's, Transformers' ``CLIPModel``, PyTorch Lightning's checkpoints, checkpoints
    of training scripts.

    Raises:
        UnsupportedBackboneError: it holds no weights that can be read, or those of another model.
    """
    _fill(clip, _open_clip_state(_read(path), path), path)


def _fill(clip: Any, state: dict[str, Tensor], path: Path) -> None:
    own = clip.state_dict()
    if "positional_embedding" not in own:
        state = convert_to_custom_text_state_dict(state)
    state = {k: v for k, v in state.items() if k in own or not k.endswith("position_ids")}
    for name in own.keys() & {"logit_scale", "logit_bias"}:  # a number, or a vector of one
        if name in state:
            state[name] = state[name].reshape(own[name].shape)
    missing, foreign = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    differing = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    if not missing and not foreign and not differing:
        clip.load_state_dict(state)
        return
    if differing:
        name = differing[0]
        why = f"{name} has the shape {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
    else:
        name, has = (missing[0], "lack") if missing else (foreign[0], "also hold")
        why = f"they {has} {name}"
    raise UnsupportedBackboneError(
        f"The weights in {path} are of another model ({why}); name the model that they were "
        "trained as."
    )


# --- adapters -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightsSource:
    """Where the weights of a backbone come from.

    Attributes:
        base: a tag of open_clip, or a file or folder of weights; ``None``: random weights.
        adapter: folder of a LoRA adapter that is merged into them.
    """

    base: str | None
    adapter: Path | None = None


def weights_source(model: str, pretrained: str | None) -> WeightsSource:
    """Return what ``pretrained`` names: a tag, a file, a folder, an adapter, or ``BASE+ADAPTER``.

    The weights that an adapter was trained on are found by its ``adapter_config.json``.

    Raises:
        UnsupportedBackboneError: the weights below an adapter are not known.
    """
    if pretrained is None:
        return WeightsSource(None)
    base, _, rest = pretrained.rpartition("+")
    named = Path(pretrained)
    if not named.exists() and base and _adapter_folder(Path(rest)) is not None:
        return WeightsSource(base, _adapter_folder(Path(rest)))
    adapter = _adapter_folder(named)
    if adapter is None:
        return WeightsSource(pretrained)
    trained_on = str(_read_json(adapter / lora.CONFIG).get("base_model_name_or_path") or "")
    found = _base_weights(model, trained_on, adapter)
    if found is None:
        raise UnsupportedBackboneError(
            f"{named} is a LoRA adapter of {trained_on or 'a model that it does not name'}; name "
            f"the weights that it was trained on before it, as in BASE+{named}, with a tag of "
            "open_clip or a weights file as BASE."
        )
    return WeightsSource(found, adapter)


def _adapter_folder(path: Path) -> Path | None:
    folder = path if path.is_dir() else path.parent
    known = path.is_dir() or path.name.startswith("adapter_")
    return folder if known and (folder / lora.CONFIG).is_file() else None


def _base_weights(model: str, trained_on: str, adapter: Path) -> str | None:
    """Return the file or tag of the weights that an adapter names; ``None`` if there is none."""
    for path in (adapter / trained_on, Path(trained_on)):
        if trained_on and path.exists():
            return str(path)
    tags = open_clip.list_pretrained_tags_by_model(model)
    if trained_on.startswith("openai/clip-vit") and "openai" in tags:
        return "openai"
    hubs = {tag: open_clip.get_pretrained_cfg(model, tag).get("hf_hub", "") for tag in tags}
    return next((t for t, hub in hubs.items() if trained_on and hub.strip("/") == trained_on), None)


def load_adapter(clip: Any, folder: Path) -> None:
    """Merge a LoRA adapter of ``peft`` into the weights of an open_clip model.

    Raises:
        UnsupportedBackboneError: it cannot be read, or belongs to another model.
    """
    adapter = _read(folder)
    lora.merge(clip.state_dict(), adapter, _read_json(folder / lora.CONFIG), folder)
