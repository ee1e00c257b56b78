"""Engines on disk: found by what they were made of and for, checked before they are run.

An engine is only right for one graph, precision, TensorRT version and GPU. Its name is made of all
of these, a JSON file beside it repeats them with the checksum, and nothing is handed out that does
not say exactly what is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
from platformdirs import user_cache_path

from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.files import flush_folder, write_whole
from ztcir_sdk.runtime.protocol import TensorSpec
from ztcir_sdk.runtime.source import ShapeRange
from ztcir_sdk.runtime.tensorrt.build import BuiltEngine
from ztcir_sdk.version import __version__

__all__ = ["CACHE_VARIABLE", "EngineCache", "EngineError", "EngineKey", "StoredEngine"]

CACHE_VARIABLE = "ZTCIR_ENGINES"
"""Environment variable: the folder of engines, instead of the one in the user's cache."""
FORMAT = 1


class EngineError(ZtcirError):
    """An engine is missing, stale, damaged, or was built elsewhere."""


@dataclass(frozen=True)
class EngineKey:
    """All that an engine must fit."""

    graph: str
    """Its name."""
    digest: str
    """SHA-256 (hex) of the graph; see `GraphSource`."""
    precision: str
    package: str
    """"tensorrt" or "tensorrt_rtx"."""
    version: str
    """Of that package: engines do not move between versions."""
    architecture: str
    """As "sm_86"."""
    gpu: str = ""
    """The GPU's model, where an engine does not move between models of an architecture."""

    @property
    def stem(self) -> str:
        """File name without suffix."""
        every = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        parts = (self.graph, self.precision, self.architecture, self.package, self.version)
        return f"{'-'.join(parts)}-{every[:12]}"


@dataclass(frozen=True)
class StoredEngine:
    """An engine that fits, as it was read."""

    key: EngineKey
    path: Path
    plan: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ranges: dict[str, ShapeRange]
    seconds: float
    """What building it took."""

    @property
    def kernel_file(self) -> Path:
        """Where the kernels are kept that TensorRT for RTX finished on the GPU."""
        return self.path.with_suffix(".kernels")


