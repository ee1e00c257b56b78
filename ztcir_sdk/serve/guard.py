"""What stands before every request: who may ask, how much at once, how large and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeAlias

from ztcir_sdk.serve.failures import ServiceError, error_body
from ztcir_sdk.serve.logs import log
from ztcir_sdk.serve.metrics import Metrics
from ztcir_sdk.serve.settings import ServeSettings

__all__ = ["API", "COOKIE", "App", "Guard", "equal_tokens", "host_of", "needs_token"]

API = "/api/v1"
COOKIE = "ztcir_token"
"""Cookie with the token, which the page sets, since the pictures of a page send no header."""
OPEN_PATHS = ("/healthz", f"{API}/session", "/openapi.json")
"""Paths of the service that need no token; so do the page's own files, which hold no data."""
MAX_TEXT_BYTES = 1_000_000
"""Largest body without files."""
BYTES_A_SECOND = 50_000
"""How fast a body must come once `read_timeout` has passed."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Methods that are counted by name; a client may send any word."""
CLOSING = (408, 413, 504)
"""Statuses after which the connection is closed."""
LINGER = 2.0
"""Seconds for which the rest of a body that is too large is read and dropped."""

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}


class Guard:
    """An ASGI application around another, which bounds, checks, counts and logs its requests."""

    def __init__(self, app: App, settings: ServeSettings, metrics: Metrics) -> None:
        """Guard `app`."""
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or turn it away with a sentence."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, receive, send)
        if request.method == "HEAD":  # the answer to GET, of which `request` sends no body
            scope = {**scope, "method": "GET"}
        self._active += 1
        self._metrics.active.set(self._active)
        try:
            await self._answer(scope, receive, request)
        except ServiceError as error:
            await request.refuse(error)
        except asyncio.TimeoutError:
            await request.refuse(
                ServiceError(
                    504,
                    "timeout",
                    f"The request took over {self._settings.timeout:g} seconds: try again, or send "
                    "a smaller image.",
                )
            )
        except Exception:
            log("defect", level=40, error=True, path=scope["path"], request=request.id)
            await request.refuse(
                ServiceError(500, "defect", f"The service failed: its log has {request.id}.")
            )
        finally:
            self._active -= 1
            self._metrics.active.set(self._active)
            self._count(scope, request)

    async def _answer(self, scope: Scope, receive: Receive, request: _Request) -> None:
        headers = {key.decode("latin-1"): value for key, value in scope["headers"]}
        self._check(scope, headers)
        kind = headers.get("content-type", b"").lower()
        bounded = _Bounded(receive, self._settings, kind.startswith(b"multipart/form-data"))
        bounded.check(headers.get("content-length"))
        call = self._app(scope, bounded, request.send)
        await asyncio.wait_for(call, self._settings.timeout)

    def _check(self, scope: Scope, headers: Mapping[str, bytes]) -> None:
        """Refuse a request by its headers.

        Raises:
            ServiceError: the host, the token or the number of requests.
        """
        names = self._settings.host_names
        host = host_of(headers.get("host", b"").decode("latin-1"))
        if names is not None and host not in names:
            raise ServiceError(
                421,
                "host",
                f"This service does not answer for {host!r}: start it with --allow-host {host}.",
            )
        path: str = scope["path"]
        if needs_token(path) and not self._has_token(headers):
            raise ServiceError(
                401, "token", "This service needs a token: send Authorization: Bearer TOKEN."
            )
        if self._active > self._settings.max_requests and path != "/healthz":
            raise ServiceError(503, "busy", "Too many requests at once: try again in a second.")

    def _has_token(self, headers: Mapping[str, bytes]) -> bool:
        token = self._settings.token
        if token is None:
            return True
        scheme, _, given = headers.get("authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() == "bearer" and equal_tokens(given.strip(), token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", b"").decode("latin-1")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and equal_tokens(cookie.value, token)

    def _count(self, scope: Scope, request: _Request) -> None:
        spent = time.perf_counter() - request.start
        route = getattr(scope.get("route"), "path", None) or "other"
        method = request.method if request.method in METHODS else "other"
        self._metrics.requests.labels(route, method, str(request.status)).inc()
        self._metrics.seconds.labels(route).observe(spent)
        if scope["path"] not in ("/healthz", "/metrics"):
            log(
                "request",
                method=request.method,
                path=scope["path"],
                status=request.status,
                milliseconds=round(spent * 1000, 1),
                client=(scope.get("client") or ("",))[0],
                request=request.id,
            )


