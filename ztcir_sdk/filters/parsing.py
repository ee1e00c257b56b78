"""``where`` as text -> a `Filter`. sqlglot parses; what is not listed here is refused."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ztcir_sdk.errors import UsageError, first_line
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
    Value,
)

if TYPE_CHECKING:
    from sqlglot import exp

__all__ = ["MAX_CHARACTERS", "FilterError", "parse_filter"]

MAX_CHARACTERS = 100_000
"""Length of a filter, at most."""
ALLOWED = "comparisons, AND, OR, NOT, IN, LIKE, BETWEEN and IS NULL"
SELECT = "SELECT 1 WHERE "
"""What a filter is parsed behind: alone, ``a = 1 x`` would be a column with an alias."""
EXAMPLE = "\"articleType = 'Shirts' AND price < 50\""
_FLIPPED = {"=": "=", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}


class FilterError(UsageError):
    """A filter that cannot be parsed, or does not fit the fields of an index."""


def parse_filter(where: str) -> Filter:
    """Parse a filter such as ``articleType = 'Shirts' AND price < 50``.

    Nothing of it is executed: it becomes comparisons of fields with values, and no more.

    Raises:
        FilterError: it is no such expression; the sentence says what is allowed.
    """
    if not isinstance(where, str):
        raise FilterError(f"A filter is a text such as {EXAMPLE}, not {where!r}.")
    return _parsed(where)


@functools.lru_cache(maxsize=256)
def _parsed(where: str) -> Filter:
    from sqlglot.errors import SqlglotError

    if not where.strip():
        raise FilterError(f"The filter is empty: write one such as {EXAMPLE}.")
    if len(where) > MAX_CHARACTERS:
        raise FilterError(f"The filter has more than {MAX_CHARACTERS:,} characters: shorten it.")
    if "\0" in where:
        raise FilterError("The filter has a null character: remove it.")
    try:
        return Filter(where, _condition(_parse(where), negated=False))
    except SqlglotError as error:
        raise FilterError(
            f"The filter {_shown(where)} cannot be read ({_reason(error)}): write one such as "
            f"{EXAMPLE}, with texts in single quotes, and unusual field names in double quotes."
        ) from error
    except RecursionError:
        raise FilterError(
            "The filter is nested too deeply: write long lists of values with IN."
        ) from None


def _parse(where: str) -> exp.Expression:
    import sqlglot

    statements = [one for one in sqlglot.parse(f"{SELECT}{where}\n") if one is not None]
    if len(statements) != 1 or not isinstance(statements[0], sqlglot.exp.Select):
        raise FilterError(_refusal("several statements"))
    select = statements[0]
    clauses = {name for name, value in select.args.items() if value}
    clause = select.args.get("where")
    if clause is None or not clauses <= {"kind", "expressions", "where"}:
        surplus = sorted(clauses - {"kind", "expressions", "where"})
        raise FilterError(_refusal(surplus[0].upper().replace("_", " ") if surplus else "this"))
    condition: exp.Expression = clause.this
    return condition


def _condition(node: exp.Expression, *, negated: bool) -> Condition:
    """Translate a condition, or the opposite of it."""
    from sqlglot import exp

    negated ^= bool(node.args.get("negate"))
    if isinstance(node, exp.Paren):
        return _condition(_only(node, "this"), negated=negated)
    if isinstance(node, exp.Not):
        return _condition(_only(node, "this"), negated=not negated)
    if isinstance(node, (exp.And, exp.Or)):
        _only(node, "this", "expression")
        parts = tuple(_condition(part, negated=negated) for part in _chain(node))
        return AllOf(parts) if isinstance(node, exp.And) != negated else AnyOf(parts)
    translate = _translators().get(type(node))
    if translate is None:
        raise FilterError(_refusal(_name(node)))
    return translate(node, negated)


def _chain(node: exp.Expression) -> list[exp.Expression]:
    """Return the operands of ``a AND b AND c``, which is parsed as ``(a AND b) AND c``."""
    operands: list[exp.Expression] = []
    kind, left = type(node), node
    while type(left) is kind:
        operands.append(left.expression)
        left = left.this
    return [left, *reversed(operands)]


@functools.cache
def _translators() -> dict[type, Callable[[exp.Expression, bool], Condition]]:
    from sqlglot import exp

    operators = {
        exp.EQ: "=",
        exp.NEQ: "!=",
        exp.LT: "<",
        exp.LTE: "<=",
        exp.GT: ">",
        exp.GTE: ">=",
    }
    return {
        **{kind: functools.partial(_comparison, symbol) for kind, symbol in operators.items()},
        exp.In: _one_of,
        exp.Between: _between,
        exp.Like: _like,
        exp.Is: _is_null,
    }


def _comparison(symbol: str, node: exp.Expression, negated: bool) -> Condition:
    from sqlglot import exp

    left, right = node.this, node.expression
    _only(node, "this", "expression")
    if isinstance(right, exp.Column) and not isinstance(left, exp.Column):
        left, right, symbol = right, left, _FLIPPED[symbol]
    field, value = _field(left), _value(right)
    return Comparison(field, OPPOSITES[symbol] if negated else symbol, value)


def _one_of(node: exp.Expression, negated: bool) -> Condition:
    _only(node, "this", "expressions")
    field = _field(node.this)
    values = tuple(_value(one) for one in node.expressions)
    if not values:
        raise FilterError(f"{field} IN () names no values: write {field} IN ('Red', 'Blue').")
    if len({isinstance(one, str) for one in values}) > 1:
        raise FilterError(
            f"{field} IN (...) mixes texts and numbers: quote all of its values, or none."
        )
    return OneOf(field, values, negated)


def _between(node: exp.Expression, negated: bool) -> Condition:
    _only(node, "this", "low", "high")
    field, low, high = _field(node.this), _value(node.args["low"]), _value(node.args["high"])
    if isinstance(low, str) != isinstance(high, str):
        raise FilterError(
            f"{field} BETWEEN mixes a text and a number: quote both of its values, or none."
        )
    if negated:
        return AnyOf((Comparison(field, "<", low), Comparison(field, ">", high)))
    return AllOf((Comparison(field, ">=", low), Comparison(field, "<=", high)))


def _like(node: exp.Expression, negated: bool) -> Condition:
    _only(node, "this", "expression")
    field, pattern = _field(node.this), _value(node.expression)
    if not isinstance(pattern, str):
        raise FilterError(f"{field} LIKE needs a quoted text: write {field} LIKE '%{pattern}%'.")
    return Like(field, pattern, negated)


def _is_null(node: exp.Expression, negated: bool) -> Condition:
    from sqlglot import exp

    _only(node, "this", "expression")
    field = _field(node.this)
    if not isinstance(node.expression, exp.Null):
        raise FilterError(
            f"After {field} IS only NULL and NOT NULL are possible: compare with =, as in "
            f"{field} = TRUE."
        )
    return IsNull(field, negated)


def _only(node: exp.Expression, *names: str) -> exp.Expression:
    """Return the first part of a node that must have no others; none is ignored in silence."""
    for name, value in node.args.items():
        if value and name not in (*names, "negate"):
            raise FilterError(_refusal(f"{_name(node)} with {name}"))
    inner: exp.Expression = node.args[names[0]]
    return inner


def _field(node: Any) -> Field:
    from sqlglot import exp

    if isinstance(node, exp.Paren):
        return _field(_only(node, "this"))
    if isinstance(node, (exp.Column, exp.Dot)):
        identifiers = list(node.find_all(exp.Identifier))
        keys = [part.name for part in _parts(node)]
        if len(keys) == len(identifiers) and all(keys):
            if any('"' in key for key in keys):
                raise FilterError(
                    f"The field {_shown('.'.join(keys))} has a double quote in its name, so it "
                    "cannot be filtered by."
                )
            return Field(tuple(keys))
    if _is_value(node):
        raise FilterError(
            f"{node.sql()} is compared, and no field: write the name of a field first, as in "
            f"{EXAMPLE}."
        )
    raise FilterError(_refusal(_name(node)))


def _parts(node: Any) -> list[Any]:
    from sqlglot import exp

    if isinstance(node, exp.Dot):
        return [*_parts(node.this), node.expression]
    return list(node.parts) if isinstance(node, exp.Column) else [node]


def _value(node: Any) -> Value:
    from sqlglot import exp

    if isinstance(node, exp.Paren):
        return _value(_only(node, "this"))
    if isinstance(node, exp.Boolean):
        return int(node.this)
    if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal) and node.this.is_number:
        return -_number(node.this.this)
    if isinstance(node, exp.Literal):
        return str(node.this) if node.is_string else _number(node.this)
    if isinstance(node, exp.Null):
        raise FilterError("Nothing equals NULL: write IS NULL or IS NOT NULL.")
    if isinstance(node, exp.Column):
        name = node.name
        quoted = any(part.args.get("quoted") for part in node.find_all(exp.Identifier))
        why = "texts stand in single quotes" if quoted else "a text needs single quotes"
        raise FilterError(
            f"A field is compared with a value, and {name} is written like a field: {why}, as in "
            f"'{name}'."
        )
    raise FilterError(_refusal(_name(node)))


def _is_value(node: Any) -> bool:
    from sqlglot import exp

    return isinstance(node, (exp.Literal, exp.Boolean, exp.Null, exp.Neg))


def _number(text: str) -> int | float:
    try:
        value: int | float = int(text)
    except ValueError:
        value = float(text)
    if not math.isfinite(value) or abs(value) >= 1 << 63:
        value = float(value)
        if not math.isfinite(value):
            raise FilterError(f"The number {text} is too large.")
    return value


def _refusal(what: str) -> str:
    return f"A filter cannot have {what}: it may have {ALLOWED}, of fields with values."


def _name(node: Any) -> str:
    """Return how a sentence names a part that is not allowed."""
    from sqlglot import exp

    if isinstance(node, exp.Anonymous):
        return f"the function {node.name}"
    if isinstance(node, exp.Func):
        return f"the function {type(node).__name__}"
    if isinstance(node, exp.Column):
        return f"the field {node.sql()} alone (write {node.sql()} = TRUE)"
    try:
        return _shown(node.sql())
    except Exception:  # what sqlglot cannot write again still has a name
        return type(node).__name__


def _reason(error: Exception) -> str:
    """Return what sqlglot found, and where in the user's own text."""
    line = first_line(error)
    what = "something is missing" if "missing" in line else "it is not understood"
    place = re.search(r"Line 1, Col: (\d+)", line)
    if place is None:
        return what
    return f"{what} near character {max(1, int(place[1]) - len(SELECT))}"


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."
