"""Composed image retrieval on a device: search pictures by a picture and a wish.

``from ztcir_sdk import Retriever`` is where to begin. Names are loaded on first use, so that
``import ztcir_sdk`` alone costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ztcir_sdk.version import __version__

if TYPE_CHECKING:
    from ztcir_sdk.bundle.bundle import Bundle
    from ztcir_sdk.errors import ZtcirError
    from ztcir_sdk.retriever import Hit, Reference, Retriever

__all__ = ["Bundle", "Hit", "Reference", "Retriever", "ZtcirError", "__version__"]

_HOMES = {
    "Bundle": "ztcir_sdk.bundle.bundle",
    "Hit": "ztcir_sdk.retriever",
    "Reference": "ztcir_sdk.retriever",
    "Retriever": "ztcir_sdk.retriever",
    "ZtcirError": "ztcir_sdk.errors",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # next time without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
