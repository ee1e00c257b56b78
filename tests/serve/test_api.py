"""The HTTP API: the SDK's own answers, errors with sentences, and nothing of the server's disk."""

from __future__ import annotations

import io
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from tiny_bundle import TinyModel, write_tiny_bundle

from ztcir_sdk import Query, Retriever, UsageError
from ztcir_sdk.query.batch import BatchQuery
from ztcir_sdk.serve.app import create_app
from ztcir_sdk.serve.models import BatchLine
from ztcir_sdk.serve.settings import ServeSettings

API = "/api/v1"
Serve = Callable[..., TestClient]
COUNT = 12


def png(seed: int) -> bytes:
    """Return an image of four quarters, each of another colour."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(colours).resize((24, 16), Image.Resampling.NEAREST).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, their metadata and their index."""
    place = tmp_path_factory.mktemp("secret-place")
    (place / "photos" / "more").mkdir(parents=True)
    lines = ["path,colour,price"]
    for seed in range(COUNT):
        name = f"more/{seed:02}.png" if seed % 3 == 0 else f"{seed:02}.png"
        (place / "photos" / name).write_bytes(png(seed))
        lines.append(f"{name},{('red', 'blue')[seed % 2]},{seed}")
    (place / "items.csv").write_text("\n".join(lines))
    retriever = Retriever(write_tiny_bundle(place / "tiny", TinyModel()), threads=1)
    retriever.index(place / "photos", to=place / "photos.ztcir", metadata=place / "items.csv")
    return place


@pytest.fixture(scope="session")
def retriever(place: Path) -> Retriever:
    return Retriever(place / "tiny", threads=1)


@pytest.fixture
def serve(place: Path, retriever: Retriever) -> Iterator[Serve]:
    """Start a service with the given settings; return its client."""
    clients: list[TestClient] = []

    def start(index: Path | None = None, **settings: object) -> TestClient:
        made = ServeSettings(**settings)  # type: ignore[arg-type]
        app = create_app(retriever, index or place / "photos.ztcir", made)
        client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture(scope="session")
def client(place: Path, retriever: Retriever) -> Iterator[TestClient]:
    """A service with the settings that it has by default."""
    app = create_app(retriever, place / "photos.ztcir")
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def error_of(answer: object) -> tuple[int, str, str]:
    """Return status, kind and sentence of an error, which has one of its own shape."""
    body = json.loads(answer.text)  # type: ignore[attr-defined]
    assert set(body) == {"error"}
    assert set(body["error"]) == {"kind", "message"}
    assert "\n" not in body["error"]["message"]
    return answer.status_code, body["error"]["kind"], body["error"]["message"]  # type: ignore[attr-defined]


def ids(client: TestClient) -> dict[str, str]:
    """Return name -> identifier of every item."""
    return {one["name"]: one["id"] for one in client.get(f"{API}/items").json()["items"]}


# --- answers -------------------------------------------------------------------------------------


