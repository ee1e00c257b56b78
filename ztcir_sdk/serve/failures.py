"""Errors of the service: a kind, a status, and a sentence that names no path of this machine."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from ztcir_sdk.errors import ImageError, UsageError, ZtcirError

__all__ = ["Kind", "ServiceError", "as_service_error", "error_body"]

Kind: TypeAlias = Literal[
    "usage",
    "image",
    "not-found",
    "unknown-reference",
    "method",
    "request",
    "too-large",
    "slow",
    "token",
    "host",
    "busy",
    "timeout",
    "unavailable",
    "defect",
]
"""What went wrong, for programs."""


class ServiceError(ZtcirError):
    """A request that cannot be answered.

    Attributes:
        status: HTTP status.
        kind: word for programs, such as "usage".
    """

    def __init__(self, status: int, kind: Kind, sentence: str) -> None:
        """Describe it with a sentence for people."""
        super().__init__(sentence)
        self.status = status
        self.kind = kind


def as_service_error(error: ZtcirError) -> ServiceError:
    """Return what a client may know of an error of the SDK."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, UsageError):
        return ServiceError(422, "usage", str(error))
    if isinstance(error, ImageError):
        return ServiceError(422, "image", str(error))
    return ServiceError(
        503, "unavailable", "The service cannot search now: its log has the reason. Try again."
    )


def error_body(error: ServiceError) -> dict[str, Any]:
    """Return the JSON values of an error's answer."""
    return {"error": {"kind": error.kind, "message": str(error)}}
