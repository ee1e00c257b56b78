"""Errors a user can cause: one sentence that names the thing and the way out.

The command line prints that sentence without a traceback and ends with ``exit_code``; anything
that is not a `ZtcirError` is our doing and keeps its traceback.
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "ImageError",
    "IndexMismatchError",
    "MissingDependencyError",
    "UsageError",
    "ZtcirError",
]


class ZtcirError(Exception):
    """The work could not be done; ``str(error)`` is a sentence for the user."""

    exit_code = 1


class UsageError(ZtcirError, ValueError):
    """The call itself was wrong: an empty text, ``k`` below 1, an unknown method."""

    exit_code = 2


class ImageError(ZtcirError):
    """A picture cannot be used: missing, not an image, truncated, or too large to decode."""


class BundleError(ZtcirError):
    """A bundle is missing, incomplete, altered, or of a format this version does not know."""


class IndexMismatchError(ZtcirError):
    """An index was made by another image tower than the one that now searches it."""


class MissingDependencyError(ZtcirError):
    """An optional package is needed; the sentence says which extra installs it."""
