"""The application: routes of the API, and the files of the page.

Annotations are evaluated here, not kept as text: FastAPI reads them, with the limits in them.
"""

import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, File, Form, Query, Request, Response, UploadFile
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from ztcir_sdk.errors import UsageError
from ztcir_sdk.index.hit import Hit
from ztcir_sdk.index.items import Item
from ztcir_sdk.names import MAX_STRENGTH
from ztcir_sdk.query import Query as SearchQuery
from ztcir_sdk.query import with_weights
from ztcir_sdk.query.reading import read_query
from ztcir_sdk.retriever import Reference, Retriever
from ztcir_sdk.serve import models
from ztcir_sdk.serve.batch import MAX_QUERIES, answer_batch
from ztcir_sdk.serve.failures import ServiceError
from ztcir_sdk.serve.forms import check_request
from ztcir_sdk.serve.gallery import ServedIndex, picture_of
from ztcir_sdk.serve.guard import API, COOKIE, App, Guard, equal_tokens
from ztcir_sdk.serve.handlers import add_error_handlers
from ztcir_sdk.serve.logs import log
from ztcir_sdk.serve.metrics import Metrics
from ztcir_sdk.serve.openapi import ERRORS, LINES, METRICS, DescribedApp
from ztcir_sdk.serve.searching import Searches
from ztcir_sdk.serve.settings import MAX_WHERE, ServeSettings
from ztcir_sdk.version import __version__

__all__ = ["create_app"]

SERVICE_PATHS = ("/healthz", "/metrics", "/openapi.json")
"""Addresses of the service outside the API; all others are the page's."""
FOREVER = "private, max-age=604800, immutable"


def create_app(
    retriever: Retriever,
    index: str | os.PathLike[str],
    settings: ServeSettings | None = None,
) -> App:
    """Return the service as an ASGI application.

    Args:
        retriever: what encodes and searches.
        index: the index to search. What another process commits to it is served a second later.
        settings: limits, and who may ask.

    Raises:
        IndexMismatchError: the index was made by another image tower.
        ZtcirError: there is no index, or it is corrupt.
    """
    settings = settings or ServeSettings()
    service = _Service(retriever, ServedIndex(retriever, index), settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log("started", index=service.index.path.name, items=len(service.index.view))
        yield
        service.searches.close()
        log("stopped")

    app = DescribedApp(
        title="ztcir",
        version=__version__,
        summary="Search images with images and words.",
        docs_url=None,  # they load scripts from another server
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(check_request)],
        lifespan=lifespan,
        responses=ERRORS,
    )
    add_error_handlers(app)
    _add_routes(app, service)
    app.router.routes.append(
        _Page("/", StaticFiles(packages=[("ztcir_sdk.serve", "page")], html=True))
    )
    guarded = Guard(app, settings, service.metrics)
    if not settings.cors_origins:
        return guarded
    # Around the guard: a browser asks without the token whether it may send it, and shows a page
    # the guard's refusals only if they name its origin.
    return CORSMiddleware(
        guarded,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["authorization"],
        expose_headers=["x-request-id", "retry-after"],
    )


class _Page(Mount):
    """The page's files, at all addresses but those of the API, which answer wrong methods."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether an address is the page's."""
        path: str = scope["path"]
        if path.startswith(f"{API}/") or path in SERVICE_PATHS:
            return Match.NONE, {}
        return super().matches(scope)


class _Service:
    """What the routes share."""

    def __init__(self, retriever: Retriever, index: ServedIndex, settings: ServeSettings) -> None:
        self.retriever = retriever
        self.index = index
        self.settings = settings
        self.metrics = Metrics()
        self.searches = Searches(retriever, index, settings, self.metrics)

    def hit(self, hit: Hit) -> models.HitModel:
        """Describe a hit without a path of this machine."""

        def name(path: str) -> str:
            return printable(Path(path).relative_to(hit.root).as_posix())

        return models.HitModel(
            id=hit.content_hash,
            name=name(hit.path),
            metadata=hit.metadata,
            score=hit.score,
            rank=hit.rank,
            duplicates=[name(path) for path in hit.duplicates],
        )

    def item(self, item: Item) -> models.ItemModel:
        """Describe an item."""
        metadata = None if item.metadata is None else dict(item.metadata)
        return models.ItemModel(id=item.content_hash, name=printable(item.path), metadata=metadata)

    async def query(
        self,
        uploads: Sequence[UploadFile],
        references: Sequence[str],
        texts: Sequence[str],
        weights: str | None,
        without: Sequence[str],
        unlike: Sequence[str],
        former: Sequence[str],
        former_texts: Sequence[str],
    ) -> tuple[SearchQuery, list[str]]:
        """Return a query of the parts of a request, and the identifiers of its uploads."""
        texts, without = [t for t in texts if t.strip()], [t for t in without if t.strip()]
        self._check_size(
            [*uploads, *references, *texts, *without, *unlike, *former],
            [*texts, *without, *former_texts],
        )
        if former and len(uploads) + len(references) != 1:
            raise UsageError("former goes on to one image: send one image or reference.")
        if len(former) != len(former_texts):
            raise UsageError(
                f"former has {len(former)} images and former_text {len(former_texts)} texts: send "
                "the text that each image was searched with."
            )
        uploaded = [await self.searches.upload(await one.read()) for one in uploads]
        images = [await self.searches.reference(one) for one in (*uploaded, *references)]
        trail = [await self.searches.reference(one) for one in former]
        unwanted = [await self.searches.reference(one) for one in unlike]
        if trail:
            images = [_refined([*trail, *images], former_texts)]
        query = SearchQuery(*with_weights(images, texts, weights or None), without, unwanted)
        return query, uploaded

    def check(self, query: SearchQuery) -> None:
        """Refuse a query that is larger than one search may be.

        Raises:
            UsageError: it is.
        """
        texts = [*query.positive_texts, *query.unwanted_texts]
        self._check_size([*query.positive_images, *query.unwanted_images, *texts], texts)

    def _check_size(self, parts: Sequence[object], texts: Sequence[str]) -> None:
        if len(parts) > self.settings.max_parts:
            raise UsageError(
                f"A search may have {self.settings.max_parts} images and texts, not {len(parts)}."
            )
        for text in texts:
            if len(text) > self.settings.max_text:
                raise UsageError(
                    f"A text may have {self.settings.max_text} characters, not {len(text)}: "
                    "describe it in fewer words."
                )