class EngineCache:
    """A folder of engines. Any number of processes may use one at the same time."""

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        """Take a folder; by default `$ZTCIR_ENGINES`, else one in the user's cache."""
        chosen = folder or os.environ.get(CACHE_VARIABLE)
        self.folder = Path(chosen) if chosen else user_cache_path("ztcir") / "engines"

    def path(self, key: EngineKey) -> Path:
        """Return where the engine is, or would be."""
        return self.folder / f"{key.stem}.engine"

    def timing_cache(self, key: EngineKey) -> Path:
        """Return the file in which builds for one GPU share what they measured."""
        gpu = hashlib.sha256(key.gpu.encode()).hexdigest()[:8]
        name = f"timing-{key.package}-{key.version}-{key.architecture}-{gpu}.cache"
        return self.folder / name

    def load(self, key: EngineKey) -> StoredEngine:
        """Read an engine and check that it is what is asked for.

        Raises:
            EngineError: it is missing, damaged, or not what its name says.
        """
        path = self.path(key)
        try:
            said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            plan = path.read_bytes()
        except FileNotFoundError:
            raise EngineError(self._missing(key)) from None
        except (OSError, ValueError) as error:
            raise EngineError(_again(f"The engine {path} cannot be read ({error})")) from error
        try:
            return _checked(key, path, said, plan)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineError(
                _again(f"What is said of the engine {path} is damaged ({error})")
            ) from error

    def knows(self, digest: str) -> bool:
        """Return whether there is an engine of a graph, for whatever GPU."""
        return any(key.digest == digest for key in self._keys())

    def store(self, key: EngineKey, built: BuiltEngine) -> StoredEngine:
        """Write an engine; whoever reads meanwhile sees the old one, none, or this one.

        Raises:
            EngineError: the folder cannot be written to.
        """
        path = self.path(key)
        said: dict[str, Any] = {
            "format": FORMAT,
            "key": asdict(key),
            "sha256": hashlib.sha256(built.plan).hexdigest(),
            "bytes": len(built.plan),
            "inputs": [_spec_to_dict(spec) for spec in built.inputs],
            "outputs": [_spec_to_dict(spec) for spec in built.outputs],
            "ranges": {edge: asdict(sizes) for edge, sizes in built.ranges.items()},
            "seconds": round(built.seconds, 3),
            "ztcir": __version__,
        }
        said["seal"] = _seal(said)
        try:
            # What is in it is run: nobody else should be able to put something there.
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(path, built.plan)
            write_whole(path.with_suffix(".json"), json.dumps(said, indent=1).encode())
            if built.timing_cache is not None:
                write_whole(self.timing_cache(key), built.timing_cache)
            flush_folder(self.folder)
        except OSError as error:
            raise EngineError(
                f"The engine {path} cannot be written ({error.strerror or error}): free some "
                f"space, or choose another folder with {CACHE_VARIABLE}."
            ) from error
        return self.load(key)

    @contextlib.contextmanager
    def building(self, key: EngineKey) -> Iterator[None]:
        """Let one process at a time build this engine; the others wait.

        Raises:
            EngineError: the folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = filelock.FileLock(self.folder / f"{key.stem}.lock")
            lock.acquire()
        except OSError as error:
            raise EngineError(
                f"{self.folder} cannot be written to ({error.strerror or error}): choose another "
                f"folder with {CACHE_VARIABLE}."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _missing(self, key: EngineKey) -> str:
        """Say which engines there are of the graph, if there are any."""
        others = [
            other
            for other in self._keys()
            if (other.graph, other.precision) == (key.graph, key.precision)
        ]
        if not others:
            return _again(f"There is no engine of {key.graph} ({key.precision}) in {self.folder}")
        return _again(f"The engine of {key.graph} ({key.precision}) {_difference(others, key)}")

    def _keys(self) -> Iterator[EngineKey]:
        """Yield what the engines here say that they are for."""
        for file in sorted(self.folder.glob("*.json")):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                yield EngineKey(**json.loads(file.read_text(encoding="utf-8"))["key"])


def _difference(others: list[EngineKey], key: EngineKey) -> str:
    """Say what the nearest of some engines was made for instead."""
    wanted = asdict(key)
    nearest = min(others, key=lambda one: sum(asdict(one)[name] != wanted[name] for name in wanted))
    if nearest.digest != key.digest:
        return "is of another bundle"
    made = f"{nearest.package} {nearest.version} for {nearest.gpu or nearest.architecture}"
    here = f"{key.package} {key.version} for {key.gpu or key.architecture}"
    return f"was built by {made}, and here runs {here}"


def _checked(key: EngineKey, path: Path, said: Any, plan: bytes) -> StoredEngine:
    if said["format"] != FORMAT:
        raise EngineError(_again(f"The engine {path} was made by another version of ztcir"))
    if said.pop("seal") != _seal(said):
        raise ValueError("it was changed")
    found = EngineKey(**said["key"])
    if found != key:
        raise EngineError(
            _again(f"The engine {path} is not what its name says: it {_difference([found], key)}")
        )
    if len(plan) != said["bytes"] or hashlib.sha256(plan).hexdigest() != said["sha256"]:
        raise EngineError(_again(f"The engine {path} has a wrong checksum"))
    return StoredEngine(
        key=found,
        path=path,
        plan=plan,
        inputs=tuple(map(_spec_from_dict, said["inputs"])),
        outputs=tuple(map(_spec_from_dict, said["outputs"])),
        ranges={edge: ShapeRange(**sizes) for edge, sizes in said["ranges"].items()},
        seconds=float(said["seconds"]),
    )


def _seal(said: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _spec_to_dict(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}


def _spec_from_dict(values: dict[str, Any]) -> TensorSpec:
    return TensorSpec(values["name"], values["dtype"], tuple(values["shape"]))


def _again(what: str) -> str:
    return f"{what}: `ztcir export --trt` builds it here."
