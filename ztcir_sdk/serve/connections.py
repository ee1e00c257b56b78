"""Connections of clients, which cannot be kept open by sending headers slowly or never."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["connection_class"]


def connection_class(seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol for HTTP, which waits at most `seconds` for a request's headers.

    uvicorn itself bounds only how long a connection may be idle between two requests: one that
    sends a header a minute, or nothing at all, would stay open for ever.
    """
    return type("Connection", (_Connection,), {"seconds": seconds})


class _Connection(H11Protocol):
    seconds: float
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        answered = self.cycle
        super().data_received(data)
        if self.cycle is not answered:  # its headers are complete
            self._stop_waiting()
        if self.cycle is None or self.cycle.response_complete:
            self._wait()  # for the rest of the headers, or of a body that nobody reads

    def on_response_complete(self) -> None:
        self._stop_waiting()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
