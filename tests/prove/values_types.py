"""Types that pipelines may have, and strategies for values that fit them, nearly fit them, or are meant to harm."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, NamedTuple
from uuid import UUID

from hypothesis import strategies as st
from pydantic import BaseModel
from typing_extensions import TypedDict

from pipeteer_django.conf import Settings
from pipeteer_django.pipelines.values import MAX_DEPTH, MAX_DIGITS

LIMIT = Settings.MAX_VALUE_BYTES


class Colour(Enum):
    RED = "red"
    BLUE = "dark blue"


class Mixed(Enum):
    """One that has no column type of its own."""

    ONE = 1
    TWO = "two"


@dataclass
class Item:
    name: str
    qty: int = 1
    tags: list[str] = field(default_factory=list)
    due: date | None = None


class Point(NamedTuple):
    x: float
    y: float


class Options(TypedDict):
    on: bool
    level: int | None


class Order(BaseModel):
    """Of all that JSON has no word for."""

    id: UUID
    at: datetime
    price: Decimal
    colour: Colour
    items: list[Item]
    parent: Order | None = None


# JSON

hostile_text = st.sampled_from(
    ["", "\x00", "a\x00b", "\ud800", "\udfff x", "\u202e\u2066txet", "\ufeff", "\U0001f4a9", "e\u0301", "\\u0000", "\\",
     "'; DROP TABLE x; --", '"', "%s", "%(a)s", "{}", "null", "NaN", "-0.0", "1e16", " x ", "\u2028", "\x7f\x1b[0m"]
)  # fmt: skip
texts = st.text(max_size=20) | st.text(st.characters(exclude_categories=[]), max_size=20) | hostile_text
hostile_numbers = st.sampled_from(
    [0, -0.0, 0.1, 1e15, 1e16, 1e17, 1e22, 1e23, -1e23, 1.5e300, 5e-324, 1.7976931348623157e308, 2**53 + 1, 2**63,
     -(2**63) - 1, 2**64, 10**17, float("nan"), float("inf"), float("-inf")]
)  # fmt: skip
huge_integers = st.builds(
    lambda digits, sign, more: sign * (10**digits + more),
    st.sampled_from([18, 19, 30, 308, 309, 1000, MAX_DIGITS - 1, MAX_DIGITS, MAX_DIGITS + 1]),
    st.sampled_from([1, -1]),
    st.integers(-1, 1),
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | hostile_numbers | huge_integers


def _wrapped(value: Any, depth: int, as_object: bool) -> Any:
    for _ in range(depth):
        value = {"in": value} if as_object else [value]
    return value


deep = st.builds(_wrapped, scalars, st.integers(MAX_DEPTH - 3, MAX_DEPTH + 2), st.booleans())
large = st.builds(
    # Around the limit: two quotes come to the characters, each of which has so many bytes.
    lambda character, more: character * ((LIMIT - 2) // len(character.encode()) + more),
    st.sampled_from(["x", "ä", "\u20ac", "\U0001f600", '"']),
    st.integers(-1, 1),
)
no_json = st.sampled_from([{1, 2}, object, b"\xff", {1: 2}, {(1,): 2}, 1j, Decimal("NaN"), [{"a": {3}}]])
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=12,
)
json_like = st.one_of(trees, trees, trees, scalars, deep, no_json)

# Native columns and typed values

moments = st.datetimes(timezones=st.none() | st.just(UTC) | st.timezones())
uuids = st.uuids() | st.uuids(version=4)
decimals = st.decimals(allow_nan=True, allow_infinity=True) | st.sampled_from([Decimal("1.10"), Decimal("1E+30")])
items = st.builds(Item, texts, st.integers(-3, 2**65), st.lists(texts, max_size=3), st.none() | st.dates())
orders = st.deferred(
    lambda: st.builds(
        Order, id=uuids, at=st.datetimes(timezones=st.just(UTC)), price=decimals.filter(Decimal.is_finite),
        colour=st.sampled_from(Colour), items=st.lists(items, max_size=2), parent=st.none() | orders,
    )
)  # fmt: skip
wrong = st.sampled_from(["x", "12", -1.5, None, [], {}, True, "2024-01-01", {"name": "n"}, object()])

TYPES: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "any": (Any, json_like),
    "large": (Any, large),
    "integer": (int, st.integers() | huge_integers | st.integers(-(2**63) - 2, -(2**63) + 2)),
    "text": (str, texts),
    "float": (float, st.floats() | hostile_numbers),
    "boolean": (bool, st.booleans()),
    "date": (date, st.dates()),
    "moment": (datetime, moments),
    "duration": (timedelta, st.timedeltas()),
    "uuid": (UUID, uuids),
    "enum": (Colour, st.sampled_from([*Colour, "red", "green"])),
    "mixed_enum": (Mixed, st.sampled_from([*Mixed, 1, "two", 3])),
    "literal": (Literal["a", "b", None], st.sampled_from(["a", "b", None, "c"])),
    "optional": (int | None, st.none() | st.integers(-(2**64), 2**64)),
    "decimal": (Decimal, decimals),
    "time": (time, st.times()),
    "bytes": (bytes, st.binary(max_size=20)),
    "dataclass": (Item, items),
    "optional_dataclass": (Item | None, st.none() | items),
    "model": (Order, orders),
    "typed_dict": (Options, st.fixed_dictionaries({"on": st.booleans(), "level": st.none() | st.integers()})),
    "named_tuple": (Point, st.builds(Point, st.floats(), st.floats())),
    "tuple": (tuple[int, str, Decimal], st.tuples(st.integers(), texts, decimals)),
    "set": (set[str], st.sets(texts, max_size=4)),
    "frozen_dates": (frozenset[date], st.frozensets(st.dates(), max_size=4)),
    "mapping": (dict[str, float], st.dictionaries(texts, st.floats(), max_size=4)),
    "numbers_as_keys": (dict[int, list[UUID]], st.dictionaries(st.integers(), st.lists(uuids, max_size=2), max_size=3)),
    "union": (int | str | Item, st.integers() | texts | items),
    "number": (int | float, st.integers() | st.floats() | hostile_numbers),
}
"""By name: the annotation, and values for it, of which some do not fit."""

_COMMON = [st.tuples(st.just(name), values) for name, (_, values) in TYPES.items() if name not in ("any", "large")]
_MISFITS = st.tuples(st.sampled_from(sorted(TYPES)), wrong)


def _chosen(number: int) -> st.SearchStrategy[tuple[str, Any]]:
    if number == 0:
        return st.tuples(st.just("large"), large)
    if number < 20:
        return _MISFITS
    return st.tuples(st.just("any"), json_like) if number < 200 else st.one_of(_COMMON)


examples: st.SearchStrategy[tuple[str, Any]] = st.integers(0, 399).flatmap(_chosen)
"""(name of a type, value): a half of them any JSON, one in some hundreds as long as a value may be."""
