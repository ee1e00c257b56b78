"""The bundle: one folder with everything that a device needs to encode images and queries.

It is written once, as a whole, and never changed. The manifest has a checksum of every other file,
so a bundle that is incomplete or altered is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from ztcir_sdk.bundle.external_data import check_external_data
from ztcir_sdk.bundle.limits import MANIFEST_BYTES
from ztcir_sdk.bundle.manifest import (
    FORMAT,
    MANIFEST,
    TOKENIZER,
    DefaultAnswer,
    Dimensions,
    FileRecord,
    GraphVariant,
    Manifest,
    Placeholder,
    Precision,
    Prototypes,
    TextLayout,
    check_file_name,
)
from ztcir_sdk.environment import now
from ztcir_sdk.errors import EXPORT_AGAIN, BundleError, UsageError, ZtcirError
from ztcir_sdk.files import finish_swap, folder_whole, hash_file, read_bounded, standing_folder
from ztcir_sdk.modification.vocabulary import Vocabulary
from ztcir_sdk.names import DEFAULT_BUNDLE, DEFAULT_METHOD, DEFAULT_WEIGHT, PLACEHOLDER_ID
from ztcir_sdk.preprocess import Preprocessing
from ztcir_sdk.runtime.start_cache import RememberedChecks, identity
from ztcir_sdk.version import __version__

DEFAULT_ON_CPU = "default_on_cpu"
"""Entry of a precision's check: whether a processor uses it if no other is asked for."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk; use `load`, `embedded` or `write`.

    Attributes:
        path: absolute path of its folder.
        manifest: the contents of ``bundle.json``.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, verify: bool = True, anew: bool = False
    ) -> Bundle:
        """Read a bundle's manifest and check its files.

        Args:
            path: folder of the bundle.
            verify: whether to check the SHA-256 of every file; existence and size always are. A
                file is read once and not at every start, as long as its size, times and inode stay
                the same; see `ztcir_sdk.runtime.start_cache`.
            anew: whether to read every file, whatever is remembered.

        Raises:
            BundleError: it is not a bundle, is incomplete or altered, or needs a newer ztcir.
        """
        folder = standing_folder(Path(path).absolute())
        bundle = cls(folder, read_manifest(folder))
        checks = RememberedChecks(folder, bundle.fingerprint) if verify and not anew else None
        graphs = {one.file for own in bundle.manifest.graphs.values() for one in own.values()}
        for file, record in bundle.manifest.files.items():
            path = folder / file
            _check_file(folder, file, record)
            with _unreadable_as_error(folder, file):
                if not verify or (checks and checks.is_known(file, identity(path), record.sha256)):
                    continue
                same = (
                    checks.has_checksum(path, file, record.sha256)
                    if checks
                    else (hash_file(path) == record.sha256)
                )
            if not same:
                raise BundleError(
                    f"{file} of the bundle {folder} has a wrong checksum: {EXPORT_AGAIN}."
                )
            if file in graphs:
                check_external_data(path, bundle._listed_beside(file))
        if checks is not None:
            checks.save()
        return bundle

    def _listed_beside(self, graph: str) -> set[str]:
        """Return the names of the manifest's files, relative to a graph's folder."""
        beside = PurePosixPath(graph).parent
        return {
            PurePosixPath(file).relative_to(beside).as_posix()
            for file in self.manifest.files
            if PurePosixPath(file).is_relative_to(beside)
        }

    @classmethod
    def embedded(
        cls, name: str = DEFAULT_BUNDLE, *, verify: bool = True, anew: bool = False
    ) -> Bundle:
        """Load a bundle that is part of the package; `embedded_names` lists them.

        Raises:
            UsageError: there is no embedded bundle of that name.
            BundleError: the installation has no bundles, or the bundle is altered.
        """
        names = embedded_names()
        if name in names:
            return cls.load(_embedded_folder() / name, verify=verify, anew=anew)
        if not names:
            raise BundleError(
                f"This installation of ztcir has no embedded bundles, so also no {name!r}: "
                "reinstall ztcir from a wheel, or give a folder that `ztcir export` wrote."
            )
        raise UsageError(
            f"There is no embedded bundle {name!r}: choose from {', '.join(names)}, or give the "
            "folder of a bundle to Retriever."
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
        tokenizer: str = TOKENIZER,
        vocabulary: str | None = None,
        neutral_text: str | None = None,
        neutral_strength: float | None = None,
        attribute_words: Sequence[str] = (),
        detail_words: Sequence[str] = (),
        detail_weight: float | None = None,
        prototypes: Prototypes | None = None,
        default: DefaultAnswer | None = None,
        created: str | None = None,
        overwrite: bool = False,
    ) -> Bundle:
        """Write a bundle to a temporary folder, flush it to disk, and rename it as a whole.

        A failure leaves nothing behind. A killed process may leave a hidden folder, which the next
        call removes; a bundle that was being replaced still loads. Arguments that are not listed
        are entries of `Manifest`.

        Args:
            folder: folder of the bundle. One that is not a bundle must be empty.
            files: file name in the bundle -> its content, or the path to copy it from.
            overwrite: whether to replace an existing bundle, with everything in its folder.
            created: ISO 8601 time with offset; by default now.

        Raises:
            UsageError: `folder` is a bundle and `overwrite` is false, or it has other contents.
            BundleError: the entries contradict each other, or a file cannot be read or written.
        """
        target = Path(folder).resolve()
        for file in files:
            check_file_name("files", file)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            finish_swap(target)
            check_target(target, overwrite=overwrite)
            with folder_whole(target) as fresh:
                manifest = Manifest(
                    format=FORMAT,
                    name=name,
                    ztcir=__version__,
                    created=created or now(),
                    model_card=model_card,
                    methods=tuple(methods),
                    prompts=dict(prompts),
                    placeholder=placeholder or Placeholder(PLACEHOLDER_ID, 1),
                    text=text,
                    preprocessing=preprocessing,
                    dimensions=dimensions,
                    tokenizer=tokenizer,
                    vocabulary=vocabulary,
                    neutral_text=neutral_text,
                    neutral_strength=neutral_strength,
                    attribute_words=tuple(attribute_words),
                    detail_words=tuple(detail_words),
                    detail_weight=detail_weight,
                    prototypes=prototypes,
                    default=default,
                    graphs=graphs,
                    image_tower=image_tower,
                    precisions=precisions or {},
                    files={file: _store(fresh, file, source) for file, source in files.items()},
                )
                manifest = Manifest.from_dict(manifest.to_dict())  # checks the types as well
                serialized = json.dumps(manifest.to_dict(), indent=1, ensure_ascii=False) + "\n"
                _store(fresh, MANIFEST, serialized.encode())
                cls.load(fresh, anew=True)  # checks what was written
        except OSError as error:
            raise BundleError(
                f"The bundle {target} cannot be written ({error}): free some space, or choose "
                "another folder."
            ) from error
        return cls(target, manifest)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the manifest, which has the checksum of every file."""
        canonical = json.dumps(self.manifest.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def name(self) -> str:
        """What it is called."""
        return self.manifest.name

    @property
    def tokenizer_path(self) -> Path:
        """Path of the tokenizer's file."""
        return self.path / self.manifest.tokenizer

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """The words that the model was trained on; None if the bundle does not record them.

        Raises:
            BundleError: the file cannot be read.
        """
        file = self.manifest.vocabulary
        if file is None:
            return None
        try:
            content = (self.path / file).read_bytes()
            return Vocabulary.from_bytes(content, self.manifest.attribute_words)
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(
                f"{file} of the bundle {self.path} cannot be read ({error}): export or copy the "
                "bundle again."
            ) from error

    @property
    def methods(self) -> tuple[str, ...]:
        """Search methods that it supports, some of `METHODS`."""
        return self.manifest.methods

    @property
    def default_method(self) -> str:
        """Search method where a search names none: "composed", unless the bundle says otherwise."""
        default = self.manifest.default
        return DEFAULT_METHOD if default is None else default.method

    @property
    def sum_weight(self) -> float:
        """Weight of the text in method "sum" where a search gives none."""
        default = self.manifest.default
        weight = None if default is None else default.weight
        return DEFAULT_WEIGHT if weight is None else weight

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions that can be requested: fp32 first, the others in the export's order."""
        if not (names := list(self.manifest.precisions)):
            first, *others = self.manifest.graphs.values()
            names = [name for name in first if all(name in variants for variants in others)]
        return tuple(sorted(names, key=lambda name: name != "fp32"))

    @property
    def cpu_precision(self) -> str | None:
        """The precision for a processor if none is asked for; None: that of `variant`.

        It is int8 if the export measured that its answers stay the same and that it is faster.
        """
        record = self.manifest.precisions.get("int8")
        if record is None or record.check is None:
            return None
        return "int8" if record.check.get(DEFAULT_ON_CPU) is True else None

    def variant(self, graph: str, precision: str | None = None) -> GraphVariant:
        """Return the variant in which a graph runs for a requested precision.

        It may have another precision, if the manifest's `precisions` say so.

        Args:
            graph: one of `GRAPHS`.
            precision: one of `precisions`; by default fp32 if there is one, else the first.

        Raises:
            ZtcirError: the bundle does not have the graph, or not in this precision.
        """
        variants = self.manifest.graphs.get(graph)
        if variants is None:
            raise ZtcirError(f"The bundle {self.name} has no {graph}: export a bundle with one.")
        if precision is None:
            return variants.get("fp32") or next(iter(variants.values()))
        if (record := self.manifest.precisions.get(precision)) is not None:
            return variants[record.graphs[graph]]
        if precision not in variants:
            raise ZtcirError(
                f"The bundle {self.name} has its {graph} in {', '.join(variants)}, not in "
                f"{precision}: choose one of these, or export the bundle in {precision}."
            )
        return variants[precision]

    def sha256(self, variant: GraphVariant) -> str:
        """Return the SHA-256 (hex) of a graph's file, from the manifest."""
        return self.manifest.files[variant.file].sha256

    def file(self, variant: GraphVariant) -> Path:
        """Return the path of a graph's file."""
        return self.path / variant.file


