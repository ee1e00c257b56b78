"""Engines on disk: found by a key, and checked before they run.

An engine fits only one graph, precision, TensorRT version and GPU. These make up its key. Its file
name is derived from the key, and a JSON file beside it holds its metadata: the key, a checksum and
the tensors. An engine is loaded only if its metadata has exactly the requested key.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import Struct

from ztcir_sdk.errors import ZtcirError, reason_of
from ztcir_sdk.files import flush_folder, write_whole
from ztcir_sdk.runtime.protocol import TensorSpec
from ztcir_sdk.runtime.source import ShapeRange
from ztcir_sdk.runtime.tensorrt.build import BuiltEngine
from ztcir_sdk.schema import NaturalNumber, from_json, to_json
from ztcir_sdk.version import __version__

CACHE_VARIABLE = "ZTCIR_ENGINES"
"""Environment variable: the folder of engines, instead of the one in the user's cache."""
FORMAT = 1


class EngineError(ZtcirError):
    """An engine is missing, outdated, corrupt, or was built for another machine."""


class EngineKey(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that an engine must match."""

    graph: str
    """Name of the graph."""
    digest: str
    """SHA-256 (hex) of the graph; see `GraphSource`."""
    precision: str
    package: str
    """"tensorrt" or "tensorrt_rtx"."""
    version: str
    """Version of that package: an engine runs only on the version that built it."""
    architecture: str
    """For example "sm_86"."""
    gpu: str = ""
    """The GPU's model, for engines that run only on the model that they were built for."""

    @property
    def stem(self) -> str:
        """File name without suffix."""
        digest = hashlib.sha256(json.dumps(to_json(self), sort_keys=True).encode()).hexdigest()
        parts = (self.graph, self.precision, self.architecture, self.package, self.version)
        return f"{'-'.join(parts)}-{digest[:12]}"

    @property
    def description(self) -> str:
        """Package, version and GPU, for messages."""
        return f"{self.package} {self.version} for {self.gpu or self.architecture}"


class _Metadata(Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON file beside an engine."""

    format: int
    key: EngineKey
    sha256: str
    """SHA-256 (hex) of the engine."""
    bytes: NaturalNumber
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ranges: Mapping[str, ShapeRange]
    seconds: float
    """How long the build took."""
    ztcir: str
    """Version that wrote it."""
    seal: str = ""
    """SHA-256 (hex) of all other entries."""


@dataclass(frozen=True)
class StoredEngine:
    """An engine that was read from the cache and matches its key."""

    key: EngineKey
    path: Path
    plan: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ranges: Mapping[str, ShapeRange]
    seconds: float
    """How long the build took."""

    @property
    def kernel_file(self) -> Path:
        """File of the kernels that TensorRT for RTX compiled on the GPU."""
        return self.path.with_suffix(".kernels")


class EngineCache:
    """A folder of engines. Any number of processes may use it at the same time."""

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        """Use a folder; by default `$ZTCIR_ENGINES`, else one in the user's cache."""
        chosen = folder or os.environ.get(CACHE_VARIABLE)
        if not chosen:
            from platformdirs import user_cache_path  # rarely needed, so not at import

            chosen = user_cache_path("ztcir") / "engines"
        self.folder = Path(chosen)

    def path(self, key: EngineKey) -> Path:
        """Return the file of an engine, whether it exists or not."""
        return self.folder / f"{key.stem}.engine"

    def timing_cache(self, key: EngineKey) -> Path:
        """Return the file in which builds for one GPU share their kernel timings."""
        gpu = hashlib.sha256(key.gpu.encode()).hexdigest()[:8]
        name = f"timing-{key.package}-{key.version}-{key.architecture}-{gpu}.cache"
        return self.folder / name

    def load(self, key: EngineKey) -> StoredEngine:
        """Read an engine and check that it matches its key.

        Raises:
            EngineError: it is missing, corrupt, or has another key.
        """
        path = self.path(key)
        try:
            values = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            plan = path.read_bytes()
        except FileNotFoundError:
            raise EngineError(self._missing(key)) from None
        except (OSError, ValueError) as error:
            raise EngineError(_rebuild(f"The engine {path} cannot be read ({error})")) from error
        if isinstance(values, dict) and values.get("format", FORMAT) != FORMAT:
            raise EngineError(_rebuild(f"The engine {path} was made by another version of ztcir"))
        try:
            metadata = from_json(values, _Metadata)
            if metadata.seal != _seal(values):
                raise ValueError("its seal does not match")
        except ValueError as error:
            raise EngineError(
                _rebuild(f"The metadata of engine {path} is corrupt ({error})")
            ) from error
        if metadata.key != key:
            difference = _difference(metadata.key, key)
            raise EngineError(
                _rebuild(f"The engine {path} is not the one that its name states: it {difference}")
            )
        if len(plan) != metadata.bytes or hashlib.sha256(plan).hexdigest() != metadata.sha256:
            raise EngineError(_rebuild(f"The engine {path} has a wrong checksum"))
        return StoredEngine(
            key=key,
            path=path,
            plan=plan,
            inputs=metadata.inputs,
            outputs=metadata.outputs,
            ranges=metadata.ranges,
            seconds=metadata.seconds,
        )

    def has_engine_of(self, digest: str) -> bool:
        """Return whether the cache has an engine of a graph, for any GPU."""
        return any(key.digest == digest for key in self._keys())

    def store(self, key: EngineKey, built: BuiltEngine) -> StoredEngine:
        """Write an engine; a concurrent reader gets the old one, none, or this one.

        Raises:
            EngineError: the folder cannot be written to.
        """
        path = self.path(key)
        metadata = _Metadata(
            format=FORMAT,
            key=key,
            sha256=hashlib.sha256(built.plan).hexdigest(),
            bytes=len(built.plan),
            inputs=built.inputs,
            outputs=built.outputs,
            ranges=built.ranges,
            seconds=round(built.seconds, 3),
            ztcir=__version__,
        )
        values = to_json(metadata)
        values["seal"] = _seal(values)
        try:
            # Engines are executed: no other user may be able to put one here.
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(path, built.plan)
            write_whole(path.with_suffix(".json"), json.dumps(values, indent=1))
            if built.timing_cache is not None:
                write_whole(self.timing_cache(key), built.timing_cache)
            flush_folder(self.folder)
        except OSError as error:
            raise EngineError(
                f"The engine {path} cannot be written ({reason_of(error)}): free some "
                f"space, or choose another folder with {CACHE_VARIABLE}."
            ) from error
        return self.load(key)

    @contextlib.contextmanager
    def build_lock(self, key: EngineKey) -> Iterator[None]:
        """Let one process at a time build this engine; the others wait.

        Raises:
            EngineError: the folder cannot be written to.
        """
        import filelock  # only builds need it, so not at import

        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = filelock.FileLock(self.folder / f"{key.stem}.lock")
            lock.acquire()
        except OSError as error:
            raise EngineError(
                f"{self.folder} cannot be written to ({reason_of(error)}): choose another "
                f"folder with {CACHE_VARIABLE}."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _missing(self, key: EngineKey) -> str:
        """Return a sentence that names the nearest engine of the graph, if there is one."""
        graph = f"{key.graph} ({key.precision})"
        others = [
            other
            for other in self._keys()
            if (other.graph, other.precision) == (key.graph, key.precision)
        ]
        if not others:
            return _rebuild(f"There is no engine of {graph} in {self.folder}")
        nearest = min(others, key=lambda one: sum(_differs(one, key)))
        return _rebuild(f"The engine of {graph} {_difference(nearest, key)}")

    def _keys(self) -> Iterator[EngineKey]:
        """Yield the keys of the engines in the folder."""
        for file in sorted(self.folder.glob("*.json")):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                yield from_json(json.loads(file.read_text(encoding="utf-8"))["key"], EngineKey)


def _differs(one: EngineKey, other: EngineKey) -> list[bool]:
    return [getattr(one, name) != getattr(other, name) for name in EngineKey.__struct_fields__]


def _difference(found: EngineKey, key: EngineKey) -> str:
    if found.digest != key.digest:
        return "is of another bundle"
    return f"was built by {found.description}, not by {key.description}"


def _seal(values: Mapping[str, Any]) -> str:
    entries = {name: value for name, value in values.items() if name != "seal"}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _rebuild(problem: str) -> str:
    return f"{problem}: `ztcir export --trt` builds it here."