def test_an_upload_and_a_text_are_answered_as_by_the_sdk(
    client: TestClient, retriever: Retriever, place: Path
) -> None:
    answer = client.post(
        f"{API}/search",
        files={"image": ("any name.png", png(3))},
        data={"text": "in red", "k": "5"},
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    expected = retriever.search(png(3), "in red", 5, index=place / "photos.ztcir")
    assert [hit["name"] for hit in body["hits"]] == [
        Path(hit.path).relative_to(place / "photos").as_posix() for hit in expected
    ]
    np.testing.assert_allclose(
        [hit["score"] for hit in body["hits"]], [hit.score for hit in expected], atol=1e-5
    )
    assert [hit["metadata"] for hit in body["hits"]] == [hit.metadata for hit in expected]
    assert body["searched"] == COUNT
    assert body["milliseconds"] > 0


def test_an_upload_is_encoded_once_for_many_texts(
    client: TestClient, retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    identifier = client.post(f"{API}/references", files={"image": png(99)}).json()["id"]
    monkeypatch.setattr(Retriever, "references", lambda *_: pytest.fail("encoded again"))
    monkeypatch.setattr(type(retriever.encoder), "encode_references", None)
    for text in ("in red", "in blue"):
        data = {"reference": identifier, "text": text}
        # no new image: only the text graph runs
        monkeypatch.setattr(Retriever, "references", lambda self, images: _none(images))
        assert client.post(f"{API}/search", data=data).status_code == 200


def _none(images: list[object]) -> list[object]:
    assert images == []
    return []


def test_an_item_is_a_reference_and_every_part_of_a_query_counts(
    client: TestClient, retriever: Retriever, place: Path
) -> None:
    names = ids(client)
    data = {
        "reference": [names["01.png"], names["02.png"]],
        "text": "in red",
        "weights": "2,1,1",
        "not": ["stripes", " "],
        "unlike": names["04.png"],
        "k": "3",
        "offset": "2",
    }
    found = client.post(f"{API}/search", data=data).json()["hits"]
    photos = place / "photos"
    query = Query(
        images=[(photos / "01.png", 2), photos / "02.png"],
        texts="in red",
        without="stripes",
        unlike=photos / "04.png",
    )
    expected = retriever.search(query, k=5, index=place / "photos.ztcir")[2:]
    assert [hit["rank"] for hit in found] == [3, 4, 5]
    assert [hit["name"].split("/")[-1] for hit in found] == [
        Path(hit.path).name for hit in expected
    ]


def test_a_step_goes_on_from_those_before_it(
    client: TestClient, retriever: Retriever, place: Path
) -> None:
    names = ids(client)
    data = {
        "reference": names["02.png"],
        "text": "for women",
        "former": [names["01.png"], names["04.png"]],
        "former_text": ["in red", "with stripes"],
    }
    found = client.post(f"{API}/search", data=data).json()["hits"]
    photos = place / "photos"
    index = Retriever(place / "tiny", threads=1, index=place / "photos.ztcir")
    first, second, third = index.references([photos / f"{n}.png" for n in ("01", "04", "02")])
    trail = first.refine(second, asked="in red").refine(third, asked="with stripes")
    expected = trail.search("for women", k=24)
    assert [hit["id"] for hit in found] == [hit.content_hash for hit in expected]
    assert not {hit["name"] for hit in found} & {"01.png", "02.png", "04.png"}
    alone = client.post(f"{API}/search", data={"reference": data["reference"], "text": "for women"})
    assert [hit["score"] for hit in alone.json()["hits"]][:5] != [hit["score"] for hit in found][:5]
    for wrong, part in (
        ({**data, "former_text": "in red"}, "2 images and former_text 1 texts"),
        ({**data, "reference": [names["02.png"], names["05.png"]]}, "one image"),
        ({**data, "former_text": ["in red", "x" * 501]}, "500 characters"),
    ):
        status, kind, message = error_of(client.post(f"{API}/search", data=wrong))
        assert (status, kind) == (422, "usage")
        assert part in message


def test_copies_are_shown_once_and_named(serve: Serve, place: Path, retriever: Retriever) -> None:
    folder = place / "copied" / "photos"
    shutil.copytree(place / "photos", folder)
    shutil.copy(folder / "01.png", folder / "copy.png")
    Retriever(place / "tiny", threads=1).index(folder, to=place / "copied" / "photos.ztcir")
    client = serve(place / "copied" / "photos.ztcir")
    data = {"text": "red", "k": "50"}
    every = client.post(f"{API}/search", data=data).json()["hits"]
    assert all(hit["duplicates"] == [] for hit in every)
    once = client.post(f"{API}/search", data={**data, "unique": "true"}).json()["hits"]
    pairs = {(hit["name"], *hit["duplicates"]) for hit in once if hit["duplicates"]}
    assert {name for pair in pairs for name in pair} >= {"01.png", "copy.png"}
    fewer = client.post(f"{API}/search", data={**data, "unique_from": "0.01"}).json()["hits"]
    assert len(fewer) < len(once) < len(every) == COUNT + 1


def test_a_collection_that_is_moved_while_it_is_searched_keeps_its_names(
    serve: Serve, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve()
    moved = Path("/elsewhere")
    monkeypatch.setattr("ztcir_sdk.index.view.IndexView.root", property(lambda self: moved))
    hits = client.post(f"{API}/search", data={"text": "red"})
    assert hits.status_code == 200, hits.text
    assert all(not hit["name"].startswith("/") for hit in hits.json()["hits"])


def test_a_file_of_queries_is_answered_line_by_line(
    client: TestClient, retriever: Retriever, place: Path
) -> None:
    names = ids(client)
    file = (
        "id,image,text,not,strength,where\n"
        f"a,{names['01.png']},in red,stripes,0.5,\n"
        "b,,a shirt,,,price < 3\n"
        "c,../secret.png,red,,,\n"
        "d,,,,,\n"
        f"e,,{'x' * 600},,,\n"
        "f,,red,,,no_field = 3\n"
    )
    answer = client.post(f"{API}/batch", files={"queries": ("queries.csv", file)}, data={"k": "3"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["id"] for line in lines] == list("abcdef")
    query = Query(place / "photos" / "01.png", "in red", without="stripes", strength=0.5)
    expected = retriever.search(query, k=3, index=place / "photos.ztcir")
    assert [hit["id"] for hit in lines[0]["hits"]] == [hit.content_hash for hit in expected]
    assert len(lines[1]["hits"]) == 3
    kinds = [line["error"]["kind"] for line in lines[2:]]
    assert kinds == ["unknown-reference", "usage", "usage", "usage"]
    assert "500 characters" in lines[4]["error"]["message"]
    for name, data, part in (
        ("queries.csv", "colour\nred\n", "header"),
        ("many.jsonl", '{"text": "red"}\n' * 1001, "1000 queries"),
        ("bad.csv", b"text\n\xff\n", "UTF-8"),
    ):
        refused = client.post(f"{API}/batch", files={"queries": (name, data)})
        status, _, message = error_of(refused)
        assert status == 422
        assert part in message


def test_a_file_of_queries_is_read_beside_other_requests_and_not_for_ever(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(timeout=0.6)
    read: list[BatchQuery] = []

    def slow(*_: object, **__: object) -> Iterator[BatchQuery]:
        while len(read) < 200:
            time.sleep(0.02)
            read.append(BatchQuery("a", None, "slow"))
            yield read[-1]

    monkeypatch.setattr("ztcir_sdk.serve.batch.parse_batch", slow)
    statuses: list[int] = []

    def ask() -> None:
        files = {"queries": ("queries.csv", "text\nred\n")}
        statuses.append(client.post(f"{API}/batch", files=files).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    while not read:
        time.sleep(0.01)
    assert client.get("/healthz").status_code == 200
    assert asking.is_alive()
    asking.join()
    assert statuses == [504]
    time.sleep(0.1)
    many = len(read)
    time.sleep(0.2)
    assert len(read) == many < 200  # nobody waits for the rest


def test_a_filter_of_a_row_is_bounded_like_that_of_a_search(client: TestClient) -> None:
    where = "price > 0" + " AND price > 0" * 143  # 2011 characters
    file = f"id,text,where\na,red,{where}\nb,red,{where[:-14]}\n"
    answer = client.post(f"{API}/batch", files={"queries": ("queries.csv", file)})
    first, second = (json.loads(line) for line in answer.text.splitlines())
    assert "A filter may have 2000 characters, not 2011" in first["error"]["message"]
    assert len(second["hits"]) == 10


def test_an_image_that_many_queries_name_is_encoded_once(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve()
    name = ids(client)["05.png"]
    encoded: list[object] = []
    reference = Retriever.reference

    def counted(self: Retriever, image: object) -> object:
        encoded.append(image)
        time.sleep(0.05)
        return reference(self, image)  # type: ignore[arg-type]

    monkeypatch.setattr(Retriever, "reference", counted)
    rows = [json.dumps({"image": name, "text": f"text {number}"}) for number in range(8)]
    files = {"queries": ("queries.jsonl", "\n".join(rows))}
    answer = client.post(f"{API}/batch", files=files)
    assert all("hits" in json.loads(line) for line in answer.text.splitlines())
    assert len(encoded) == 1


def test_hits_are_filtered_and_paged(client: TestClient) -> None:
    data = {"text": "a shirt", "where": "colour = 'red' AND price < 6", "k": "2"}
    first = client.post(f"{API}/search", data=data).json()["hits"]
    rest = client.post(f"{API}/search", data={**data, "offset": "2"}).json()["hits"]
    assert sorted(int(hit["metadata"]["price"]) for hit in [*first, *rest]) == [0, 2, 4]
    wrong = client.post(f"{API}/search", data={**data, "where": "size = 3; DROP TABLE items"})
    assert error_of(wrong)[0] == 422
    least = client.post(f"{API}/search", data={"text": "a shirt", "min_score": "1"}).json()
    assert least["hits"] == []


def test_words_alone_and_images_alone_are_answered(client: TestClient) -> None:
    words = client.post(f"{API}/search", data={"text": "a red dress", "k": "50"}).json()
    assert len(words["hits"]) == COUNT
    alone = client.post(f"{API}/search", data={"reference": ids(client)["01.png"]}).json()
    assert len(alone["hits"]) == COUNT - 1


def test_items_are_listed_described_and_drawn(client: TestClient) -> None:
    first = client.get(f"{API}/items", params={"limit": 5}).json()
    rest = client.get(f"{API}/items", params={"offset": 5}).json()
    assert first["total"] == COUNT
    assert len(first["items"]) + len(rest["items"]) == COUNT
    one = first["items"][0]
    assert client.get(f"{API}/items/{one['id']}").json() == one
    assert one["metadata"] == {"path": one["name"], "colour": "blue", "price": 1} or one["metadata"]
    drawn = client.get(f"{API}/items/{one['id']}/thumbnail", params={"side": 16})
    assert drawn.headers["content-type"] == "image/jpeg"
    assert "immutable" in drawn.headers["cache-control"]
    with Image.open(io.BytesIO(drawn.content)) as image:
        assert image.format == "JPEG"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", f"{API}/search", "POST"),
        ("HEAD", f"{API}/batch", "POST"),
        ("DELETE", f"{API}/search", "POST"),
        ("POST", f"{API}/info", "GET, HEAD"),
        ("PUT", "/healthz", "GET, HEAD"),
        ("POST", "/main.js", "GET, HEAD"),
    ],
)
def test_a_method_that_an_address_does_not_take_is_answered_with_those_that_it_takes(
    client: TestClient, method: str, path: str, allowed: str
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed
    if method != "HEAD":
        assert error_of(answer)[1] == "method"


@pytest.mark.parametrize("path", ["/healthz", f"{API}/info", f"{API}/items", "/", "/main.js"])
def test_head_is_answered_like_get_without_a_body(client: TestClient, path: str) -> None:
    head, whole = client.head(path), client.get(path)
    assert head.status_code == 200
    assert head.content == b""
    for name in ("content-length", "content-type"):
        assert head.headers[name] == whole.headers[name]


def test_info_says_what_can_be_asked(client: TestClient) -> None:
    about = client.get(f"{API}/info").json()
    fields = {field["name"]: field for field in about["fields"]}
    assert sorted(fields["colour"]["values"]) == ["blue", "red"]
    assert about["items"] == COUNT
    assert about["limits"]["max_upload_mb"] == 20
    assert about["limits"]["max_queries"] == 1000
    assert about["limits"]["max_where"] == 2000
    assert about["default_method"] == "composed"


def test_each_choice_of_a_field_can_be_asked_for(serve: Serve, place: Path, tmp_path: Path) -> None:
    """What /info offers, written as it says, finds the items that have it."""
    metadata: list[dict[str, Any]] = [
        {"stock": True, "size": 5, "seller": {"city": "Rome", "no": 1}, "path": "x", 'a"b': "y"},
        {"stock": False, "size": 7, "seller": {"city": "Oslo", "no": 2}, "and": "O'Hara"},
        {"stock": True, "size": "abc", "seller": {"city": "Rome", "no": 3}, "tags": ["new"]},
        {"stock": True, "size": "5", "note": "n" * 300, "a.b": "dotted"},
    ]
    (tmp_path / "photos").mkdir()
    for number, values in enumerate(metadata):
        (tmp_path / "photos" / f"{number}.png").write_bytes(png(300 + number))
        (tmp_path / "photos" / f"{number}.json").write_text(json.dumps(values))
    Retriever(place / "tiny", threads=1).index(tmp_path / "photos", to=tmp_path / "x.ztcir")
    client = serve(tmp_path / "x.ztcir")
    fields = {field["name"]: field for field in client.get(f"{API}/info").json()["fields"]}
    assert fields.keys() == {"stock", "size", "seller.city", "seller.no", "and", "a.b", "note"}
    assert fields["stock"]["values"] == [True, False]
    assert fields["size"]["values"] == [5, 7, "abc"]
    assert fields["note"]["values"] == []  # too long to be chosen
    assert fields["seller.no"]["kind"] == "number"
    found: dict[tuple[str, str], int] = {}
    for name, field in fields.items():
        for value in field["values"]:
            text = value.replace("'", "''") if isinstance(value, str) else ""
            literal = f"'{text}'" if isinstance(value, str) else json.dumps(value)
            params = {"where": f"{field['where']} = {literal}"}
            answer = client.get(f"{API}/items", params=params)
            assert answer.status_code == 200, answer.text
            found[name, str(value)] = answer.json()["total"]
    assert found == {
        ("stock", "True"): 3,
        ("stock", "False"): 1,
        ("size", "5"): 2,  # the text "5" too
        ("size", "7"): 1,
        ("size", "abc"): 1,
        ("seller.city", "Rome"): 2,
        ("seller.city", "Oslo"): 1,
        ("and", "O'Hara"): 1,
        ("a.b", "dotted"): 1,
    }


def test_openapi_says_what_a_program_needs_to_know(
    client: TestClient, retriever: Retriever
) -> None:
    described = client.get("/openapi.json").json()
    schemas, paths = described["components"]["schemas"], described["paths"]
    schemes = described["components"]["securitySchemes"]
    assert {one["type"] for one in schemes.values()} == {"http", "apiKey"}
    for path, operations in paths.items():
        for operation in operations.values():
            assert {"405", "500"} <= operation["responses"].keys()
            open_to_all = path in ("/healthz", f"{API}/session")
            assert ("security" in operation) != open_to_all
    for name in ("Body_search", "Body_batch"):
        methods = schemas[name]["properties"]["method"]["enum"]
        assert methods == list(retriever.bundle.manifest.methods)
    assert {"usage", "method", "request", "defect"} <= {
        *schemas["ErrorDetail"]["properties"]["kind"]["enum"]
    }
    [kind] = paths["/metrics"]["get"]["responses"]["200"]["content"]
    assert kind == client.get("/metrics").headers["content-type"]
    assert schemas["BatchLine"]["required"] == ["id"]
    answer = client.post(f"{API}/batch", files={"queries": ("a.csv", "text\nred\n&nbsp;\n")})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [BatchLine.model_validate(line).error is None for line in lines] == [True, False]
    assert all(line.keys() <= schemas["BatchLine"]["properties"].keys() for line in lines)


def test_items_are_listed_by_a_filter(client: TestClient) -> None:
    listed = client.get(f"{API}/items", params={"where": "colour = 'blue'", "limit": 2}).json()
    assert {one["metadata"]["colour"] for one in listed["items"]} == {"blue"}
    assert 0 < listed["total"] < COUNT
    refused = client.get(f"{API}/items", params={"where": "colour ="})
    assert refused.status_code == 422
    assert refused.json()["error"]["kind"] == "usage"


def test_health_and_metrics_count(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok", "items": COUNT}
    client.post(f"{API}/search", data={"text": "red"})
    text = client.get("/metrics").text
    assert f"ztcir_index_items {COUNT}.0" in text
    assert 'ztcir_requests_total{method="POST",route="/api/v1/search",status="200"}' in text


def test_methods_that_nobody_knows_are_counted_as_one(serve: Serve) -> None:
    client = serve(token="a secret token")
    for number in range(5):
        client.request(f"ODD{number}", f"{API}/search")
    headers = {"authorization": "Bearer a secret token"}
    text = client.get("/metrics", headers=headers).text
    assert 'ztcir_requests_total{method="other",route="other",status="401"} 5.0' in text
    assert "ODD" not in text


def test_simultaneous_texts_are_answered_in_batches(serve: Serve, retriever: Retriever) -> None:
    client = serve()
    reference = client.post(f"{API}/references", files={"image": png(5)}).json()["id"]
    sizes: list[int] = []
    answers: dict[int, list[str]] = {}
    real = Retriever.search_many

    def slow(self: Retriever, queries: list[Query], *args: object, **options: object) -> object:
        sizes.append(len(queries))
        time.sleep(0.05)
        return real(self, queries, *args, **options)  # type: ignore[arg-type]

    def ask(number: int) -> None:
        data = {"reference": reference, "text": f"number {number}"}
        hits = client.post(f"{API}/search", data=data).json()["hits"]
        answers[number] = [hit["id"] for hit in hits]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Retriever, "search_many", slow)
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(sizes) == 12
    assert max(sizes) > 1
    for number, found in answers.items():  # each its own answer
        data = {"reference": reference, "text": f"number {number}"}
        alone = client.post(f"{API}/search", data=data).json()["hits"]
        assert [hit["id"] for hit in alone] == found


def test_simultaneous_searches_keep_their_own_unique(serve: Serve) -> None:
    client = serve()
    asked: list[object] = []
    real = Retriever.search_many

    def slow(self: Retriever, queries: list[Query], *args: object, **options: object) -> object:
        asked.extend([options["unique"]] * len(queries))
        time.sleep(0.2)
        return real(self, queries, *args, **options)  # type: ignore[arg-type]

    def ask(data: dict[str, str]) -> None:
        assert client.post(f"{API}/search", data={"text": "red", **data}).status_code == 200

    sent = [{}, {"unique": "true"}, {"unique_from": "1"}, {"unique": "true"}, {"unique_from": "1"}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Retriever, "search_many", slow)
        threads = [threading.Thread(target=ask, args=(data,)) for data in sent]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(map(repr, asked)) == ["1.0", "1.0", "False", "True", "True"]


def test_one_clients_mistake_is_no_others(serve: Serve) -> None:
    client = serve()
    kinds: list[int] = []

    def ask(text: str) -> None:
        kinds.append(client.post(f"{API}/search", data={"text": text}).status_code)

    threads = [threading.Thread(target=ask, args=(text,)) for text in ["red", "&nbsp;"] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(kinds) == [200] * 4 + [422] * 4


def test_an_index_that_another_process_updates_is_taken_up(
    serve: Serve, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ztcir_sdk.serve.gallery.REFRESH_SECONDS", 0.0)
    shutil.copytree(place / "photos", tmp_path / "photos")
    other = Retriever(place / "tiny", threads=1)
    other.index(tmp_path / "photos", to=tmp_path / "x.ztcir")
    client = serve(tmp_path / "x.ztcir")
    assert client.get("/healthz").json()["items"] == COUNT
    (tmp_path / "photos" / "new.png").write_bytes(png(77))
    other.index(tmp_path / "photos", to=tmp_path / "x.ztcir")
    assert client.get("/healthz").json()["items"] == COUNT + 1
    assert "new.png" in ids(client)
    shutil.rmtree(tmp_path / "x.ztcir")  # what is open still answers
    assert client.get("/healthz").json()["items"] == COUNT + 1


# --- errors and limits ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status", "sentence"),
    [
        ({}, 422, "query is empty"),
        ({"text": "x" * 501}, 422, "may have 500 characters, not 501"),
        ({"text": "red", "k": "0"}, 422, "k: "),
        ({"text": "red", "k": "201"}, 422, "k: "),
        ({"text": "red", "offset": "-1"}, 422, "offset: "),
        ({"text": "red", "method": "magic"}, 422, "no method 'magic'"),
        ({"text": "red", "method": "image"}, 422, "needs an image"),
        ({"text": "red", "weights": "1,2"}, 422, "1 in all"),
        ({"text": "red", "weights": "nan"}, 422, "must be above 0"),
        ({"text": ["red"] * 17}, 422, "16 images and texts, not 17"),
        ({"reference": "0" * 64}, 404, "neither an image of the index nor an upload that is still"),
        ({"reference": "../../etc/passwd"}, 404, "upload it again"),
        ({"text": "red", "unlike": "' OR 1=1"}, 404, "upload it again"),
    ],
)
def test_a_wrong_search_is_a_sentence(
    client: TestClient, data: dict[str, str], status: int, sentence: str
) -> None:
    answer = client.post(f"{API}/search", data=data)
    found, _, message = error_of(answer)
    assert (found, sentence in message) == (status, True), message


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("path", "sent", "sentence"),
    [
        ("search", {"json": {"text": "red"}}, "must be a form, not application/json"),
        ("search", {"content": b"red"}, "must be a form: send it as in curl -F text=TEXT"),
        (
            "references",
            {"content": b"\xff\xd8\xff", "headers": {"content-type": "image/jpeg"}},
            "must be a form, not image/jpeg: send it as in curl -F image=@FILE",
        ),
        (
            "references",
            {"content": b"\xff\xd8&=", "headers": {"content-type": FORM}},
            "image=@FILE",
        ),
        ("references", {"files": {"text": (None, "red")}}, "no field 'text'"),
        ("references", {"files": {"image": (None, "ref.jpg")}}, "upload it with @"),
        ("references", {}, "The form lacks image"),
        ("search", {"files": {"image": (None, "ref.jpg")}}, "as in -F image=@FILE"),
        ("search", {"files": {"text": ("a.txt", b"red")}}, "text is a file, and must be a text"),
        ("search", {"data": {"text": "red", "wher": "price = 3"}}, "did you mean 'where'?"),
        ("search", {"data": {"text": "red", "limit": "1"}}, "no field 'limit': this address takes"),
        ("search?k=3", {"data": {"text": "red"}}, "'k' stands in the address"),
        ("search", {"files": {"text": (None, "a" * 1_100_000)}}, "field of the form has over 1 MB"),
        (
            "batch",
            {"files": {"queries": ("a.csv", b"text\nred"), "methd": (None, "sum")}},
            "'method'?",
        ),
        ("batch", {"data": {"k": "3"}}, "curl -F queries=@FILE"),
        ("session", {"data": {"tokem": "x"}}, "did you mean 'token'?"),
    ],
)
def test_a_form_that_would_be_misread_is_a_sentence(
    client: TestClient, path: str, sent: dict[str, Any], sentence: str
) -> None:
    status, kind, message = error_of(client.post(f"{API}/{path}", **sent))
    assert (status, kind) == ((413, "too-large") if "1 MB" in sentence else (422, "usage"))
    assert sentence in message


def test_an_unknown_part_of_an_address_is_a_sentence(client: TestClient) -> None:
    for path, sentence in (
        ("items?limt=3", "There is no field 'limt': did you mean 'limit'?"),
        ("info?x=3", "There is no field 'x': this address takes none."),
    ):
        status, kind, message = error_of(client.get(f"{API}/{path}"))
        assert (status, kind, message) == (422, "usage", sentence)
    assert client.get("/healthz?probe=1").status_code == 200


def bomb() -> bytes:
    stream = io.BytesIO()
    Image.new("1", (9000, 9000)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "status", "sentence"),
    [
        (b"", 422, "uploaded image"),
        (b"no image", 422, "not an image"),
        (png(1)[:50], 422, "uploaded image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "not an image"),
        (b"%!PS\n(/etc/passwd) run", 422, "not an image"),
        ("bomb", 413, "81 megapixels, more than 60"),
        (b"x" * 20_000_001, 413, "over 20 MB"),
    ],
)
def test_a_hostile_upload_is_a_sentence(
    client: TestClient, data: bytes | str, status: int, sentence: str
) -> None:
    content = bomb() if isinstance(data, str) else data
    answer = client.post(f"{API}/references", files={"image": ("../../x.png", content)})
    found, _, message = error_of(answer)
    assert (found, sentence in message) == (status, True), message
    assert client.get("/healthz").status_code == 200


def test_a_body_without_a_length_is_bounded_too(serve: Serve) -> None:
    client = serve(max_upload_mb=1)

    def parts() -> object:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(30):
            yield b"0" * 100_000

    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = client.post(f"{API}/references", content=parts(), headers=headers)  # type: ignore[arg-type]
    assert error_of(answer)[:2] == (413, "too-large")


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/pyproject.toml",
        "/app.py",
        "/../app.py",
        f"{API}/items/..%2F..%2Fsecret/thumbnail",
        f"{API}/items/%00/thumbnail",
        "//etc/passwd",
    ],
)
def test_no_path_of_the_server_can_be_read(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    error_of(answer)


def test_no_answer_names_a_path_of_the_server(client: TestClient, place: Path) -> None:
    answers = [
        client.get(f"{API}/items"),
        client.get(f"{API}/info"),
        client.get("/metrics"),
        client.get("/openapi.json"),
        client.post(f"{API}/search", data={"text": "red"}),
        client.post(f"{API}/references", files={"image": b"x"}),
    ]
    assert not [answer.text for answer in answers if place.name in answer.text]


def test_an_item_that_leads_out_of_the_collection_is_not_read(
    serve: Serve, place: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(png(1))
    (tmp_path / "private.png").write_bytes(png(2))
    other = Retriever(place / "tiny", threads=1)
    other.index(tmp_path / "photos", to=tmp_path / "x.ztcir")
    client = serve(tmp_path / "x.ztcir")
    [identifier] = ids(client).values()
    (tmp_path / "photos" / "a.png").unlink()
    (tmp_path / "photos" / "a.png").symlink_to(tmp_path / "private.png")
    answer = client.get(f"{API}/items/{identifier}/thumbnail?side=1024")
    assert error_of(answer)[0] == 404


def test_a_replaced_file_is_not_served_under_the_identifier_of_the_old_one(
    serve: Serve, place: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(201))
    (folder / "b.png").write_bytes(png(202))
    Retriever(place / "tiny", threads=1).index(folder, to=tmp_path / "x.ztcir")
    client = serve(tmp_path / "x.ztcir")
    identifier = ids(client)["a.png"]
    (folder / "a.png").write_bytes(png(203))
    for answer in (
        client.get(f"{API}/items/{identifier}/thumbnail"),
        client.post(f"{API}/search", data={"reference": identifier}),
    ):
        status, kind, message = error_of(answer)
        assert (status, kind) == (404, "not-found")
        assert "was replaced since it was indexed: update the index" in message
    (folder / "a.png").write_bytes(png(201))  # touched, but the same: only the content counts
    assert client.get(f"{API}/items/{identifier}/thumbnail").status_code == 200


def test_an_item_is_drawn_and_searched_from_whichever_of_its_copies_is_left(
    serve: Serve, place: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        (folder / name).write_bytes(png(210))
    (folder / "d.png").write_bytes(png(211))
    Retriever(place / "tiny", threads=1).index(folder, to=tmp_path / "x.ztcir")
    client = serve(tmp_path / "x.ztcir")
    identifier = ids(client)["a.png"]
    assert ids(client)["c.png"] == identifier
    (folder / "a.png").unlink()
    (folder / "b.png").write_bytes(png(212))
    for side in (320, 1024):
        drawn = client.get(f"{API}/items/{identifier}/thumbnail", params={"side": side})
        assert drawn.status_code == 200, drawn.text
    answer = client.post(f"{API}/search", data={"reference": identifier})
    assert [hit["name"] for hit in answer.json()["hits"]] == ["d.png"]


def test_a_token_is_asked_for_where_there_is_one(serve: Serve) -> None:
    client = serve(token="a secret token")
    for path in (f"{API}/info", f"{API}/items", "/metrics"):
        assert error_of(client.get(path))[:2] == (401, "token")
        for header in ("Bearer wrong", "a secret token", "Basic a secret token", "Bearer"):
            assert client.get(path, headers={"authorization": header}).status_code == 401
        right = {"authorization": "Bearer a secret token"}
        assert client.get(path, headers=right).status_code == 200
    assert client.get("/healthz").status_code == 200
    assert client.get("/").status_code == 200  # the page, which asks for the token
    assert error_of(client.post(f"{API}/session", data={"token": "wrong"}))[0] == 401
    assert client.get(f"{API}/info").status_code == 401
    kept = client.post(f"{API}/session", data={"token": "a secret token"})
    assert kept.status_code == 204
    assert "httponly" in kept.headers["set-cookie"].lower()
    assert "samesite=strict" in kept.headers["set-cookie"].lower()
    assert client.get(f"{API}/info").status_code == 200


def test_other_hosts_and_origins_are_not_served(serve: Serve) -> None:
    client = serve()
    for host in ("evil.example", "localhost.evil.example", "", "10.0.0.1:8000"):
        assert error_of(client.get(f"{API}/info", headers={"host": host}))[:2] == (421, "host")
    for host in ("localhost:8000", "127.0.0.1:1", "[::1]:8000", "LOCALHOST"):
        assert client.get(f"{API}/info", headers={"host": host}).status_code == 200
    origin = {"origin": "https://shop.example"}
    assert "access-control-allow-origin" not in client.get(f"{API}/info", headers=origin).headers
    named = serve(cors_origins=("https://shop.example",), allowed_hosts=("photos.example",))
    headers = {**origin, "host": "photos.example"}
    allowed = named.get(f"{API}/info", headers=headers).headers
    assert allowed["access-control-allow-origin"] == "https://shop.example"
    public = serve(host="0.0.0.0")
    assert public.get(f"{API}/info", headers={"host": "any.example"}).status_code == 200


def test_a_page_of_a_named_origin_may_ask_with_a_token_and_read_refusals(serve: Serve) -> None:
    shop = "https://shop.example"
    client = serve(cors_origins=(shop,), token="a secret token")
    asked = {"origin": shop, "access-control-request-method": "POST"}
    asked["access-control-request-headers"] = "authorization"
    allowed = client.options(f"{API}/search", headers=asked)  # a browser sends no token here
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == shop
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    assert client.options(f"{API}/search", headers={**asked, "origin": "null"}).status_code == 400
    for path, status in ((f"{API}/info", 401), ("/nothing", 404)):
        refused = client.get(path, headers={"origin": shop})
        assert error_of(refused)[0] == status
        assert refused.headers["access-control-allow-origin"] == shop
    token = {"authorization": "Bearer a secret token"}
    large = client.post(
        f"{API}/search", content=b"a" * 1_100_000, headers={**token, "origin": shop}
    )
    assert error_of(large)[0] == 413
    assert large.headers["access-control-allow-origin"] == shop


@pytest.mark.parametrize(
    ("origins", "policy"), [((), "same-origin"), (("https://shop.example",), "cross-origin")]
)
def test_other_sites_show_thumbnails_only_where_origins_are_named(
    serve: Serve, origins: tuple[str, ...], policy: str
) -> None:
    client = serve(cors_origins=origins)
    [identifier, *_] = ids(client).values()
    drawn = client.get(f"{API}/items/{identifier}/thumbnail")
    assert drawn.headers["cross-origin-resource-policy"] == policy
    page = client.get("/")
    assert page.headers["cross-origin-resource-policy"] == "same-origin"


def test_requests_are_bounded_in_number_and_time(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(max_requests=2, timeout=0.3)
    monkeypatch.setattr(Retriever, "search_many", lambda *_, **__: time.sleep(0.8))
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(client.post(f"{API}/search", data={"text": "red"}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {503, 504}
    assert statuses.count(504) <= 3


def test_an_unexpected_failure_is_a_sentence_and_is_logged(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = serve()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("at /private/path")

    monkeypatch.setattr(Retriever, "search_many", fail)
    with caplog.at_level(logging.INFO, logger="ztcir.serve"):
        status, kind, message = error_of(client.post(f"{API}/search", data={"text": "red"}))
    assert (status, kind) == (500, "defect")
    assert "/private/path" not in message
    assert any(record.exc_info for record in caplog.records)


def test_each_request_is_one_line_of_json(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    from ztcir_sdk.serve.logs import JsonLines

    client = serve()
    with caplog.at_level(logging.INFO, logger="ztcir.serve"):
        answer = client.get(f"{API}/items?where=secret=1")
    [record] = [one for one in caplog.records if one.getMessage() == "request"]
    line = json.loads(JsonLines().format(record))
    assert line["path"] == f"{API}/items"
    assert line["status"] == 422
    assert line["request"] == answer.headers["x-request-id"]
    assert "secret" not in JsonLines().format(record)


@pytest.mark.parametrize("path", ["/", "/main.js", f"{API}/info", f"{API}/nothing"])
def test_every_answer_has_the_headers_that_protect_the_page(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert len(headers["x-request-id"]) == 16


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"token": "short"}, "at least 8 characters"),
        ({"max_upload_mb": 0}, "max_upload_mb must be at least 1"),
        ({"timeout": 0}, "timeout must be above 0"),
    ],
)
def test_wrong_settings_are_a_sentence(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        ServeSettings(**settings)  # type: ignore[arg-type]


def test_the_page_loads_nothing_from_elsewhere() -> None:
    import ztcir_sdk.serve

    folder = Path(ztcir_sdk.serve.__file__).parent / "page"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"index.html", "style.css", "main.js"} <= {path.name for path in files}
    for path in files:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text
        assert "innerHTML" not in text
