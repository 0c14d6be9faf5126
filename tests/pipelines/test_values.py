"""The portable profile of JSON, and the text by which a replay compares."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeteer_django.exceptions import InvalidValue
from pipeteer_django.pipelines.values import PortableEncoder, canonical, check_portable, faithful
from pipeteer_django.pipelines.valuetype import ValueType

pytestmark = pytest.mark.once

LIMIT = 1024 * 1024

portable = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def portable_enough(value: Any) -> bool:
    try:
        check_portable(value, max_bytes=LIMIT)
    except InvalidValue:
        return False
    return True


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        [-(10**400), 10**4300 - 1],
        1e308,
        -0.0,
        "",
        "\x01 \u2028 é 😀",
        [],
        {},
        {"": ()},
        (1, [2]),
        nested(30),
    ],
)
def test_what_every_database_keeps_is_accepted(value: Any) -> None:
    check_portable(value, max_bytes=LIMIT)


@pytest.mark.parametrize(
    ("value", "place", "reason"),
    [
        ("a\x00b", "value:", "NUL"),
        ({"items": [1, 2, 3, {"name": "\x00"}]}, "value.items[3].name:", "NUL"),
        ({"a\x00": 1}, "value['a\\x00']:", "NUL"),
        (["\ud800"], "value[0]:", "U+D800"),
        ({"\udfff": 1}, "value['\\udfff']:", "U+DFFF"),
        ([math.nan], "value[0]:", "nan"),
        ({"x y": -math.inf}, "value['x y']:", "-inf"),
        ({"a": {1: 2}}, "value.a[1]:", "key 1"),
        ({None: 2}, "value[None]:", "key None"),
        ([10**4300], "value[0]:", "4,300 digits"),
        ([{1, 2}], "value[0]:", "set"),
        ([b"x"], "value[0]:", "bytes"),
        (nested(31), "value[0][0][0]...:", "30 levels"),
        ("é" * (LIMIT // 2), "value:", "1,048,578 bytes"),
    ],
)
def test_what_some_database_would_lose_is_refused_with_its_place(value: Any, place: str, reason: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        check_portable(value, max_bytes=LIMIT)
    assert str(refused.value).startswith(place)
    assert reason in str(refused.value)


def test_a_list_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidValue, match="30 levels"):
        check_portable(endless, max_bytes=LIMIT)


def test_a_value_that_would_be_huge_is_refused_without_being_walked() -> None:
    value: Any = [0]
    for _ in range(29):
        value = [value, value]
    with pytest.raises(InvalidValue, match="more than 10,000 values"):
        check_portable(value, max_bytes=10_000)


def test_the_limit_counts_large_floats_as_they_are_written() -> None:
    """`1e+308` is six bytes, and 311 in full: MariaDB would refuse the statement."""
    check_portable([1e308] * 3000, max_bytes=LIMIT)
    with pytest.raises(InvalidValue, match="MAX_VALUE_BYTES"):
        check_portable([1e308] * 4000, max_bytes=LIMIT)


def test_the_limit_counts_bytes_not_characters() -> None:
    check_portable("é", max_bytes=4)
    with pytest.raises(InvalidValue, match="MAX_VALUE_BYTES"):
        check_portable("é", max_bytes=3)


@given(portable.filter(portable_enough))
def test_the_encoder_changes_nothing(value: Any) -> None:
    text = json.dumps(value, cls=PortableEncoder)
    assert json.loads(text) == value


@pytest.mark.parametrize("number", [1e16, -1e23, 1.5e300, 1.7976931348623157e308])
def test_large_floats_stay_floats_where_numbers_are_numeric(number: float) -> None:
    text = json.dumps({"say": '\\"1e+16', "n": [number]}, cls=PortableEncoder)
    assert "e+" not in text.replace("1e+16", "", 1)
    assert json.loads(text) == {"say": '\\"1e+16', "n": [number]}
    assert isinstance(json.loads(text)["n"][0], float)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, 1), [1, 1]),
        ({"b": 1, "a": [(2,)]}, {"a": [[2]], "b": 1}),
        (1e16, 10**16),
        (1e23, 10**23),
        (2.0, 2),
        (-0.0, 0),
        ({"x": -0.0}, {"x": 0.0}),
        ("é", "\u00e9"),
    ],
)
def test_what_a_database_may_change_compares_equal(one: Any, other: Any) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (0, False), (0, None), ("1", 1), ([], {}), ([1, 2], [2, 1]), (0.1, 0.2), (2**53, 2**53 + 1)],
)
def test_what_differs_compares_unequal(one: Any, other: Any) -> None:
    assert canonical(one) != canonical(other)


def test_names_are_in_the_order_in_which_jsonb_keeps_them() -> None:
    value = {"b": 1, "aa": 2, "a": [{"\U0001f600": 1, "\ue000": 2, "zz": 3, "\u00e9": 4, "": 5}]}
    ordered = faithful(value, value)
    assert ordered == value
    assert list(ordered) == ["a", "b", "aa"]
    assert list(ordered["a"][0]) == ["", "zz", "\u00e9", "\ue000", "\U0001f600"]


@pytest.mark.parametrize(("annotation", "given"), [(float, -0.0), (Any, -0.0), (list[float], [-0.0])])
def test_minus_zero_is_zero_everywhere(annotation: Any, given: Any) -> None:
    value_type = ValueType.of(annotation)
    for made in (value_type.check(given), value_type.to_stored(given), value_type.to_json(given)):
        assert repr(made) == repr(given).replace("-", "")


@given(portable.filter(portable_enough))
def test_a_value_is_still_the_same_after_json(value: Any) -> None:
    assert canonical(json.loads(json.dumps(value))) == canonical(value)
