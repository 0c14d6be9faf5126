"""What is shown and submitted unchanged is the value that it was, whatever the type."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from datetime import timezone as timezone_of
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from django.db import models
from django.utils import timezone
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeteer_django.exceptions import InvalidValue
from pipeteer_django.pipelines.valuetype import ValueType
from tests.admin_values.browser import Page, form_class, shown, submitted
from tests.admin_values.types_of_forms import (
    Address,
    Colour,
    Customer,
    Everything,
    Line,
    Mixed,
    Order,
    Pair,
    Tagged,
    Tree,
)

pytestmark = pytest.mark.once

ZONES = st.one_of(st.none(), st.timezones())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
ORDERS = st.builds(
    Order,
    customer=st.text(),
    lines=st.lists(st.builds(Line, st.text(), st.decimals(allow_nan=False, allow_infinity=False)), max_size=3),
    colour=st.sampled_from(Colour),
    due=st.none() | st.datetimes(timezones=ZONES),
    express=st.booleans(),
    tags=st.sets(st.text(), max_size=3),
    counts=st.dictionaries(st.text(), st.integers(), max_size=3),
)
CUSTOMERS = st.builds(
    Customer,
    name=st.text(min_size=1),
    years=st.none() | st.integers(0, 99),
    address=st.none() | st.from_type(Address),
    id=st.uuids(),
)
EVERYTHING = st.builds(
    Everything,
    moment=st.datetimes(timezones=ZONES),
    real=st.floats(allow_nan=False, allow_infinity=False),
    several=st.lists(st.floats(-9, 9), max_size=3).map(tuple),
    anything=JSON,
    span=st.timedeltas(timedelta(-99_999), timedelta(99_999)),
    named=st.dictionaries(st.text(), st.builds(Line, st.text(), st.just(Decimal("1.50"))), max_size=2),
)
# Fixed offsets: a zone's moments that come twice are equal to none of another zone (PEP 495), the same one included.
AWARE = st.datetimes(timezones=st.sampled_from([UTC, timezone_of(timedelta(hours=5, seconds=-960))]))

CASES: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "int": (int, st.integers(-(2**63), 2**63 - 1)),
    "int or none": (int | None, st.none() | st.integers(-(2**63), 2**63 - 1)),
    "str": (str, st.text()),
    "str or none": (str | None, st.none() | st.text()),
    "bool": (bool, st.booleans()),
    "float": (float, st.floats(allow_nan=False, allow_infinity=False)),
    "date": (date, st.dates()),
    "datetime": (datetime, AWARE),
    "timedelta": (timedelta, st.timedeltas(timedelta(-200_000_000 // 2), timedelta(100_000_000))),
    "UUID": (UUID, st.uuids(version=4)),
    "Enum": (Colour, st.sampled_from(Colour)),
    "mixed Enum": (Mixed, st.sampled_from(Mixed)),
    "Literal": (Literal["a", "", "b", None], st.sampled_from(["a", "", "b", None])),
    "Literal of one": (Literal["a"] | None, st.sampled_from(["a", None])),
    "given bool": (Annotated[bool, models.BooleanField()] | None, st.none() | st.booleans()),
    "TypedDict of one": (Tagged, st.from_type(Tagged)),
    "Decimal": (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    "money": (
        Annotated[Decimal, models.DecimalField(max_digits=9, decimal_places=2)],
        st.decimals(-9_999_999, 9_999_999, places=2),
    ),
    "dataclass": (Order, ORDERS),
    "TypedDict": (Address, st.from_type(Address)),
    "pydantic": (Customer, CUSTOMERS),
    "NamedTuple": (Pair, st.builds(Pair, st.integers(), st.text())),
    "recursive": (Tree, st.recursive(st.builds(Tree, name=st.text()), lambda t: st.builds(
        Tree, name=st.text(), children=st.lists(t, max_size=3)), max_leaves=5)),
    "list": (list[str | None], st.lists(st.none() | st.text())),
    "dict": (dict[str, list[float]], st.dictionaries(st.text(), st.lists(st.floats(-1e9, 1e9)), max_size=4)),
    "union": (int | list[str], st.integers() | st.lists(st.text())),
    "Any": (Any, JSON),
    "optional group": (Order | None, st.none() | ORDERS),
    "everything": (Everything, EVERYTHING),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_unchanged_means_equal(name: str) -> None:
    annotation, values = CASES[name]
    value_type = ValueType.of(annotation)
    form = form_class(annotation)

    @hypothesis_settings(max_examples=200, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(values, st.sampled_from(["UTC", "Europe/Berlin", "America/Chicago", "Asia/Kathmandu"]), st.booleans())
    def round_trip(value: Any, zone: str, typed: bool) -> None:
        try:
            stored = value_type.to_stored(value)
        except InvalidValue:
            assume(False)
        initial = value_type.check(value) if typed else stored
        with timezone.override(zone):
            page = Page(str(form(initial={"value": initial})["value"]))
            again = form(page.submit(), initial={"value": initial})
            assert again.is_valid(), (again.errors, page.pairs)
            assert not again.has_changed(), page.pairs
        assert value_type.to_stored(again.cleaned_data["value"]) == stored, page.pairs

    round_trip()


@pytest.mark.parametrize(
    ("annotation", "nothing", "something"),
    [
        (Literal["a"] | None, None, "a"),
        (Annotated[bool, models.BooleanField()] | None, None, False),
        (Tagged, {"name": "x"}, {"name": "x", "kind": "only"}),
    ],
)
def test_the_only_choice_is_not_no_value(annotation: Any, nothing: Any, something: Any) -> None:
    for value in (nothing, something):
        html = shown(annotation, value)
        assert "pv-json" not in html
        form = submitted(annotation, Page(html).submit())
        assert form.is_valid(), form.errors
        assert form.cleaned_data["value"] == value


STRANGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes() | st.binary() | st.uuids()
    | st.text(st.characters(categories=["Cc", "Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_whatever_is_stored_or_sent_is_a_value_or_a_validation_error(name: str) -> None:
    annotation, _values = CASES[name]
    form = form_class(annotation)
    names = sorted({name for name, _ in Page(str(form()["value"])).pairs} | {"value", "value--json", "value-0--keep"})

    @hypothesis_settings(max_examples=25, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(STRANGE, st.dictionaries(st.sampled_from(names), st.text() | st.text(st.characters(categories=["Cc"]))))
    def strange(stored: Any, data: dict[str, str]) -> None:
        page = Page(str(form(initial={"value": stored})["value"]))
        again = form(page.submit(), initial={"value": stored})
        again.is_valid()
        str(again["value"]).encode()
        sent = form(data, initial={"value": stored})
        sent.is_valid()
        sent.has_changed()
        str(sent["value"]).encode()
        str(sent.errors).encode()

    strange()
