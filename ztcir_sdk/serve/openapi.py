"""What OpenAPI says of the service beyond its routes: errors, tokens, and lines of a batch."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from ztcir_sdk.serve import models
from ztcir_sdk.serve.guard import COOKIE, needs_token

__all__ = ["ERRORS", "LINES", "METRICS", "DescribedApp"]

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": models.ErrorAnswer, "description": description}
    for status, description in {
        400: "The body cannot be read.",
        401: "A token is needed.",
        404: "There is no such item or reference.",
        405: "The address does not take this method; `Allow` says which it takes.",
        408: "The request came too slowly.",
        413: "The request or the image is too large.",
        421: "The service does not answer for this host.",
        422: "The request is wrong; the message says what to change.",
        500: "The service failed; its log says why.",
        503: "The service is busy, or its index cannot be searched.",
        504: "The request took too long.",
    }.items()
}
"""Errors that every address may answer with."""
_COMPONENTS = "#/components/schemas"
LINES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": f"A line of JSON for each query, in order: see `{_COMPONENTS}/BatchLine`.",
        "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
    }
}
METRICS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus' text format.",
        "content": {"text/plain; version=0.0.4; charset=utf-8": {"schema": {"type": "string"}}},
    }
}


class DescribedApp(FastAPI):
    """An application whose OpenAPI says where the service's token is sent."""

    def openapi(self) -> dict[str, Any]:
        """Return the description, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = _completed(super().openapi())
        return self.openapi_schema


def _completed(schema: dict[str, Any]) -> dict[str, Any]:
    components = schema["components"]
    line = models.BatchLine.model_json_schema(ref_template=f"{_COMPONENTS}/{{model}}")
    line.pop("$defs")  # they are components already
    components["schemas"]["BatchLine"] = line
    components["securitySchemes"] = {
        "token": {
            "type": "http",
            "scheme": "bearer",
            "description": "Asked for where the service was started with a token.",
        },
        "cookie": {
            "type": "apiKey",
            "in": "cookie",
            "name": COOKIE,
            "description": "The same token, as `POST /api/v1/session` keeps it for the page.",
        },
    }
    for path, operations in schema["paths"].items():
        if needs_token(path):
            for operation in operations.values():
                operation["security"] = [{"token": []}, {"cookie": []}, {}]
    return schema
