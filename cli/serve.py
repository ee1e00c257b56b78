"""`ztcir serve`: the web page and the HTTP API."""

from __future__ import annotations

import os
import webbrowser
from pathlib import Path
from typing import Any

import click

from cli.options import Command, Engine, IndexName, pass_as, with_engine
from cli.output import note

__all__ = ["serve", "serve_index"]

TOKEN_VARIABLE = "ZTCIR_TOKEN"


def _settings(host: str, allow_host: tuple[str, ...], cors: tuple[str, ...], **limits: Any) -> Any:
    return {
        "limits": {
            "host": host,
            "allowed_hosts": tuple(map(str.lower, allow_host)),
            "cors_origins": cors,
            "token": os.environ.get(TOKEN_VARIABLE) or None,
            **limits,
        }
    }


@click.command(cls=Command)
@click.argument("index", required=False, type=IndexName(), metavar="[NAME.ztcir]")
@pass_as(
    _settings,
    click.option(
        "--host",
        default="127.0.0.1",
        show_default=True,
        metavar="ADDRESS",
        help="Address to listen on; 0.0.0.0 for every network of this machine.",
    ),
    click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=8000,
        show_default=True,
        metavar="N",
        help="Port to listen on; 0 for any free one.",
    ),
    click.option(
        "--allow-host",
        multiple=True,
        metavar="NAME",
        help="A further name that the service answers for, such as that of a proxy.",
    ),
    click.option(
        "--cors",
        multiple=True,
        metavar="ORIGIN",
        help="Origin of another web page that may use the API, such as https://shop.example.",
    ),
    click.option(
        "--max-upload",
        "max_upload_mb",
        type=click.IntRange(min=1),
        default=20,
        show_default=True,
        metavar="MB",
        help="Largest request.",
    ),
    click.option(
        "--max-requests",
        type=click.IntRange(min=1),
        default=64,
        show_default=True,
        metavar="N",
        help="Requests that are worked on at once.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="Time that a request may take.",
    ),
)
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@with_engine
def serve(
    index: Path | str | None, limits: dict[str, Any], open_page: bool, engine: Engine
) -> None:
    """Serve a web page and an HTTP API to search an index with.

    NAME.ztcir is the index; default: $ZTCIR_INDEX, else the only *.ztcir in the current folder. The
    service is reachable from this machine alone, unless --host says otherwise. If $ZTCIR_TOKEN is
    set, clients must send it. The log is one JSON object a line, on standard error.

    \b
    Examples:
      ztcir serve
      ztcir serve photos.ztcir --port 8080 --open
      ztcir serve --host 0.0.0.0 --allow-host photos.example
    """
    from ztcir_sdk.index.default import default_index_path

    where = default_index_path() if index is None else index
    serve_index(engine, where, limits, open_page=open_page)


def serve_index(
    engine: Engine, index: Path | str, limits: dict[str, Any], *, open_page: bool
) -> None:
    """Serve an index until the user stops it."""
    from ztcir_sdk.serve.run import run_service
    from ztcir_sdk.serve.settings import ServeSettings, is_loopback

    settings = ServeSettings(**limits)
    if not is_loopback(settings.host) and settings.token is None:
        note(
            f"Everyone who reaches {settings.host}:{settings.port} can search and see the images: "
            f"set ${TOKEN_VARIABLE} to ask for a token."
        )

    def started(address: str) -> None:
        note(f"Serving {index} at {address} (stop with Ctrl+C)")
        if open_page:
            webbrowser.open(address)

    run_service(engine.retriever(), index, settings, started=started)