def embedded_names() -> list[str]:
    """Return the sorted names of the bundles that are part of the package."""
    return sorted(manifest.parent.name for manifest in _embedded_folder().glob(f"*/{MANIFEST}"))


def _embedded_folder() -> Path:
    # A real folder in every installation: engines open graphs by path, so a zip would not do.
    return Path(__file__).resolve().parents[1] / "bundles"


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a bundle, whose other files need not be there.

    Raises:
        BundleError: there is none, or it is malformed.
    """
    file = folder / MANIFEST
    try:
        text = read_bounded(file, MANIFEST_BYTES).decode()
    except (FileNotFoundError, NotADirectoryError):
        if folder.is_dir():
            problem = f"is not a bundle, because it has no {MANIFEST}"
        else:
            problem = "is not a bundle" if folder.exists() else "does not exist"
        raise BundleError(f"{folder} {problem}: give a folder that `ztcir export` wrote.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{file} cannot be read ({error}): {EXPORT_AGAIN}.") from error
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{file} is corrupt ({error}): {EXPORT_AGAIN}.") from error
    try:
        return Manifest.from_dict(values)
    except BundleError as error:
        raise BundleError(f"{file}: {error}") from error


def _check_file(folder: Path, file: str, record: FileRecord) -> None:
    """Check that a file is there, is an ordinary one, and has its size."""
    with _unreadable_as_error(folder, file):
        status = (folder / file).stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would block, a device never end
        raise BundleError(f"{file} of the bundle {folder} is not an ordinary file: {EXPORT_AGAIN}.")
    if status.st_size != record.bytes:
        raise BundleError(
            f"{file} of the bundle {folder} has {status.st_size} bytes, not {record.bytes}: "
            f"{EXPORT_AGAIN}."
        )


@contextlib.contextmanager
def _unreadable_as_error(folder: Path, file: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(f"{file} of the bundle {folder} is missing: {EXPORT_AGAIN}.") from error
    except OSError as error:
        raise BundleError(
            f"{file} of the bundle {folder} cannot be read ({error.strerror}): {EXPORT_AGAIN}."
        ) from error


def _store(folder: Path, file: str, source: str | os.PathLike[str] | bytes) -> FileRecord:
    """Write or copy a file, flush it to disk, and return its record."""
    import shutil  # writers alone need it

    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as stream:
        if isinstance(source, bytes):
            stream.write(source)
        else:
            if not Path(source).is_file():
                raise BundleError(f"{source}, the source of {file}, is missing: check its path.")
            with Path(source).open("rb") as original:
                shutil.copyfileobj(original, stream, 1 << 20)
        stream.flush()
        os.fsync(stream.fileno())
    return FileRecord(hash_file(path), path.stat().st_size)


def check_target(folder: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Check that `Bundle.write` can write to a folder.

    Raises:
        UsageError: it is a bundle and `overwrite` is false, or it has other contents.
    """
    target = Path(folder).resolve()
    if (target / MANIFEST).exists():
        if not overwrite:
            raise UsageError(
                f"{target} is already a bundle: choose another folder, or overwrite it with "
                "--overwrite."
            )
    elif target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(
            f"{target} exists and is not a bundle: choose another folder, so that nothing is lost."
        )
