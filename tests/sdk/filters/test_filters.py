"""Filters: what is parsed, what is refused, and that SQLite and Python agree on every item."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ztcir_sdk.errors import UsageError
from ztcir_sdk.filters import FilterError, parse_filter, summarise_fields
from ztcir_sdk.filters.expression import (
    OPPOSITES,
    AllOf,
    AnyOf,
    Comparison,
    Condition,
    Field,
    Filter,
    IsNull,
    Like,
    OneOf,
)
from ztcir_sdk.filters.sql import matching_labels, where_clause

Item = tuple[str, Mapping[str, Any] | None]

SHIRT = {"articleType": "Shirts", "price": 49.9, "sizes": ["S", "M"], "seller": {"city": "Graz"}}
SHOE = {"articleType": "Shoes", "price": "120", "sale": True, "note": None}
BAG = {"articleType": "Bags", "price": "on request", "sale": False, "brand name": "O'Neill"}
ITEMS: list[Item] = [
    ("a/shirt.jpg", SHIRT),
    ("a/shoe.jpg", SHOE),
    ("b/bag.jpg", BAG),
    ("x.png", None),
]


def table(items: Sequence[Item]) -> sqlite3.Connection:
    """Items as an index holds them."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE items (label INTEGER PRIMARY KEY, path TEXT, metadata TEXT)")
    connection.executemany(
        "INSERT INTO items VALUES (?, ?, ?)",
        [
            (label, path, None if metadata is None else json.dumps(metadata))
            for label, (path, metadata) in enumerate(items)
        ],
    )
    return connection


def found(where: str, items: Sequence[Item] = ITEMS) -> list[str]:
    """The paths that SQLite finds, which are those that Python finds."""
    parsed = parse_filter(where)
    labels = matching_labels(table(items).execute, parsed)
    paths = [items[label][0] for label in labels]
    assert paths == [path for path, metadata in items if parsed.matches(path, metadata)]
    return [path.rpartition("/")[2].partition(".")[0] for path in paths]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("articleType = 'Shirts' AND price < 50", ["shirt"]),
        ("price < 50", ["shirt"]),
        ("price > 50", ["shoe"]),  # a text that holds a number is one; "on request" is none
        ("50 < price", ["shoe"]),
        ("NOT price > 50", ["shirt"]),
        ("price != 120", ["shirt"]),
        ("price IN (49.9, 120.0)", ["shirt", "shoe"]),
        ("price NOT IN (49.9, 7)", ["shoe"]),
        ("price BETWEEN 40 AND 120", ["shirt", "shoe"]),
        ("price NOT BETWEEN 100 AND 130", ["shirt"]),
        ("price = 'on request'", ["bag"]),
        ("articleType LIKE 'Sh%s'", ["shirt", "shoe"]),
        ("articleType LIKE 'sh%'", []),  # upper and lower case differ
        ("articleType LIKE '_ags'", ["bag"]),
        ("articleType NOT LIKE 'Sh%'", ["bag"]),
        ("articleType IN ('Bags', 'Shoes')", ["shoe", "bag"]),
        ("NOT (articleType IN ('Bags') OR sale = TRUE)", []),  # a shirt's sale is unknown
        ("sale = true", ["shoe"]),
        ("sale != TRUE", ["bag"]),
        ("sale IS NULL", ["shirt", "x"]),
        ("note IS NULL", ["shirt", "shoe", "bag", "x"]),
        ("sizes IS NOT NULL", ["shirt"]),
        ("seller.city = 'Graz'", ["shirt"]),
        ("\"brand name\" = 'O''Neill'", ["bag"]),
        ("path LIKE 'a/%' AND price IS NOT NULL", ["shirt", "shoe"]),
        ("path IS NOT NULL -- all\n", ["shirt", "shoe", "bag", "x"]),
        ("articleType >= 'Shirts'", ["shirt", "shoe"]),
        ("((articleType = 'Bags'))", ["bag"]),
    ],
)
def test_a_filter_finds_what_it_says(where: str, expected: list[str]) -> None:
    assert found(where) == expected


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("1=1; DROP TABLE items", "several statements"),
        ("price < 50; DROP TABLE items", "several statements"),
        ("price < 50 UNION SELECT path FROM items", "several statements"),
        ("price = (SELECT max(price) FROM items)", "(SELECT MAX(price) FROM items)"),
        ("price IN (SELECT 1)", "query"),
        ("EXISTS(SELECT 1)", "function"),
        ("load_extension('x') = 1", "the function load_extension"),
        ("price < 50) OR (1=1", "cannot be read"),
        ("price < 50 LIMIT 1", "LIMIT"),
        ("price < 50 ORDER BY path", "ORDER"),
        ("1 = 1", "no field"),
        ("'a' = 'a'", "no field"),
        ("price < ?", "?"),
        ("price < :limit", ":limit"),
        ("price::int < 50", "Cast"),
        ("articleType = Shirts", "single quotes, as in 'Shirts'"),
        ('articleType = "Shirts"', "single quotes, as in 'Shirts'"),
        ("price = NULL", "IS NULL"),
        ("price IS TRUE", "= TRUE"),
        ("sale", "sale = TRUE"),
        ("price BETWEEN SYMMETRIC 2 AND 1", "symmetric"),
        ("articleType LIKE 'x!%' ESCAPE '!'", "ESCAPE"),
        ("articleType ILIKE 'shirts'", "ILIKE"),
        ("articleType IN ()", "no values"),
        ("articleType IN ('a', 1)", "mixes"),
        ("price BETWEEN 1 AND 'b'", "mixes"),
        ("price LIKE 5", "quoted text"),
        ("price < 1e999", "too large"),
        ("price <", "cannot be read"),
        ("price < 50 AND", "missing near character"),
        ("", "empty"),
        ("  ", "empty"),
        ("a = '\0'", "null character"),
        ("(" * 3000 + "a = 1" + ")" * 3000, "nested too deeply"),
        ("a = 1" + " OR a = 1" * 20_000, "shorten"),
        ('"a""b" = 1', "double quote"),
    ],
)
def test_what_is_no_filter_is_refused_with_a_sentence(where: str, sentence: str) -> None:
    with pytest.raises(FilterError, match=r"^[^\n]+\.$") as caught:
        parse_filter(where)
    assert sentence in str(caught.value)
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("articletype = 'Shirts'", "did you mean articleType?"),
        ("weight < 5", "`ztcir index --fields` lists them, such as articleType"),
        ("articleType < 50", "holds texts, such as 'Shirts', and is compared with a number"),
        ("sale = 'yes'", "holds numbers, such as 1, and is compared with a text"),
        ("sizes = 'M'", "holds lists"),
        ("path > 5", "path is a text"),
        ("price < 50 OR brnad = 'x'", "There is no field brnad"),
    ],
)
def test_a_filter_that_no_item_can_satisfy_is_refused(where: str, sentence: str) -> None:
    with pytest.raises(FilterError) as caught:
        found(where)
    assert sentence in str(caught.value)


