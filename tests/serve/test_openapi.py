"""Requests that schemathesis makes of the service's OpenAPI: each answer is as described."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from PIL import Image
from tiny_bundle import write_tiny_bundle

from ztcir_sdk import Retriever
from ztcir_sdk.serve.app import create_app
from ztcir_sdk.serve.settings import ServeSettings

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")

CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.missing_required_header,
    checks.unsupported_method,
]
FORMS = ("search", "batch", "upload", "session")
"""A wrong type, such as `false` for a list of texts, is a right text once it is in a form."""
OPERATIONS = (
    "search",
    "batch",
    "upload",
    "items",
    "item",
    "thumbnail",
    "info",
    "session",
    "health",
    "metrics",
)
CANNOT_BE_WRONG = [("negative", name) for name in ("item", "info", "health", "metrics")]
EXAMPLES = 20
"""Requests of each operation, right ones and wrong ones."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three photos and their index."""
    place = tmp_path_factory.mktemp("openapi")
    (place / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (20, 20), (80 * number, 0, 90)).save(place / "photos" / f"{number}.png")
    write_tiny_bundle(place / "tiny")
    Retriever(place / "tiny", threads=1).index(place / "photos", to=place / "photos.ztcir")
    return place


@pytest.fixture(scope="module")
def described(place: Path) -> Any:
    """The service's OpenAPI, with the service to ask."""
    settings = ServeSettings(max_upload_mb=1)
    app = create_app(Retriever(place / "tiny", threads=1), place / "photos.ztcir", settings)

    async def running(scope: Any, receive: Any, send: Any) -> None:
        """The service, which no client starts and stops."""
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})
        else:
            await app(scope, receive, send)

    return schemathesis.openapi.from_asgi("/openapi.json", running, headers={"host": "localhost"})


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_answer_is_as_described(described: Any, name: str, mode: Any) -> None:
    operation = described.find_operation_by_id(name)

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        refused = [] if name in FORMS else [checks.negative_data_rejection]
        case.call_and_validate(checks=[*CHECKS, *refused], headers={"host": "localhost"})

    try:
        ask()
    except Unsatisfiable:  # without parameters, or with a name that is any text
        assert (mode.value, name) in CANNOT_BE_WRONG


def test_every_operation_is_asked(described: Any) -> None:
    found = {one.ok().definition.raw["operationId"] for one in described.get_all_operations()}
    assert found == {*OPERATIONS}
