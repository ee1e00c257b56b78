"""The bundle: one folder that holds all a device needs to encode pictures and queries.

It is written once, as a whole, and never changed. Every file but the manifest is hashed in the
manifest, so a bundle that was cut short or altered on its way is refused.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from ztcir_sdk.bundle.manifest import (
    FORMAT,
    MANIFEST,
    REFERENCE_TENSORS,
    Dimensions,
    FileRecord,
    GraphVariant,
    Manifest,
    Placeholder,
    Precision,
    TextLayout,
    check_file_name,
)
from ztcir_sdk.errors import BundleError, UsageError, ZtcirError
from ztcir_sdk.files import finish_swap, folder_whole, hash_file, standing_folder
from ztcir_sdk.names import PLACEHOLDER_ID
from ztcir_sdk.preprocess import Preprocessing
from ztcir_sdk.runtime.protocol import TensorSpec
from ztcir_sdk.version import __version__

__all__ = [
    "DEFAULT_BUNDLE",
    "FORMAT",
    "MANIFEST",
    "REFERENCE_TENSORS",
    "Bundle",
    "Dimensions",
    "FileRecord",
    "GraphVariant",
    "Manifest",
    "Placeholder",
    "Precision",
    "Preprocessing",
    "TensorSpec",
    "TextLayout",
    "embedded_names",
]

DEFAULT_BUNDLE = "fashion-lite"
"""The bundle inside the package that is used where none is named."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk; use `load`, `embedded` or `write`.

    Attributes:
        path: its folder, absolute.
        manifest: what ``bundle.json`` says.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
        """Read a bundle's manifest and check its files.

        Args:
            path: the folder.
            verify: check every file's size and SHA-256; otherwise only that it is there.

        Raises:
            BundleError: it is no bundle, is incomplete or altered, or was made by a newer ztcir.
        """
        folder = standing_folder(Path(path).absolute())
        bundle = cls(folder, _read_manifest(folder))
        for file, record in bundle.manifest.files.items():
            _check_file(folder, file, record, verify=verify)
        return bundle

    @classmethod
    def embedded(cls, name: str = DEFAULT_BUNDLE, *, verify: bool = True) -> Bundle:
        """Load a bundle that came inside the package; `embedded_names` says which there are.

        Raises:
            UsageError: there is none of that name.
            BundleError: the installation holds no bundle at all, or it is altered.
        """
        names = embedded_names()
        if name in names:
            return cls.load(_embedded_folder() / name, verify=verify)
        if not names:
            raise BundleError(
                f"This installation of ztcir holds no bundle, so there is no {name!r}: "
                "reinstall ztcir from a wheel, or name a folder that `ztcir export` wrote."
            )
        raise UsageError(
            f"There is no embedded bundle {name!r}, only {', '.join(names)}: "
            "name one of these, or give the folder of a bundle to Retriever."
        )

    @classmethod
    def write(
        cls,
        folder: str | os.PathLike[str],
        *,
        files: Mapping[str, str | os.PathLike[str] | bytes],
        name: str,
        model_card: Mapping[str, Any],
        methods: Sequence[str],
        prompts: Mapping[str, str],
        text: TextLayout,
        preprocessing: Preprocessing,
        dimensions: Dimensions,
        graphs: Mapping[str, Mapping[str, GraphVariant]],
        image_tower: str,
        precisions: Mapping[str, Precision] | None = None,
        placeholder: Placeholder | None = None,
        tokenizer: str = "tokenizer.json",
        created: str | None = None,
        overwrite: bool = False,
    ) -> Bundle:
        """Make a bundle: aside, hashed and flushed to disk, then renamed into place as a whole.

        A failure leaves nothing behind; a kill, at worst, a hidden folder that the next call
        removes, and a bundle that was being replaced still loads.

        Args:
            folder: what to make. A folder that is no bundle is only taken if it is empty.
            files: every file of the bundle, by its name there -> its content, or where to copy it
                from. Their checksums are computed.
            overwrite: replace a bundle that is there, with everything in its folder.
            created: ISO 8601 with offset; now, by default.
            name, model_card, methods, prompts, text, preprocessing, dimensions, graphs,
            image_tower, precisions, placeholder, tokenizer: see `Manifest`.

        Raises:
            UsageError: `folder` is a bundle and `overwrite` is false, or is something else.
            BundleError: the entries contradict each other, or a file cannot be read or written.
        """
        target = Path(folder).resolve()
        for file in files:
            check_file_name("files", file)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            finish_swap(target)
            require_free(target, overwrite=overwrite)
            with folder_whole(target) as fresh:
                manifest = Manifest(
                    format=FORMAT,
                    name=name,
                    ztcir=__version__,
                    created=created or _now(),
                    model_card=model_card,
                    methods=tuple(methods),
                    prompts=dict(prompts),
                    placeholder=placeholder or Placeholder(PLACEHOLDER_ID, 1),
                    text=text,
                    preprocessing=preprocessing,
                    dimensions=dimensions,
                    tokenizer=tokenizer,
                    graphs=graphs,
                    image_tower=image_tower,
                    precisions=precisions or {},
                    files={file: _store(fresh, file, source) for file, source in files.items()},
                )
                manifest = Manifest.from_dict(manifest.to_dict())  # checks the types as well
                serialized = json.dumps(manifest.to_dict(), indent=1, ensure_ascii=False) + "\n"
                _store(fresh, MANIFEST, serialized.encode())
                cls.load(fresh)  # what was written is what will be read
        except OSError as error:
            raise BundleError(
                f"The bundle {target} cannot be written ({error}): free some space, or choose "
                "another place."
            ) from error
        return cls(target, manifest)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that the manifest says, and so of every file."""
        canonical = json.dumps(self.manifest.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def name(self) -> str:
        """What it is called."""
        return self.manifest.name

    @property
    def tokenizer_path(self) -> Path:
        """File of the tokenizer."""
        return self.path / self.manifest.tokenizer

    @property
    def methods(self) -> tuple[str, ...]:
        """Ways to answer a query that it can do, of `METHODS`."""
        return self.manifest.methods

    @property
    def precisions(self) -> tuple[str, ...]:
        """What may be asked for: fp32 first if it is there, the others as the export wrote them."""
        if not (names := list(self.manifest.precisions)):
            first, *others = self.manifest.graphs.values()
            names = [name for name in first if all(name in variants for variants in others)]
        return tuple(sorted(names, key=lambda name: name != "fp32"))

    def variant(self, graph: str, precision: str | None = None) -> GraphVariant:
        """Return what a graph runs in when a precision is asked for.

        Where the manifest's `precisions` say so, that is a variant of another precision.

        Args:
            graph: of `GRAPHS`.
            precision: of `precisions`; by default fp32 if there is one, else the first.

        Raises:
            ZtcirError: the bundle lacks the graph, or lacks it in this precision.
        """
        variants = self.manifest.graphs.get(graph)
        if variants is None:
            raise ZtcirError(f"The bundle {self.name} has no {graph}: export one that has.")
        if precision is None:
            return variants.get("fp32") or next(iter(variants.values()))
        if (record := self.manifest.precisions.get(precision)) is not None:
            return variants[record.graphs[graph]]
        if precision not in variants:
            raise ZtcirError(
                f"The bundle {self.name} has its {graph} in {', '.join(variants)}, not in "
                f"{precision}: choose one of these, or export it."
            )
        return variants[precision]

    def sha256(self, variant: GraphVariant) -> str:
        """Return the SHA-256 (hex) of a graph's file, as the manifest has it."""
        return self.manifest.files[variant.file].sha256

    def file(self, variant: GraphVariant) -> Path:
        """Return the path of a graph's file."""
        return self.path / variant.file


