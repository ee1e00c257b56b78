"""References as people type them on a command line: a path, ``-``, ``file://`` or a web address."""

from __future__ import annotations

import io
import stat
import sys
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from ztcir_sdk.decoding.decode import NamedBytes
from ztcir_sdk.errors import ImageError, UsageError, reason_of

__all__ = ["open_reference"]

MAX_BYTES = 100_000_000
"""Largest image that is read from standard input or from the web."""
TIMEOUT = 20.0
"""Seconds that a web server may stay silent."""


def open_reference(text: str, *, allow_url: bool = False) -> str | io.BytesIO:
    """Return what a reference argument stands for: a path, or an encoded image.

    Args:
        text: a path, ``-`` for standard input, a ``file://`` or an ``http(s)://`` address.
        allow_url: whether web addresses are fetched.

    Raises:
        UsageError: a web address that is not allowed, or a ``file://`` address of another machine.
        ImageError: the address cannot be fetched, or the image has over 100 MB.
    """
    if text == "-":
        return NamedBytes(_bounded(sys.stdin.buffer, "Standard input"), "standard input")
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if scheme == "file":
        address = urlsplit(text)
        if address.netloc not in ("", "localhost"):
            raise UsageError(f"{text} is on another machine: give a path of this one.")
        path = unquote(address.path)
        return path[1:] if path[2:3] == ":" else path  # /C:/photos on Windows
    if scheme in ("http", "https"):
        if not allow_url:
            raise UsageError(f"{text} is a web address: add --allow-url to download it.")
        return NamedBytes(_fetch(text), text)
    if _is_stream(text):  # <(command) of a shell
        with open(text, "rb") as stream:  # noqa: PTH123
            return NamedBytes(_bounded(stream, text), text)
    return text


def _is_stream(path: str) -> bool:
    """Return whether a path is a pipe or a device, which the user names to be read to its end."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _fetch(address: str) -> bytes:
    import urllib.error  # HTTP and TLS take as long to import as a query takes
    import urllib.request

    request = urllib.request.Request(address, headers={"User-Agent": "ztcir"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return _bounded(answer, address)
    except urllib.error.HTTPError as error:
        raise ImageError(
            f"{address} cannot be downloaded (HTTP {error.code} {error.reason}): check the address."
        ) from error
    except (OSError, ValueError) as error:  # also urllib's URLError and time-outs
        reason = reason_of(getattr(error, "reason", None) or error)
        raise ImageError(
            f"{address} cannot be downloaded ({reason}): check the address and the network."
        ) from error


def _bounded(stream: IO[bytes], name: str) -> bytes:
    data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name} has over {MAX_BYTES // 1_000_000} MB: use a smaller image.")
    return data
