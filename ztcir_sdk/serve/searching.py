"""Searches of many clients: encoded references are remembered, simultaneous queries are batched."""

from __future__ import annotations

import asyncio
import hashlib
import io
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from ztcir_sdk.decoding.decode import NamedBytes
from ztcir_sdk.decoding.pillow_formats import open_header
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.index.hit import Hit
from ztcir_sdk.query import Query
from ztcir_sdk.retriever import Reference, Retriever
from ztcir_sdk.serve.failures import ServiceError
from ztcir_sdk.serve.gallery import ServedIndex
from ztcir_sdk.serve.metrics import Metrics
from ztcir_sdk.serve.settings import ServeSettings

__all__ = ["Answer", "Searches"]

MAX_AT_ONCE = 16
"""Queries of one batch."""
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """The hits of one query."""

    hits: list[Hit]
    searched: int
    """Number of images in the index, those that a filter leaves out included."""
    milliseconds: float
    """From the query's turn to its hits; waiting for other clients counts."""


@dataclass(eq=False)
class _Waiting:
    query: Query
    options: tuple[tuple[str, type, Any], ...]
    """Name, type and value: True and 1.0 are equal, and ask for different things."""
    answer: asyncio.Future[Answer]
    since: float


class Searches:
    """Answers queries in one thread, all that wait at once in a batch."""

    def __init__(
        self, retriever: Retriever, index: ServedIndex, settings: ServeSettings, metrics: Metrics
    ) -> None:
        """Use a retriever on an index; call `close` at the end."""
        self._retriever = retriever
        self._index = index
        self._settings = settings
        self._metrics = metrics
        self._searching = ThreadPoolExecutor(1, "search")
        self._working = ThreadPoolExecutor(2, "work")  # decoding and encoding of pictures
        self._reading = ThreadPoolExecutor(1, "read")  # files of queries: no picture waits for them
        self._references: OrderedDict[str, Reference] = OrderedDict()
        self._encoding: dict[str, asyncio.Future[Reference]] = {}
        self._queue: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Finish what is running."""
        self._searching.shutdown(cancel_futures=True)
        self._working.shutdown(cancel_futures=True)
        self._reading.shutdown(cancel_futures=True)

    async def work(self, call: Callable[[], T]) -> T:
        """Run something slow beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._working, call)

    async def read(self, call: Callable[[], T]) -> T:
        """Read a file of queries beside the event loop, one file at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, call)

    # --- references --------------------------------------------------------------------------

    async def upload(self, data: bytes) -> str:
        """Encode an uploaded image, and return its identifier, the SHA-256 (hex) of its bytes.

        Raises:
            ServiceError, ImageError: it is too large, damaged, or no image.
        """
        identifier = hashlib.sha256(data).hexdigest()
        await self._reference(identifier, lambda: self._encoded(data))
        return identifier

    async def reference(self, identifier: str) -> Reference:
        """Return an encoded image: one that was uploaded, or an item of the index.

        Raises:
            ServiceError: it is neither.
        """
        return await self._reference(identifier, lambda: self._encoded_item(identifier))

    async def _reference(self, identifier: str, encode: Callable[[], Reference]) -> Reference:
        """Return a reference that is remembered, or encode it, once for all who wait for it."""
        known = self._references.get(identifier)
        if known is None:
            if (encoding := self._encoding.get(identifier)) is None:
                encoding = asyncio.ensure_future(self.work(encode))
                self._encoding[identifier] = encoding
                encoding.add_done_callback(lambda done: self._encoded_once(identifier, done))
            known = await asyncio.shield(encoding)  # one client may leave, the others wait
        self._references[identifier] = known
        self._references.move_to_end(identifier)
        while len(self._references) > self._settings.references:
            self._references.popitem(last=False)
        self._metrics.references.set(len(self._references))
        return known

    def _encoded_once(self, identifier: str, done: asyncio.Future[Reference]) -> None:
        del self._encoding[identifier]
        if not done.cancelled():
            done.exception()  # whoever still waits for it gets it too

    def _encoded_item(self, identifier: str) -> Reference:
        try:
            self._index.copies(identifier)
        except ServiceError as error:
            raise ServiceError(
                404,
                "unknown-reference",
                f"The reference {identifier[:12]!r} is neither an image of the index nor an upload "
                "that is still remembered: upload it again.",
            ) from error
        return self._retriever.reference(NamedBytes(self._index.read(identifier), "The picture"))

    def _encoded(self, data: bytes) -> Reference:
        self._check_pixels(data)
        return self._retriever.reference(NamedBytes(data, "The uploaded image"))

    def _check_pixels(self, data: bytes) -> None:
        """Refuse a large image by its header, before it is decoded."""
        try:
            image = open_header(io.BytesIO(data), data[:16])
        except MemoryError:
            raise
        except Exception:  # whatever a damaged header leads to: decoding says what it is
            return
        if image is None:
            return
        with image:
            megapixels = image.width * image.height / 1e6
        if megapixels > self._settings.max_megapixels:
            raise ServiceError(
                413,
                "too-large",
                f"The image has {megapixels:.0f} megapixels, more than "
                f"{self._settings.max_megapixels}: scale it down first.",
            )

    # --- queries -----------------------------------------------------------------------------

    async def search(self, query: Query, **options: Any) -> Answer:
        """Answer a query together with those that wait for the same options.

        Raises:
            ZtcirError: as `Retriever.search`.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        named = tuple((name, type(value), value) for name, value in sorted(options.items()))
        self._queue.append(_Waiting(query, named, answer, time.perf_counter()))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._answer_all())
        return await answer

    async def _answer_all(self) -> None:
        while self._queue:
            options = self._queue[0].options
            batch = [one for one in self._queue if one.options == options][:MAX_AT_ONCE]
            self._queue = [one for one in self._queue if one not in batch]
            batch = [one for one in batch if not one.answer.cancelled()]
            if batch:
                await self._answer(batch, {name: value for name, _, value in options})

    async def _answer(self, batch: list[_Waiting], options: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        self._metrics.batch.observe(len(batch))
        try:
            view = self._index.view
            found = await loop.run_in_executor(
                self._searching,
                lambda: self._retriever.search_many(
                    [one.query for one in batch], index=view, **options
                ),
            )
        except Exception as error:
            if len(batch) > 1 and isinstance(error, ZtcirError):
                for one in batch:  # one client's mistake is no other's
                    await self._answer([one], options)
            else:
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
            return
        for one, hits in zip(batch, found, strict=True):
            if not one.answer.done():
                spent = (time.perf_counter() - one.since) * 1000
                one.answer.set_result(Answer(hits, len(view), spent))
