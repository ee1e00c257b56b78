"""`Query`: every way to ask, in vectors computed by hand; arguments and files of queries."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tiny_bundle import TinyModel, unit, write_tiny_bundle

from ztcir_sdk import Hit, ImageError, Query, Retriever, UsageError, ZtcirError
from ztcir_sdk.modification.unwanted import OF_IMAGES, OF_TEXTS
from ztcir_sdk.query import QueryPlan
from ztcir_sdk.query.arguments import split_arguments
from ztcir_sdk.query.batch import read_batch

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    photos = tmp_path_factory.mktemp("asked") / "photos"
    photos.mkdir()
    for seed in range(12):
        colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((24, 16), 0).save(photos / f"{seed:02}.png")
    return photos


@pytest.fixture(scope="module")
def retriever(folder: Path) -> Retriever:
    retriever = Retriever(write_tiny_bundle(folder.parent / "tiny", TinyModel()), threads=1)
    retriever.index(folder, to=folder.parent / "photos.ztcir")
    return retriever


def vector_of(retriever: Retriever, query: Query, method: str = "composed") -> Array:
    """Return the vector that the query is searched with."""
    plan = QueryPlan(retriever.encoder, [query], method)
    images = retriever._encoded([query.positive_images])
    found = plan.vectors(images, retriever._encoded([query.unwanted_images]))
    return np.asarray(found[0])


def assert_same(hits: list[Hit], others: list[Hit]) -> None:
    assert [hit.path for hit in hits] == [hit.path for hit in others]
    np.testing.assert_allclose([h.score for h in hits], [h.score for h in others], atol=1e-5)


# --- vectors -------------------------------------------------------------------------------------


def test_an_image_and_a_text_are_composed_as_without_a_query(
    retriever: Retriever, folder: Path
) -> None:
    path = folder / "01.png"
    expected = retriever.reference(path).encode("in red")
    np.testing.assert_allclose(vector_of(retriever, Query(path, "in red")), expected, atol=1e-6)
    assert_same(retriever.search(Query(path, "in red")), retriever.search(path, "in red"))


def test_an_image_alone_finds_similar_images(retriever: Retriever, folder: Path) -> None:
    path = folder / "01.png"
    expected = retriever.search(path, method="image")
    assert len(expected) == 10
    for hits in (
        retriever.search(path),
        retriever.search(Query(images=path)),
        retriever.reference(path).search(),
        retriever.search(path, method="sum"),
    ):
        assert_same(hits, expected)


def test_a_text_alone_finds_what_it_describes(retriever: Retriever, folder: Path) -> None:
    hits = retriever.search(Query(texts="a red dress"), k=99)
    assert len(hits) == 12  # there is no reference to leave out
    gallery = retriever.encode_images([hit.path for hit in hits])
    [text] = retriever.encode_texts(["a red dress"])
    np.testing.assert_allclose([hit.score for hit in hits], gallery @ text, atol=1e-5)
    assert [hit.score for hit in hits] == sorted([hit.score for hit in hits], reverse=True)


def test_several_images_and_texts_count_by_their_weights(
    retriever: Retriever, folder: Path
) -> None:
    paths = [folder / "01.png", folder / "02.png"]
    texts = ["in red", "with stripes"]
    asked = Query(images=[(paths[0], 2.0), paths[1]], texts=[texts[0], (texts[1], 0.5)])
    total = np.zeros(retriever.dim)
    for path, image_weight in zip(paths, (2.0, 1.0), strict=True):
        for text, text_weight in zip(texts, (1.0, 0.5), strict=True):
            total += image_weight * text_weight * retriever.reference(path).encode(text)
    np.testing.assert_allclose(vector_of(retriever, asked), unit(total), atol=1e-5)
    found = {Path(hit.path).name for hit in retriever.search(asked, k=99)}
    assert len(found) == 10  # neither reference
    assert not {"01.png", "02.png"} & found

    images = Query(images=[(paths[0], 3), paths[1]])
    embeddings = retriever.encode_images(paths)
    expected = unit(3 * embeddings[0] + embeddings[1])
    np.testing.assert_allclose(vector_of(retriever, images), expected, atol=1e-5)


def test_numbers_of_numpy_are_weights(folder: Path) -> None:
    halves: list[Any] = [np.float32(0.5), np.float64(0.5)]
    for half in halves:
        assert Query([(folder, half)], ("red", half)) == Query([(folder, 0.5)], ("red", 0.5))
    assert Query(texts=("red", cast("Any", np.int64(2)))) == Query(texts=("red", 2))


def test_a_weight_moves_the_answer_to_what_it_belongs_to(
    retriever: Retriever, folder: Path
) -> None:
    one, other = folder / "03.png", folder / "04.png"
    alone = vector_of(retriever, Query(one))
    similarity = [
        float(vector_of(retriever, Query(images=[(one, weight), other])) @ alone)
        for weight in (0.1, 1, 10)
    ]
    assert similarity == sorted(similarity)
    assert similarity[2] > 0.99


def test_what_is_unwanted_is_subtracted(retriever: Retriever, folder: Path) -> None:
    path, other = folder / "01.png", folder / "02.png"
    query = retriever.reference(path).encode("in red")
    [stripes] = retriever.encode_texts(["stripes"])
    [picture] = retriever.encode_images([other])
    asked = Query(path, "in red", without="stripes", unlike=[other])
    of_text = OF_TEXTS[0] + OF_TEXTS[1] * max(0, query @ stripes)
    of_image = OF_IMAGES[0] + OF_IMAGES[1] * max(0, query @ picture)
    expected = unit(query - of_text * stripes - of_image * picture)
    np.testing.assert_allclose(vector_of(retriever, asked), expected, atol=1e-5)
    names = [Path(hit.path).name for hit in retriever.search(asked, k=99)]
    assert len(names) == 10
    assert not {"01.png", "02.png"} & set(names)  # what it shall not be like is no answer


@given(st.lists(st.sampled_from(["red", "stripes", "a hood"]), min_size=1, max_size=3))
def test_each_unwanted_text_lowers_its_own_similarity(
    retriever: Retriever, folder: Path, unwanted: list[str]
) -> None:
    before = vector_of(retriever, Query(folder / "05.png", "in blue"))
    [vector] = retriever.encode_texts(unwanted[:1])
    after = vector_of(retriever, Query(folder / "05.png", "in blue", without=unwanted[:1]))
    assert after @ vector < before @ vector


def test_an_encoded_reference_may_stand_in_a_query(retriever: Retriever, folder: Path) -> None:
    reference = retriever.reference(folder / "06.png")
    assert_same(
        retriever.search(Query(reference, "in red")),
        retriever.search(folder / "06.png", "in red"),
    )
    other = Retriever(write_tiny_bundle(folder.parent / "other", TinyModel(seed=1)), threads=1)
    with pytest.raises(UsageError, match="another bundle"):
        retriever.search(Query(other.reference(folder / "06.png"), "in red"))


def test_many_queries_are_answered_as_one_by_one(retriever: Retriever, folder: Path) -> None:
    queries: list[Any] = [
        Query(folder / "01.png", "in red"),
        (folder / "01.png", "in blue"),
        Query(texts="a shirt", without=["red", "blue"]),
        Query(images=[folder / "02.png", (folder / "03.png", 2)], unlike=folder / "04.png"),
        Query(folder / "02.png"),
    ]
    for hits, query in zip(retriever.search_many(queries, 5), queries, strict=True):
        alone = retriever.search(query if isinstance(query, Query) else Query(*query), k=5)
        assert_same(hits, alone)


# --- wrong queries -------------------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[Retriever, Path], Any], str]] = {
    "nothing": (lambda r, p: Query(), "query is empty: give an image, a text, or both"),
    "only unwanted": (lambda r, p: Query(without="red"), "query is empty"),
    "blank": (lambda r, p: Query(p, " "), "text ' ' is empty"),
    "blank unwanted": (lambda r, p: Query(p, without=[""]), "unwanted text '' is empty"),
    "number": (lambda r, p: Query(p, cast("Any", [3])), "text must be a str, not int"),
    "zero": (lambda r, p: Query([(p, 0)]), "weight of .* must be above 0, not 0"),
    "negative": (lambda r, p: Query(texts=("red", -1)), "name what is not wanted in without"),
    "nan": (lambda r, p: Query(texts=("red", float("nan"))), "must be above 0, not nan"),
    "text method": (lambda r, p: r.search(p, method="text"), "method 'text' needs a text"),
    "image method": (
        lambda r, p: r.search(Query(texts="red"), method="image"),
        "method 'image' needs an image",
    ),
    "strength of words": (
        lambda r, p: r.search(Query(texts="red"), strength=1),
        "A strength weighs a text against an image: give both, or leave the strength out",
    ),
    "strength of an image": (lambda r, p: r.search(p, strength=0.5), "strength weighs a text"),
    "own strength of words": (lambda r, p: r.search(Query(texts="red", strength=1)), "strength"),
    "weight of an image": (lambda r, p: r.search(p, method="sum", weight=0.5), "weight weighs"),
    "a list of paths": (
        lambda r, p: r.search_many(cast("Any", [str(p)])),
        "a Query or a pair .*, not str",
    ),
    "paths": (
        lambda r, p: r.search_many(cast("Any", [p])),
        "pair of an image and a text, not .*Path",
    ),
    "three": (lambda r, p: r.search_many(cast("Any", [(p, "red", "sum")])), "pair .* not tuple"),
    "one query": (lambda r, p: r.search_many(cast("Any", Query(p))), "queries must be a list"),
    "a path": (lambda r, p: r.search_many(cast("Any", p)), "queries must be a list"),
    "filter of a list": (lambda r, p: Query(p, where=cast("Any", ["x"])), "A filter is a text"),
    "text twice": (lambda r, p: r.search(Query(p), "red"), "text belongs into the Query"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_query_is_a_sentence(retriever: Retriever, folder: Path, name: str) -> None:
    call, sentence = WRONG[name]
    with pytest.raises(UsageError, match=sentence) as caught:
        call(retriever, folder / "01.png")
    assert "\n" not in str(caught.value)


def test_queries_may_have_a_strength_and_a_filter_of_their_own(
    retriever: Retriever, folder: Path
) -> None:
    image = folder / "00.png"
    where = "path LIKE '%1%'"
    queries = [
        Query(image, "in red", strength=0.3),
        Query(image, "in red"),
        Query(image, "in red", where=where),
        Query(image, "in blue", strength=0.3),
    ]
    found = retriever.search_many(queries, 4, strength=0.8)
    alone = [
        retriever.search(image, "in red", 4, strength=0.3),
        retriever.search(image, "in red", 4, strength=0.8),
        retriever.search(image, "in red", 4, strength=0.8, where=where),
        retriever.search(image, "in blue", 4, strength=0.3),
    ]
    for hits, expected in zip(found, alone, strict=True):
        assert_same(hits, expected)
    assert len({tuple(hit.path for hit in hits) for hits in found}) > 1
    with pytest.raises(UsageError, match="strength"):
        Query(image, "in red", strength=3)
    with pytest.raises(UsageError, match="no_such_field"):
        retriever.search(Query(image, "in red", where="no_such_field = 1"))


def test_a_query_never_changes(folder: Path) -> None:
    query = Query(folder / "01.png", "red")
    with pytest.raises(AttributeError):
        query.texts = "blue"  # type: ignore[misc]


# --- arguments -----------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "ref.jpg")
    (tmp_path / "red").write_bytes((tmp_path / "ref.jpg").read_bytes())
    (tmp_path / "with space.png").write_bytes(b"")
    return tmp_path


def test_files_are_pictures_and_the_rest_is_words(here: Path) -> None:
    pictures = ["ref.jpg", "./red", str(here / "ref.jpg"), "-", "file:///x.jpg", "with space.png"]
    words = ["make it red", "blue", "black / white", "no.5 size", "1/2 sleeves, please"]
    assert split_arguments([*words, *pictures]) == (pictures, words)


@pytest.mark.parametrize("argument", ["missing.jpg", "./x", "/no/such", "~/x.png", "../a b"])
def test_a_path_without_a_file_is_missing(here: Path, argument: str) -> None:
    with pytest.raises(ImageError, match="does not exist: check the path"):
        split_arguments([argument])


@pytest.mark.parametrize("argument", ["red", "black/white"])
def test_what_may_be_both_is_asked_about(here: Path, argument: str) -> None:
    with pytest.raises(UsageError, match=r"write --image .* or --text"):
        split_arguments([argument])


@given(st.text())
def test_any_argument_is_divided_or_refused_with_a_sentence(argument: str) -> None:
    try:
        pictures, words = split_arguments([argument])
    except ZtcirError:
        return
    assert len(pictures) + len(words) == 1


# --- files of queries ----------------------------------------------------------------------------


def test_a_csv_has_a_query_a_row(tmp_path: Path) -> None:
    file = tmp_path / "queries.csv"
    file.write_text(
        "id,image,text,not,unlike\n"
        "a,x.jpg,in red,,\n"
        '7,x.jpg|y.jpg,"red, please|long",stripes,z.jpg\n'
        ",,a shirt,,\n"
        "bad,,,red,\n",
        encoding="utf-8-sig",
    )
    rows = list(read_batch(file))
    assert [row.id for row in rows] == ["a", "7", "3", "bad"]
    assert rows[0].query == Query("x.jpg", "in red")
    assert rows[1].query == Query(
        images=["x.jpg", "y.jpg"], texts=["red, please", "long"], without="stripes", unlike="z.jpg"
    )
    assert rows[2].query == Query(texts="a shirt")
    assert rows[3].query is None
    assert "query is empty" in str(rows[3].error)


def test_json_lines_have_weights(tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    lines = [
        json.dumps({"id": 1, "image": [["x.jpg", 2], "y.jpg"], "text": "red", "not": ["a", "b"]}),
        "",
        "{",
        "[1]",
        json.dumps({"image": 3}),
        json.dumps({"colour": "red"}),
    ]
    file.write_text("\n".join(lines))
    rows = list(read_batch(file))
    assert rows[0].query == Query([("x.jpg", 2), "y.jpg"], "red", without=["a", "b"])
    assert [row.query for row in rows[1:]] == [None] * 4
    for row, part in zip(
        rows[1:], ("not JSON", "no JSON object", "image must", "'colour'"), strict=True
    ):
        assert part in str(row.error)


def test_a_row_may_have_weights_a_strength_and_a_filter(tmp_path: Path) -> None:
    expected = Query(["x.jpg", ("y.jpg", 2)], ("red", 0.5), strength=0, where="price < 5")
    table, lines = tmp_path / "queries.csv", tmp_path / "queries.jsonl"
    table.write_text(
        'image,text,weights,strength,where\nx.jpg|y.jpg,red,"1,2,0.5",0,price < 5\n'
        "x.jpg,red,1,,\nx.jpg,red,,3,\n"
    )
    whole = {"image": ["x.jpg", "y.jpg"], "text": "red", "weights": [1, 2, 0.5]}
    pair = {"image": [["x.jpg", 2]], "text": "red", "weights": "1,1"}
    rows = [{**whole, "strength": 0, "where": "price < 5"}, pair, {"text": "red", "where": 3}]
    lines.write_text("\n".join(map(json.dumps, rows)))
    for file, faults in (
        (table, ("2 in all", "strength must be")),
        (lines, ("weights beside", "where must be a text")),
    ):
        first, *others = read_batch(file)
        assert first.query == expected
        for row, part in zip(others, faults, strict=True):
            assert row.query is None
            assert part in str(row.error)


def test_json_lines_end_only_where_lines_do(tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    texts = ["a\u2028b", "c\x85d", "e\x0bf\x1c"]
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    file.write_bytes("\r\n".join(rows).encode())
    assert [row.query for row in read_batch(file)] == [Query(texts=text) for text in texts]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"text":' * 200_000, "nested too deeply"),
        ('{"image": [["a", true]]}', r"pairs \[text, weight\]"),
        ('{"text": "a", "strength": true}', "strength must be a number"),
        ('{"text": "a", "strength": 1%s}' % ("0" * 400), "too large"),
        ('{"text": [["a", 1%s]]}' % ("0" * 400), "too large"),
    ],
    ids=str.__len__,
)
def test_a_line_that_cannot_be_used_spoils_no_other(
    tmp_path: Path, line: str, sentence: str
) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text(f'{line}\n{{"text": "red"}}')
    wrong, right = read_batch(file)
    assert wrong.query is None
    assert re.search(sentence, str(wrong.error))
    assert right.query == Query(texts="red")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "image;text\nx.jpg;red\n", "semicolons between its columns: save it with commas"),
        ("a.csv", "image\ttext\nx.jpg\tred\n", "tabs between its columns: save it with commas"),
        ("a.csv", "image,image,text\nx.jpg,y.jpg,red\n", "the column 'image' twice"),
        (
            "a.jsonl",
            '[{"text": "red"}]',
            "is a JSON array: write each query as an object on a line",
        ),
        ("a.json", '[\n  {"text": "red"}\n]', "is a JSON array"),
    ],
)
def test_a_file_of_another_form_is_refused_with_its_name(
    tmp_path: Path, name: str, content: str, sentence: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=sentence) as caught:
        list(read_batch(tmp_path / name))
    assert name in str(caught.value)


@pytest.mark.parametrize("header", ["", "id,not\n", "image,colour\n"])
def test_a_csv_without_the_columns_is_a_sentence(tmp_path: Path, header: str) -> None:
    file = tmp_path / "queries.csv"
    file.write_text(header)
    with pytest.raises(UsageError, match="must have a header with columns of"):
        list(read_batch(file))


@given(st.binary(max_size=200), st.sampled_from(["csv", "jsonl"]))
def test_no_file_of_queries_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str
) -> None:
    file = tmp_path_factory.mktemp("any") / f"queries.{suffix}"
    file.write_bytes(data)
    try:
        rows = list(read_batch(file))
    except ZtcirError:
        return
    assert all((row.query is None) == (row.error is not None) for row in rows)
