"""Pillow's decoders, restricted to the formats that ztcir documents.

Pillow tries every decoder that it has, by content: an EPS named ``x.jpg`` would start Ghostscript
with the file's own program. Only the formats below are tried, and none of them starts a process.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import struct
import sys
import threading
from functools import cache
from pathlib import Path
from typing import IO

import PIL
from PIL import Image, ImageFile

__all__ = ["is_heif", "open_header"]

_PLUGINS = {
    "JPEG": "PIL.JpegImagePlugin",
    "PNG": "PIL.PngImagePlugin",
    "WEBP": "PIL.WebPImagePlugin",
    "GIF": "PIL.GifImagePlugin",
    "BMP": "PIL.BmpImagePlugin",
    "DIB": "PIL.BmpImagePlugin",
    "TIFF": "PIL.TiffImagePlugin",
    "JPEG2000": "PIL.Jpeg2KImagePlugin",
    "AVIF": "PIL.AvifImagePlugin",
}
"""Format -> module of its decoder, the common ones first."""

_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

_lock = threading.Lock()


def is_heif(prefix: bytes) -> bool:
    """Whether a file that starts with `prefix` (16 bytes) is HEIF, and not AVIF."""
    return prefix[4:8] == b"ftyp" and prefix[8:12] in _HEIF_BRANDS


def open_header(stream: IO[bytes], prefix: bytes) -> ImageFile.ImageFile | None:
    """Read an image's header, as `Image.open` does, but without Pillow's limit on pixels.

    That limit belongs to the whole process: below ours it warns, and neither the limit nor the
    warning filters can be changed here without changing them for every other thread.

    Args:
        stream: a seekable file.
        prefix: its first 16 bytes.

    Returns:
        The image, not yet decoded; None if no known format accepts the file.
    """
    for name in (*_PLUGINS, *(("HEIF",) if is_heif(prefix) else ())):
        if not _load_decoder(name):
            continue
        factory, accept = Image.OPEN[name]
        try:
            accepted = accept is None or accept(prefix)
            if accepted and not isinstance(accepted, str):  # a string says what is missing
                stream.seek(0)
                return factory(stream, "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # not this format after all
            continue
    return None


@cache
def _load_decoder(name: str) -> bool:
    """Load the decoder of a format, with its library; return whether it is installed.

    A JPEG needs the first alone: the libraries of the others take megabytes and milliseconds.
    """
    with _lock:
        if name == "HEIF":
            if importlib.util.find_spec("pi_heif") is not None:
                from pi_heif import register_heif_opener

                register_heif_opener()
        else:
            with contextlib.suppress(ImportError):  # this Pillow is too old for it
                importlib.import_module(_PLUGINS[name])
        if name == "TIFF":
            _silence_libtiff()
    return name in Image.OPEN


def _silence_libtiff() -> None:
    """Keep libtiff from printing on standard error; what is wrong is raised by Pillow anyway."""
    folder = Path(PIL.__file__).parent
    folders = (folder.parent / "pillow.libs", folder / ".dylibs")  # where wheels have libraries
    for library in (file for one in folders for file in one.glob("libtiff*")):
        with contextlib.suppress(OSError, AttributeError):
            tiff = ctypes.CDLL(str(library))
            for function in (tiff.TIFFSetErrorHandler, tiff.TIFFSetWarningHandler):
                function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
                function(None)
            return
    if sys.platform.startswith("linux") and _uses_system_libtiff():
        with contextlib.suppress(OSError, AttributeError):
            tiff = ctypes.CDLL("libtiff.so.6")
            tiff.TIFFSetErrorHandler(None)
            tiff.TIFFSetWarningHandler(None)


def _uses_system_libtiff() -> bool:
    try:
        return "libtiff.so.6" in Path("/proc/self/maps").read_text(encoding="utf-8")
    except OSError:
        return False