def test_an_index_without_metadata_says_where_fields_come_from() -> None:
    with pytest.raises(FilterError, match="--metadata"):
        found("price < 50", [("a.jpg", None)])
    assert found("path = 'a.jpg'", [("a.jpg", None)]) == ["a"]


def test_values_and_names_are_bound_and_never_in_the_statement() -> None:
    name, value = "weird name'; --", "x'; DROP TABLE items; --"
    where = f"\"{name}\" = '{value.replace(chr(39), chr(39) * 2)}' OR path LIKE '{'%'}secret'"
    clause, values = where_clause(parse_filter(where))
    assert "weird" not in clause
    assert "DROP" not in clause
    assert "secret" not in clause
    assert clause.count("?") == len(values)
    assert found(where, [("x.jpg", {name: value})]) == ["x"]


def test_many_alternatives_are_no_deep_tree() -> None:
    many = " OR ".join(f"price = {i}" for i in range(119, 319))
    assert found(many) == ["shoe"]
    assert found(f"price IN ({', '.join(map(str, range(119, 1319)))})") == ["shoe"]


def test_items_of_old_indexes_with_nan_have_no_fields() -> None:
    connection = table(ITEMS)
    connection.execute("INSERT INTO items VALUES (9, 'nan.jpg', '{\"price\": NaN}')")
    assert matching_labels(connection.execute, parse_filter("price < 50")) == [0]


# --- the same answers everywhere -----------------------------------------------------------------

