"""What a request sends, before FastAPI reads it: a form, with files as files, and known names."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from fastapi import Request, params
from fastapi.routing import APIRoute
from starlette.datastructures import UploadFile

from ztcir_sdk.serve.failures import ServiceError
from ztcir_sdk.serve.guard import API

__all__ = ["check_request"]

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


async def check_request(request: Request) -> None:
    """Refuse a request that would be read otherwise than it was meant: a dependency of all routes.

    Raises:
        ServiceError: its body is no form, lacks a field or a file, or has a file as a text; or a
            name, of the form or of the address, is unknown.
    """
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    known = {one.alias: one.field_info for one in route.dependant.body_params}
    needed = [name for name, info in known.items() if info.is_required()]
    files = [name for name, info in known.items() if isinstance(info, params.File)]
    if request.url.path.startswith(API):  # probes may add what they like to /healthz
        _check_names(request.query_params, [p.alias for p in route.dependant.query_params], known)
    if not known:
        return
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    accepted = FORMS[:1] if set(needed) & set(files) else FORMS
    if kind not in accepted and _has_body(request):
        sent = f", not {kind[:60]}" if kind else ""
        raise _wrong(f"The body must be a form{sent}: {_example(needed, files)}.")
    form = await request.form()
    for name, value in form.multi_items():
        if name in files and not isinstance(value, UploadFile):
            raise _wrong(
                f"{name} is a text, and must be a file: upload it with @, as in -F {name}=@FILE."
            )
        if name in known and name not in files and isinstance(value, UploadFile):
            raise _wrong(f"{name} is a file, and must be a text: send it without a file name.")
    _check_names(form, list(known), ())
    for name in needed:
        if name not in form:
            raise _wrong(f"The form lacks {name}: {_example([name], files)}.")


def _has_body(request: Request) -> bool:
    sent = request.headers
    return "transfer-encoding" in sent or sent.get("content-length", "0") != "0"


def _example(needed: list[str], files: Collection[str]) -> str:
    name = needed[0] if needed else "text"
    return f"send it as in curl -F {name}={'@FILE' if name in files else 'TEXT'}"


def _check_names(given: Iterable[str], known: list[str], of_form: Collection[str]) -> None:
    for name in given:
        if name in known:
            continue
        shown = repr(name[:40])
        if name in of_form:
            raise _wrong(f"{shown} stands in the address: send it as a field of the form.")
        close = difflib.get_close_matches(name[:40], known, n=1)
        if close:
            raise _wrong(f"There is no field {shown}: did you mean {close[0]!r}?")
        raise _wrong(f"There is no field {shown}: this address takes {', '.join(known) or 'none'}.")


def _wrong(sentence: str) -> ServiceError:
    return ServiceError(422, "usage", sentence)
