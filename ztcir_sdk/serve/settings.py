"""The settings of the service, and their checks."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from ztcir_sdk.errors import UsageError

__all__ = ["MAX_WHERE", "ServeSettings", "is_loopback"]

MAX_WHERE = 2000
"""Characters of a filter."""

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class ServeSettings:
    """Who may use the service, and how much one request may take.

    Raises:
        UsageError: a limit is too small, or the token is.
    """

    host: str = "127.0.0.1"
    """Address to listen on; the default is reachable from this machine alone."""
    port: int = 8000
    token: str | None = None
    """What a client must send as ``Authorization: Bearer TOKEN``; None asks for nothing."""
    cors_origins: tuple[str, ...] = ()
    """Origins of other web pages that may use the API."""
    allowed_hosts: tuple[str, ...] = ()
    """Further values of the header ``Host``, such as the name of a proxy."""
    max_upload_mb: int = 20
    """Largest body of a request, in MB."""
    max_megapixels: int = 60
    """Largest uploaded image, in megapixels."""
    max_text: int = 500
    """Longest text, in characters."""
    max_parts: int = 16
    """Most images and texts of one search."""
    max_hits: int = 200
    """Largest `k`."""
    max_requests: int = 64
    """Requests that are worked on at once; the next ones are turned away."""
    timeout: float = 30.0
    """Seconds that a request may take, its upload included."""
    read_timeout: float = 10.0
    """Seconds that the headers of a request may take to arrive, and its body, to which each 50 kB
    that have arrived add a second."""
    references: int = 256
    """Encoded images that are remembered between requests."""

    def __post_init__(self) -> None:
        for name in (
            *("max_upload_mb", "max_megapixels", "max_text", "max_parts", "max_hits"),
            *("max_requests", "references"),
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("timeout", "read_timeout"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be above 0 seconds, not {getattr(self, name)}.")
        if self.token is not None and (len(self.token) < 8 or not self.token.isascii()):
            raise UsageError("The token must have at least 8 characters, all ASCII.")

    @property
    def host_names(self) -> frozenset[str] | None:
        """Values of the header ``Host`` that are served; None serves any.

        On a loopback address only its own names are: a page of the web could otherwise point a name
        of its own at this machine and read the answers (DNS rebinding).
        """
        if not is_loopback(self.host):
            return frozenset(self.allowed_hosts) if self.allowed_hosts else None
        return frozenset({*LOOPBACK_NAMES, self.host.lower(), *self.allowed_hosts})


def is_loopback(host: str) -> bool:
    """Return whether an address is reachable from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