class _Request:
    """One request: its identifier and method, when it began, and what was answered."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.id = uuid.uuid4().hex[:16]
        self.method: str = scope["method"]
        self.start = time.perf_counter()
        self.status = 0
        self._receive = receive
        self._send = send

    async def send(self, message: Message) -> None:
        """Pass an answer on, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {key.lower() for key, _ in message.get("headers", [])}
            extra = [
                (key.encode(), value.encode())
                for key, value in {**SECURITY_HEADERS, "x-request-id": self.id}.items()
                if key.encode() not in given
            ]
            if self.status in CLOSING:
                extra.append((b"connection", b"close"))
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        elif self.status == 413 and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            # who still sends when the connection is closed may never read the answer: a proxy
            # takes the broken connection for a failure
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._drop_body(), LINGER)
            message = {"type": "http.response.body"}
        if self.method == "HEAD" and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)

    async def _drop_body(self) -> None:
        """Read the body to its end, or until the client has gone."""
        while (await self._receive()).get("more_body", False):
            pass

    async def refuse(self, error: ServiceError) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.status:
            return
        body = json.dumps(error_body(error)).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        if error.status == 503:
            headers.append((b"retry-after", b"1"))
        if error.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


class _Bounded:
    """Receives the body of a request, and stops where it gets too large or comes too slowly."""

    def __init__(self, receive: Receive, settings: ServeSettings, with_files: bool) -> None:
        self._receive = receive
        self._with_files = with_files
        self._most = settings.max_upload_mb * 1_000_000 if with_files else MAX_TEXT_BYTES
        self._seconds = settings.read_timeout
        self._start = time.perf_counter()
        self._got = 0
        self._complete = False

    def check(self, length: bytes | None) -> None:
        """Refuse a body by the length that its header names.

        Raises:
            ServiceError: it is too large.
        """
        if length is not None and length.isdigit() and int(length[:18]) > self._most:
            raise self._too_large()

    async def __call__(self) -> Message:
        """Return the next part.

        Raises:
            ServiceError: the body is too large, or too slow.
        """
        if self._complete:  # what comes now is that the client has gone
            return await self._receive()
        left = self._start + self._seconds + self._got / BYTES_A_SECOND - time.perf_counter()
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0.001))
        except asyncio.TimeoutError as error:
            raise ServiceError(
                408, "slow", "The request came too slowly: try again, or send a smaller image."
            ) from error
        self._got += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._got > self._most:
            raise self._too_large()
        return message

    def _too_large(self) -> ServiceError:
        advice = (
            "send a smaller image"
            if self._with_files
            else "send images as files of a form (multipart/form-data)"
        )
        return ServiceError(
            413, "too-large", f"The request has over {self._most // 1_000_000} MB: {advice}."
        )


def needs_token(path: str) -> bool:
    """Return whether an address is answered only with the token, where there is one."""
    return (path.startswith(API) or path == "/metrics") and path not in OPEN_PATHS


def host_of(header: str) -> str:
    """Return the name or address in a header ``Host``, in lower case and without the port."""
    header = header.strip().lower()
    if header.startswith("["):
        return header.partition("]")[0] + "]"
    return header.partition(":")[0]


def equal_tokens(given: str, token: str) -> bool:
    """Compare two tokens, in a time that tells nothing of where they differ."""
    return hmac.compare_digest(given.encode(), token.encode())
