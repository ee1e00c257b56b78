"""Running the service until it is stopped."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable

import uvicorn

from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.retriever import Retriever
from ztcir_sdk.serve.app import create_app
from ztcir_sdk.serve.connections import connection_class
from ztcir_sdk.serve.guard import App
from ztcir_sdk.serve.logs import set_up
from ztcir_sdk.serve.settings import ServeSettings, is_loopback

__all__ = ["configuration", "run_service"]

GRACE = 10
"""Seconds that running requests have to finish when the service is stopped."""


def run_service(
    retriever: Retriever,
    index: str | os.PathLike[str],
    settings: ServeSettings,
    *,
    started: Callable[[str], None] | None = None,
) -> None:
    """Serve an index until SIGINT or SIGTERM; requests that are running are finished.

    Args:
        retriever: what encodes and searches.
        index: the index.
        settings: limits, and who may ask.
        started: called with the service's address once it can be opened.

    Raises:
        ZtcirError: there is no index, or the address cannot be listened on.
    """
    app = create_app(retriever, index, settings)
    warm_up(retriever)
    set_up()
    listening = _listen(settings)
    port = listening.getsockname()[1]
    shown = "localhost" if is_loopback(settings.host) else settings.host
    config = configuration(app, settings)
    server = _Server(config, lambda: started and started(f"http://{shown}:{port}/"))
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn passes it on after it has stopped
        sys.stderr.flush()
    finally:
        listening.close()


def configuration(app: App, settings: ServeSettings) -> uvicorn.Config:
    """Return how uvicorn serves the application: its logs, and what a connection may take."""
    return uvicorn.Config(
        app,
        http=connection_class(settings.read_timeout),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        timeout_keep_alive=15,
        h11_max_incomplete_event_size=32_768,
        backlog=256,
    )


class _Server(uvicorn.Server):
    """A server that says when it has started."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], object]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()


def warm_up(retriever: Retriever) -> None:
    """Load the graphs, so that the first search is as fast as the next."""
    from PIL import Image

    retriever.reference(Image.new("RGB", (8, 8))).encode("red")


def _listen(settings: ServeSettings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        # asyncio turns Nagle's algorithm off where the protocol is named: an answer of a head and a
        # body would otherwise wait 40 ms for the client's delayed acknowledgement
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if os.name != "nt":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host.strip("[]"), settings.port))
    except socket.gaierror as error:
        raise UsageError(f"{settings.host!r} is no address of this machine: check it.") from error
    except OSError as error:
        raise ZtcirError(
            f"{settings.host}:{settings.port} cannot be listened on ({error.strerror}): choose "
            "another --port."
        ) from error
    return listening