names = st.sampled_from(["a", "b", "größe", "with space", "x.y", "back\\slash"])
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
numeric_texts = st.sampled_from(
    ["5", " 5", "5.", ".5", "-1e3", "+7", "5e", "0x10", "1_000", "inf", "nan", "٣", "1e999", "--1",
     "9223372036854775808", "5 x", "", " "]
)  # fmt: skip
numbers = st.one_of(
    st.integers(-(1 << 70), 1 << 70),
    st.integers(-9, 9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-9, 9).map(lambda x: round(x, 1)),
)
values = st.one_of(
    texts, numeric_texts, numbers, st.booleans(), st.none(), st.lists(texts, max_size=2),
    st.dictionaries(names, st.one_of(numbers, texts), max_size=2),
)  # fmt: skip
items_of_any_kind = st.lists(
    st.tuples(texts, st.one_of(st.none(), st.dictionaries(names, values, max_size=4))), max_size=6
)
fields = st.lists(names, min_size=1, max_size=2).map(lambda keys: Field(tuple(keys)))
plain_numbers = numbers.map(lambda x: float(x) if abs(x) >= 1 << 63 else x).filter(math.isfinite)
patterns = st.text(st.sampled_from("ab%_*?[]^-ß5\n"), max_size=4)
leaves: st.SearchStrategy[Condition] = st.one_of(
    st.builds(
        Comparison, fields, st.sampled_from(sorted(OPPOSITES)), st.one_of(texts, plain_numbers)
    ),
    st.builds(OneOf, fields, st.lists(texts, min_size=1, max_size=3).map(tuple), st.booleans()),
    st.builds(
        OneOf, fields, st.lists(plain_numbers, min_size=1, max_size=3).map(tuple), st.booleans()
    ),
    st.builds(Like, st.one_of(fields, st.just(Field(("path",)))), patterns, st.booleans()),
    st.builds(IsNull, fields, st.booleans()),
)
conditions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(AllOf, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(AnyOf, st.lists(inner, min_size=1, max_size=3).map(tuple)),
    ),
    max_leaves=5,
)


@settings(max_examples=60)
@given(items_of_any_kind, conditions)
@example([("p", {"a": "5."})], Comparison(Field(("a",)), ">", 4))
@example([("p", {"a": True})], OneOf(Field(("a",)), (1,), True))
def test_sqlite_and_python_agree(items: list[Item], condition: Condition) -> None:
    where = Filter("", condition)
    clause, bound = where_clause(where)
    rows = table(items).execute(f"SELECT label FROM items WHERE {clause} ORDER BY label", bound)
    expected = [label for label, item in enumerate(items) if where.matches(*item)]
    assert [label for (label,) in rows] == expected


@settings(max_examples=40)
@given(items_of_any_kind, leaves)
def test_not_is_the_opposite_where_a_value_can_be_compared(
    items: list[Item], condition: Condition
) -> None:
    """And neither holds where it cannot, as in SQL."""
    try:
        text = written(condition)
        where, opposite = parse_filter(text), parse_filter(f"NOT ({text})")
    except FilterError:
        return  # a name or a number that a user cannot write
    assert where.condition == condition
    for item in items:
        assert not (where.matches(*item) and opposite.matches(*item))
        if isinstance(condition, IsNull):
            assert where.matches(*item) or opposite.matches(*item)


def written(condition: Condition) -> str:
    """A leaf as a user would write it."""

    def literal(value: str | int | float) -> str:
        return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)

    assert not isinstance(condition, (AllOf, AnyOf))
    field = ".".join(f'"{key}"' for key in condition.field.keys)
    if isinstance(condition, Comparison):
        return f"{field} {condition.operator} {literal(condition.value)}"
    no = " NOT" if condition.negated else ""
    if isinstance(condition, IsNull):
        return f"{field} IS{no} NULL"
    if isinstance(condition, Like):
        return f"{field}{no} LIKE {literal(condition.pattern)}"
    return f"{field}{no} IN ({', '.join(map(literal, condition.values))})"


@settings(max_examples=60)
@given(st.text(max_size=40))
@example("a = 1 AND (b = 'x' OR NOT c IN (1, 2))")
def test_any_text_is_a_filter_or_an_error_with_a_sentence(text: str) -> None:
    try:
        where = parse_filter(text)
    except FilterError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    where_clause(where)


# --- what can be asked for -----------------------------------------------------------------------


def test_every_field_is_listed_as_a_filter_takes_it() -> None:
    names = ["price", "and", "From", "null", "order", "two words", "date", "current_user", "xor"]
    listed = [one.name for one in summarise_fields([dict.fromkeys(names, 1)])]
    assert {"price", '"and"', '"From"', '"two words"', "date"} <= set(listed)
    for name in listed:
        parse_filter(f"{name} = 1")


def test_fields_are_listed_with_kinds_and_values() -> None:
    by_name = {one.name: one for one in summarise_fields(metadata for _, metadata in ITEMS)}
    assert list(by_name) == [
        "articleType", "price", "sale", '"brand name"', "seller.city", "sizes",
    ]  # fmt: skip
    price = by_name["price"]
    assert (price.kind, price.items, price.least, price.most) == ("number or text", 3, 49.9, 120)
    assert by_name["articleType"].values == ["Shirts", "Shoes", "Bags"]
    assert by_name["sizes"].kind == "list"
    for one in by_name.values():
        assert parse_filter(f"{one.name} IS NOT NULL").uses()


def test_a_field_of_many_values_does_not_count_them() -> None:
    [one] = summarise_fields({"id": str(i)} for i in range(5000))
    assert (one.distinct, len(one.values), one.items) == (None, 5, 5000)
