"""Answers of the service to errors, its own and those of FastAPI: a kind and a sentence."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.serve.failures import Kind, ServiceError, as_service_error, error_body
from ztcir_sdk.serve.logs import log

__all__ = ["add_error_handlers"]

LIMITS = {
    "Too many fields": "The form has over 1000 fields: send fewer.",
    "Too many files": "The form has over 1000 files: send fewer.",
    "Part exceeded": "A field of the form has over 1 MB: upload a file as a file, with @.",
    "Field exceeded": "A field of the form has over 1 MB: upload a file as a file, with @.",
}
"""How Starlette begins to say which limit a form exceeds -> the service's sentence."""


def add_error_handlers(app: FastAPI) -> None:
    """Give every error of an application the service's own shape."""

    def answer(error: ServiceError) -> JSONResponse:
        return JSONResponse(error_body(error), error.status)

    @app.exception_handler(ZtcirError)
    async def known(request: Request, error: ZtcirError) -> JSONResponse:
        shown = as_service_error(error)
        if shown.kind == "unavailable":
            log("search failed", level=40, reason=str(error))
        return answer(shown)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "body"
        return answer(ServiceError(422, "usage", f"{where}: {first['msg']}."))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, ServiceError):  # raised while the body was read
            return answer(error.__cause__)
        for start, limit in LIMITS.items():
            if error.detail.startswith(start):
                return answer(ServiceError(413, "too-large", limit))
        kinds: dict[int, Kind] = {404: "not-found", 405: "method"}
        kind = kinds.get(error.status_code, "request")
        sentence = {
            404: "There is nothing at this address: /openapi.json lists what there is.",
            405: "This address does not take that method: /openapi.json lists what it takes.",
        }.get(error.status_code, "The body of the request cannot be read: send a form.")
        shown = answer(ServiceError(error.status_code, kind, sentence))
        shown.headers.update(error.headers or {})
        if error.status_code == 405:
            allowed = shown.headers.get("allow", "GET")  # the page's files name none
            shown.headers["allow"] = "GET, HEAD" if allowed == "GET" else allowed
        return shown

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> JSONResponse:
        return answer(ServiceError(500, "defect", "The service failed: its log says why."))
