"""Random changes of bytes and of JSON values, as strangers' files have them."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["HOSTILE_VALUES", "mutated_bytes", "mutated_json"]

EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HOSTILE_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 10**9, 10**12, 10**18, 2**63, 2**64, 10**400, -(10**400)),
    *(0.0, 1e308, -1e308, 0.5, "", "x", "\ud800", "\x1b[2J", "../../x", "/etc/passwd", "a" * 5000),
    *([], {}, [[]], {"a": 1}, [0] * 1000, [1e308, 2, 3], [1, 2], ["x"]),
)


def mutated_bytes(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return a file with one to eight changes: bits, numbers, parts cut, doubled or exchanged."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 5, 8))):
        if not content:
            break
        rng.choice(_CHANGES)(rng, content, others)
    return bytes(content[:2_000_000])


def _flip(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    content[_place(rng, content)] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    content[_place(rng, content)] = rng.choice((0, 255, 128, rng.randrange(256)))


def _number(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    size, place = rng.choice((2, 4, 8)), _place(rng, content)
    order = rng.choice(("little", "big"))
    value = rng.choice(EDGES) % (1 << 8 * size)
    content[place : place + size] = value.to_bytes(size, order)  # type: ignore[arg-type]


def _cut(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    place = _place(rng, content)
    if rng.random() < 0.5:
        del content[place:]
    else:
        del content[place : place + rng.randint(1, 64)]


def _double(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    place = _place(rng, content)
    part = bytes(content[place : place + rng.choice((1, 4, 16, 64, 256))])
    content[place:place] = part * rng.choice((1, 2, 10, 200))


def _splice(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    other = rng.choice(others)
    content[_place(rng, content) :] = other[rng.randrange(len(other) + 1) :]


_CHANGES: tuple[Callable[[random.Random, bytearray, Sequence[bytes]], None], ...] = (
    *(_flip, _flip, _set, _set, _number, _number, _cut, _double, _splice),
)


def _place(rng: random.Random, content: bytearray) -> int:
    """Return a place, most often in the first bytes, where headers are."""
    most = len(content) if rng.random() < 0.4 else min(len(content), 200)
    return rng.randrange(most)


def mutated_json(rng: random.Random, value: Any) -> Any:
    """Return JSON values with one to three entries removed, renamed or replaced."""
    changed = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        holder = _holder(rng, changed)
        if holder is None:
            return rng.choice(HOSTILE_VALUES)
        container, key = holder
        what = rng.random()
        if what < 0.15:
            del container[key]
        elif what < 0.25 and isinstance(container, dict):
            container[rng.choice(("x", "\ud800", f"{key}.", ""))] = container.pop(key)
        elif isinstance(container[key], str) and what < 0.5:
            text = container[key]
            container[key] = text[: rng.randrange(len(text) + 1)] + rng.choice(("", "/", "\0", "é"))
        elif isinstance(container[key], (int, float)) and what < 0.6:
            container[key] = container[key] * rng.choice((-1, 0, 2, 1000, 10**15))
        else:
            container[key] = copy.deepcopy(rng.choice(HOSTILE_VALUES))
    return changed


def _holder(rng: random.Random, value: Any) -> tuple[Any, Any] | None:
    """Return a random object or list in a value, and one of its keys."""
    if not isinstance(value, (dict, list)) or not value:
        return None
    key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
    if rng.random() < 0.7 and (inner := _holder(rng, value[key])) is not None:
        return inner
    return value, key