def _add_routes(app: FastAPI, service: _Service) -> None:
    settings, searches = service.settings, service.searches
    methods = {"enum": list(service.retriever.bundle.manifest.methods)}

    @app.post(f"{API}/search", operation_id="search")
    async def search(
        image: Annotated[list[UploadFile], File(description="Reference images.")] = [],  # noqa: B006
        reference: Annotated[
            list[str], Form(description="Identifiers of items and of earlier uploads.")
        ] = [],  # noqa: B006
        text: Annotated[list[str], Form(description="What should change, or what to find.")] = [],  # noqa: B006
        weights: Annotated[
            str | None,
            Form(description="Numbers with commas: of the images, references, then texts."),
        ] = None,
        without: Annotated[
            list[str], Form(alias="not", description="What the hits must not show.")
        ] = [],  # noqa: B006
        unlike: Annotated[
            list[str], Form(description="Identifiers of images that hits must not be like.")
        ] = [],  # noqa: B006
        former: Annotated[
            list[str],
            Form(description="Identifiers of the images of earlier steps, the oldest first."),
        ] = [],  # noqa: B006
        former_text: Annotated[
            list[str],
            Form(description="What was asked of each of them; it still counts."),
        ] = [],  # noqa: B006
        k: Annotated[int, Form(ge=1, le=settings.max_hits)] = 24,
        offset: Annotated[int, Form(ge=0, le=10_000)] = 0,
        method: Annotated[
            str | None,
            Form(
                description="A search method; default: the bundle's own.",
                json_schema_extra=methods,
            ),
        ] = None,
        strength: Annotated[
            float | None, Form(ge=0, le=MAX_STRENGTH, description="How much the texts count.")
        ] = None,
        weight: Annotated[
            float | None,
            Form(ge=0, le=1, description="Weight of the text in the method `sum`."),
        ] = None,
        as_typed: Annotated[bool, Form(description="Search texts as they are.")] = False,
        where: Annotated[
            str | None, Form(max_length=MAX_WHERE, description="A condition on the metadata.")
        ] = None,
        min_score: Annotated[
            float | None, Form(ge=-1, le=1, description="The least score of a hit.")
        ] = None,
        unique: Annotated[bool, Form(description="Show near-duplicates once.")] = False,
        unique_from: Annotated[
            float | None,
            Form(gt=0, le=1, description="Cosine from which two images count as the same."),
        ] = None,
        threshold: Annotated[
            Literal["auto"] | None,
            Form(description="Leave out images whose scores do not stand out."),
        ] = None,
    ) -> models.SearchAnswer:
        """Find images similar to others, modified as texts describe; see the command's grammar."""
        query, uploaded = await service.query(
            image, reference, text, weights, without, unlike, former, former_text
        )
        answer = await searches.search(
            query,
            k=k,
            offset=offset,
            method=method,
            strength=strength,
            weight=weight,
            as_typed=as_typed,
            where=where or None,
            min_score=min_score,
            unique=unique_from or unique,
            threshold=threshold,
        )
        used = method or service.retriever.bundle.default_method
        reading = await searches.work(
            lambda: read_query(service.retriever.encoder, query, used, as_typed=as_typed)
        )
        return models.SearchAnswer(
            hits=[service.hit(hit) for hit in answer.hits],
            references=uploaded,
            searched=answer.searched,
            milliseconds=round(answer.milliseconds, 2),
            unknown_words=[
                models.UnknownWordModel(**asdict(word)) for word in reading.unknown_words
            ],
            refused=list(reading.refused),
            read_as=list(reading.read_as),
        )

    @app.post(
        f"{API}/batch",
        operation_id="batch",
        response_class=Response,
        responses=LINES,
    )
    async def batch(
        queries: Annotated[
            UploadFile, File(description="CSV or JSON lines; their images are identifiers.")
        ],
        k: Annotated[int, Form(ge=1, le=settings.max_hits)] = 10,
        method: Annotated[
            str | None,
            Form(
                description="A search method; default: the bundle's own.",
                json_schema_extra=methods,
            ),
        ] = None,
    ) -> Response:
        """Answer a file of queries with a line of JSON for each: its hits, or its error."""
        data, name = await queries.read(), queries.filename or ""
        lines = await answer_batch(
            data, name, searches, service.check, service.hit, k=k, method=method
        )
        return Response(lines, media_type="application/x-ndjson")

    @app.post(f"{API}/references", operation_id="upload")
    async def upload(
        image: Annotated[UploadFile, File(description="The image.")],
    ) -> models.ReferenceAnswer:
        """Encode an image once, for many searches."""
        return models.ReferenceAnswer(id=await searches.upload(await image.read()))

    @app.get(f"{API}/items", operation_id="items")
    async def items(
        offset: Annotated[int, Query(ge=0, le=1_000_000_000)] = 0,
        limit: Annotated[int, Query(ge=1, le=settings.max_hits)] = 60,
        order: Annotated[Literal["path", "mixed"], Query()] = "path",
        where: Annotated[
            str | None, Query(max_length=MAX_WHERE, description="A condition on the metadata.")
        ] = None,
    ) -> models.ItemsAnswer:
        """List items of the index, by path or mixed."""
        found, total = await searches.work(
            lambda: service.index.listed(offset, limit, order, where)
        )
        return models.ItemsAnswer(items=[service.item(item) for item in found], total=total)

    @app.get(f"{API}/items/{{identifier}}", operation_id="item")
    async def item(identifier: str) -> models.ItemModel:
        """Describe an item; of several that have this picture, the first by path."""
        return service.item(service.index.copies(identifier)[0])

    @app.get(
        f"{API}/items/{{identifier}}/thumbnail",
        operation_id="thumbnail",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}},
    )
    async def thumbnail(
        identifier: str, side: Annotated[int, Query(ge=16, le=2048)] = 320
    ) -> Response:
        """Return a small copy of an item's picture, as JPEG."""
        # few sizes, so that few are made and kept
        size = min(one for one in (160, 320, 512, 1024, 2048) if one >= side)
        data = await searches.work(lambda: picture_of(service.index, identifier, size))
        headers = {"cache-control": FOREVER}
        if settings.cors_origins:  # a page of another origin shows it as <img>
            headers["cross-origin-resource-policy"] = "cross-origin"
        return Response(data, media_type="image/jpeg", headers=headers)

    @app.get(f"{API}/info", operation_id="info")
    async def info() -> models.InfoAnswer:
        """Describe what is served."""
        fields = await searches.work(service.index.fields)
        limits = ("max_upload_mb", "max_megapixels", "max_text", "max_parts", "max_hits")
        values = asdict(settings)
        return models.InfoAnswer(
            version=__version__,
            bundle=service.retriever.bundle.name,
            items=len(service.index.view),
            methods=list(service.retriever.bundle.manifest.methods),
            default_method=service.retriever.bundle.default_method,
            fields=[models.FieldModel(**field) for field in fields],
            limits={
                **{name: values[name] for name in limits},
                "max_where": MAX_WHERE,
                "max_queries": MAX_QUERIES,
            },
        )

    @app.post(f"{API}/session", operation_id="session", status_code=204)
    async def session(request: Request, token: Annotated[str, Form(max_length=500)]) -> Response:
        """Keep a token in a cookie, as the page does."""
        if settings.token is None or not equal_tokens(token, settings.token):
            raise ServiceError(401, "token", "The token is wrong: ask who runs this service.")
        answer = Response(status_code=204)
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure)
        return answer

    @app.get("/healthz", operation_id="health")
    async def health() -> models.HealthAnswer:
        """Say that the service works."""
        return models.HealthAnswer(status="ok", items=len(service.index.view))

    @app.get("/metrics", operation_id="metrics", response_class=Response, responses=METRICS)
    async def metrics() -> Response:
        """Return counts and times for Prometheus."""
        service.metrics.items.set(len(service.index.view))
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _refined(trail: Sequence[Reference], asked: Sequence[str]) -> Reference:
    """Return the last image of a trail, after what was asked of those before it."""
    reference = trail[0]
    for picture, text in zip(trail[1:], asked, strict=True):
        reference = reference.refine(picture, asked=text)
    return reference


def printable(text: str) -> str:
    """Replace lone surrogates, from file names that are not UTF-8, which JSON cannot hold."""
    return text.encode("utf-8", "replace").decode()