def embedded_names() -> list[str]:
    """Return the names of the bundles inside the package, in order."""
    return sorted(manifest.parent.name for manifest in _embedded_folder().glob(f"*/{MANIFEST}"))


def _embedded_folder() -> Path:
    # A real folder in every installation: engines open graphs by path, so a zip would not do.
    return Path(str(resources.files("ztcir_sdk"))) / "bundles"


def _read_manifest(folder: Path) -> Manifest:
    file = folder / MANIFEST
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        what = "is not a bundle, since it has no bundle.json" if folder.is_dir() else "is no bundle"
        what = what if folder.exists() else "does not exist"
        raise BundleError(f"{folder} {what}: name a folder that `ztcir export` wrote.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{file} cannot be read ({error}): export or copy the bundle again."
        ) from error
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{file} is damaged ({error}): export or copy the bundle again."
        ) from error
    try:
        return Manifest.from_dict(values)
    except BundleError as error:
        raise BundleError(f"{file}: {error}") from error


def _check_file(folder: Path, file: str, record: FileRecord, *, verify: bool) -> None:
    again = "export or copy the bundle again"
    path = folder / file
    try:
        size = path.stat().st_size
        if size != record.bytes:
            raise BundleError(
                f"{file} of the bundle {folder} has {size} bytes, not {record.bytes}: {again}."
            )
        if verify and hash_file(path) != record.sha256:
            raise BundleError(f"{file} of the bundle {folder} has a wrong checksum: {again}.")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(f"{file} of the bundle {folder} is missing: {again}.") from error
    except OSError as error:
        raise BundleError(
            f"{file} of the bundle {folder} cannot be read ({error.strerror}): {again}."
        ) from error


def _store(folder: Path, file: str, source: str | os.PathLike[str] | bytes) -> FileRecord:
    """Write or copy a file, flushed to the disk itself, and return its record."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as stream:
        if isinstance(source, bytes):
            stream.write(source)
        else:
            if not Path(source).is_file():
                raise BundleError(f"{source}, which is to become {file}, is missing: check it.")
            with Path(source).open("rb") as original:
                shutil.copyfileobj(original, stream, 1 << 20)
        stream.flush()
        os.fsync(stream.fileno())
    return FileRecord(hash_file(path), path.stat().st_size)


def require_free(folder: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Refuse a place that `Bundle.write` would refuse.

    Raises:
        UsageError: it is a bundle and `overwrite` is false, or is something else.
    """
    target = Path(folder).resolve()
    if (target / MANIFEST).exists():
        if not overwrite:
            raise UsageError(
                f"{target} is a bundle already: choose another place, or say that it is to be "
                "overwritten."
            )
    elif target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(
            f"{target} exists and is no bundle: choose another place, so that nothing is lost."
        )


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
