"""From annotations to types, and from values to what is stored and back."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Generic, Literal, NewType, Optional, Protocol, TypeVar
from uuid import UUID

import pydantic
import pytest
from django.contrib.auth.models import Group, User
from django.db import models
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypedDict  # pydantic takes the one of typing from Python 3.12 on

from pipeteer_django.exceptions import DefinitionError, InvalidValue, NotDurable
from pipeteer_django.pipelines.references import ModelReference
from pipeteer_django.pipelines.signature import function_signature, task_signature
from pipeteer_django.pipelines.valuetype import ValueType

pytestmark = pytest.mark.once


class Colour(Enum):
    RED = "red"
    DARK_BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(Enum):
    ONE = 1
    TWO = "two"


class Address(TypedDict):
    street: str
    since: date


@dataclass
class Order:
    qty: int
    price: Decimal = Decimal("1.10")
    tags: set[str] = field(default_factory=set)
    size: tuple[int, int] = (1, 1)
    colour: Colour = Colour.RED


@dataclass
class Tagged:
    tags: set[str]
    weight: float | None = None
    more: Any = None


@dataclass
class Broken:
    x: Nowhere  # type: ignore[name-defined]  # noqa: F821


class Customer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid")

    name: str = pydantic.Field(alias="customerName")
    born: datetime
    orders: list[Order] = []

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def loud(self) -> str:
        return self.name.upper()


UserId = NewType("UserId", int)
Ids = list[UserId]

NOON = datetime(2024, 2, 29, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))
AN_UUID = UUID("a05b0561-a1ca-4024-be6a-79f320f8c964")


# Reading annotations


@pytest.mark.parametrize(
    ("annotation", "kind", "nullable", "native"),
    [
        (int, "native", False, int),
        (UserId, "native", False, int),
        (Optional[int], "native", True, int),  # noqa: UP045
        (int | None, "native", True, int),
        (Annotated[int, pydantic.Field(gt=0)], "native", False, int),
        (Annotated[int | None, pydantic.Field(gt=0)], "native", True, int),
        (bool, "native", False, bool),
        (datetime, "native", False, datetime),
        (Colour, "native", False, str),
        (Level, "native", False, int),
        (Literal["a", "b"], "native", False, str),
        (Literal["a", None], "native", True, str),
        (Literal[1, 2], "native", False, int),
        (Literal[True], "native", False, bool),
        (Literal["a", 1], "json", False, None),
        (Literal["a" * 101], "json", False, None),
        (Literal[2**63], "json", False, None),
        (Mixed, "json", False, None),
        (Decimal, "json", False, None),
        (list[int], "json", False, None),
        (int | str, "json", False, None),
        (int | str | None, "json", True, None),
        (Order, "json", False, None),
        (Any, "json", True, None),
        (pydantic.JsonValue, "json", True, None),
        (None, "none", True, None),
        (User, "model", False, None),
        (User | None, "model", True, None),
        (Annotated[Decimal, models.DecimalField(max_digits=5, decimal_places=2)], "native", False, None),
        (Annotated[list[int], models.JSONField()], "json", False, None),
    ],
)
def test_an_annotation_is_read(annotation: Any, kind: str, nullable: bool, native: type | None) -> None:
    value_type = ValueType.of(annotation)
    assert (value_type.kind, value_type.nullable, value_type.native) == (kind, nullable, native)
    assert value_type.model is (User if kind == "model" else None)


def test_the_given_field_is_found() -> None:
    column: Any = models.DecimalField(max_digits=5, decimal_places=2)
    assert ValueType.of(Annotated[Decimal, "a remark", column]).given_field is column


def test_options_have_labels() -> None:
    assert ValueType.of(Colour).options == (("red", "Red"), ("blue", "Dark blue"))
    assert ValueType.of(Literal[3, None]).options == ((3, "3"),)


def test_what_pydantic_cannot_validate_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"list\[.*User\] cannot be validated.*primary key"):
        ValueType.of(list[User])


# Checking


@pytest.mark.parametrize(
    ("annotation", "given", "wanted"),
    [
        (int, "12", 12),
        (int, 2.0, 2),
        (float, 3, 3.0),
        (bool, "yes", True),
        (date, "2024-01-02", date(2024, 1, 2)),
        (timedelta, "PT1H", timedelta(hours=1)),
        (Colour, "red", Colour.RED),
        (Colour, Colour.RED, Colour.RED),
        (Level, 2, Level.HIGH),
        (int | None, None, None),
        (Order, {"qty": "2"}, Order(2)),
        (list[Order], ({"qty": 1},), [Order(1)]),
        (tuple[int, str], [1, "a"], (1, "a")),
        (Any, (1, {2: date(2024, 1, 2)}), [1, {"2": "2024-01-02"}]),
        (None, None, None),
    ],
)
def test_values_are_converted_where_that_is_safe(annotation: Any, given: Any, wanted: Any) -> None:
    checked = ValueType.of(annotation).check(given)
    assert checked == wanted
    assert type(checked) is type(wanted)


@pytest.mark.parametrize(
    ("annotation", "given", "message"),
    [
        (int, "x", r"value: Input should be a valid integer.* \(got 'x'\)"),
        (int, None, "value: Input should be a valid integer"),
        (int, 2**63, "64 bits"),
        (Literal[1, 2], 3, "value: Input should be 1 or 2"),
        (Annotated[int, pydantic.Field(gt=0)], 0, "greater than 0"),
        (str, "a\x00", "NUL"),
        (str, "\ud800", "surrogate"),
        (float, math.nan, "nan"),
        (float, math.inf, "inf"),
        (datetime, datetime(2024, 1, 1), "has no time zone.*make_aware"),
        (datetime, datetime.min.replace(tzinfo=timezone(timedelta(hours=5))), "calendar"),
        (timedelta, timedelta.max, "292,471 years"),
        (UUID, UUID("32833106-536e-95df-40b2-d002cc92d33d"), "MariaDB"),
        (None, 0, "value: Input should be None"),
        (Order, {"qty": "x"}, r"value\.qty: Input should be a valid integer"),
        (Order, Order("x"), r"value\.qty: Input should be a valid integer"),  # type: ignore[arg-type]
        (dict[str, list[Order]], {"a b": [{}]}, r"value\['a b'\]\[0\]\.qty: Field required"),
        (Order | list[int], {"qty": "x"}, r"value\.qty: .*integer.*; value: Input should be a valid list"),
        (int | list[int], "x", r"value: .*valid integer.* or .*valid list"),
        (list[int], ["a", "b", "c", "d", "e"], r"value\[2\]: [^;]*; and 2 more"),
        (list[float], [1.0, math.nan], r"value\[1\]: nan"),
        (Any, [1, {"a": math.nan}], r"value\[1\]\.a: nan"),
        (Tagged, Tagged(set(), more={1: [(math.nan,)]}), r"value\.more\['1'\]\[0\]\[0\]: nan"),
        (dict[str, Any], {"a": {math.nan}}, r"value\.a\[0\]: nan"),
        (Any, ["\ud800"], r"value\[0\]: .*surrogate"),
        (Any, {"\ud800": 1}, "value"),
        (Any, object(), "value: cannot be written as JSON"),
        (bytes, b"\xff", "value: cannot be written as JSON"),
        (Any, [10**4300], "digits"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_place(annotation: Any, given: Any, message: str) -> None:
    value_type = ValueType.of(annotation)
    for refuse in (value_type.check, value_type.to_stored, value_type.to_json):
        with pytest.raises(InvalidValue, match=f"(?s)^(?=value).*{message}") as refused:
            refuse(given)
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 500


def test_a_very_deep_value_is_refused() -> None:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(InvalidValue):
        ValueType.of(Any).check(value)


def test_a_validator_that_raises_anything_makes_an_invalid_value() -> None:
    def break_down(value: int) -> int:
        raise KeyError(value)

    value_type = ValueType.of(Annotated[int, pydantic.AfterValidator(break_down)])
    with pytest.raises(InvalidValue, match="raised KeyError: 3"):
        value_type.check(3)
    with pytest.raises(InvalidValue, match="raised KeyError: 3"):
        value_type.from_json(3)


def test_without_time_zones_a_datetime_may_have_none(settings: Any) -> None:
    settings.USE_TZ = False
    value_type = ValueType.of(datetime)
    assert value_type.check(datetime(2024, 1, 1)) == datetime(2024, 1, 1)
    with pytest.raises(InvalidValue, match="make_naive"):
        value_type.check(NOON)


# There and back

ROUND_TRIPS = [
    (int, -5),
    (str, "é"),
    (bool, False),
    (float, 1e-300),
    (date, date(2024, 2, 29)),
    (datetime, NOON),
    (timedelta, timedelta(days=-3, microseconds=7)),
    (UUID, AN_UUID),
    (Colour, Colour.DARK_BLUE),
    (Level, Level.HIGH),
    (Mixed, Mixed.TWO),
    (Literal["a", "b"], "b"),
    (Literal[True], True),
    (datetime | None, None),
    (datetime | None, NOON),
    (Decimal, Decimal("1.10")),
    (Annotated[Decimal, models.DecimalField(max_digits=5, decimal_places=2)], Decimal("1.10")),
    (list[datetime], [NOON]),
    (dict[int, Order], {1: Order(2, tags={"x"}, size=(3, 4), colour=Colour.DARK_BLUE)}),
    (Address, {"street": "s", "since": date(2024, 1, 2)}),
    (Customer, Customer(customerName="n", born=NOON, orders=[Order(1)])),
    (int | str, "5"),
    (int | str, 5),
    (int | list[str], ["5"]),
    (set[UUID], {AN_UUID}),
    (tuple[int, ...], (1, 2)),
    (Order | None, None),
    (Ids, [1, 2]),
    (Any, {"a": [1, None, 2.5]}),
    (None, None),
]


@pytest.mark.parametrize(("annotation", "value"), ROUND_TRIPS)
def test_there_and_back(annotation: Any, value: Any) -> None:
    value_type = ValueType.of(annotation)
    stored, plain = value_type.to_stored(value), value_type.to_json(value)
    for back in (value_type.from_stored(stored), value_type.from_json(plain), value_type.check(value)):
        assert back == value
        assert type(back) is type(value)


@pytest.mark.parametrize(("annotation", "value"), ROUND_TRIPS)
def test_what_is_stored_already_may_be_stored_again(annotation: Any, value: Any) -> None:
    value_type = ValueType.of(annotation)
    stored = value_type.to_stored(value)
    assert value_type.to_stored(stored) == stored
    assert value_type.to_stored(value_type.check(value)) == stored
    assert value_type.from_stored(value_type.from_stored(stored)) == value


def test_the_stored_forms() -> None:
    assert ValueType.of(Colour).to_stored(Colour.RED) == "red"
    assert ValueType.of(Decimal).to_stored(Decimal("1.10")) == "1.10"
    assert ValueType.of(datetime).to_stored(NOON) == NOON
    assert ValueType.of(datetime).to_json(NOON) == "2024-02-29T12:00:00+05:30"
    assert ValueType.of(Order).to_stored(Order(1)) == {
        "qty": 1, "price": "1.10", "tags": [], "size": [1, 1], "colour": "red",
    }  # fmt: skip


# Whole minutes: ISO text has no seconds in its offsets, which some time zones had long ago.
offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


def test_a_name_missing_inside_a_type_is_found_at_once() -> None:
    with pytest.raises(DefinitionError, match=r"Broken.* cannot be validated: .*Nowhere"):
        ValueType.of(list[Broken])


@pytest.mark.parametrize("annotation", [set[str], frozenset[str], Any, dict[int, tuple[set[str], int]], Tagged])
def test_a_set_is_written_in_the_same_order_by_every_process(annotation: Any) -> None:
    words = {f"word {number}" for number in range(100)}
    value: Any = {1: (words, 1)} if annotation == dict[int, tuple[set[str], int]] else words
    value = Tagged(words) if annotation is Tagged else value
    written = json.dumps(ValueType.of(annotation).to_json(value))
    assert [written.index(f'"{word}"') for word in sorted(words)] == sorted(
        written.index(f'"{word}"') for word in words
    )


@given(st.datetimes(timezones=offsets | st.just(UTC)))
def test_any_moment_survives(moment: datetime) -> None:
    value_type = ValueType.of(datetime)
    try:
        plain = value_type.to_json(moment)
    except InvalidValue:
        assert moment.year in (1, 9999)
    else:
        assert value_type.from_json(plain) == moment


@given(st.timedeltas())
def test_any_duration_survives_or_is_refused(duration: timedelta) -> None:
    value_type = ValueType.of(timedelta)
    try:
        plain = value_type.to_json(duration)
    except InvalidValue:
        assert abs(duration) > timedelta(days=106_000_000)
    else:
        assert value_type.from_json(plain) == duration


@pytest.mark.parametrize(
    ("annotation", "stored"), [(int, "x"), (Colour, "green"), (Order, {"qty": None}), (list[int], None), (None, 1)]
)
def test_what_no_longer_fits_is_refused_when_read(annotation: Any, stored: Any) -> None:
    value_type = ValueType.of(annotation)
    for read in (value_type.from_stored, value_type.from_json):
        with pytest.raises(InvalidValue, match="value"):
            read(stored)


def test_what_was_read_is_a_copy() -> None:
    given = {"a": [1]}
    checked = ValueType.of(Any).check(given)
    checked["a"].append(2)
    assert given == {"a": [1]}


# Models


def saved(model: Any = User, pk: int = 7) -> Any:
    instance = model(pk=pk)
    instance._state.adding = False
    return instance


def test_a_row_may_be_given_in_three_ways() -> None:
    value_type = ValueType.of(User)
    for row in (saved(), ModelReference(User, 7), 7, "7"):
        assert value_type.to_stored(row) == value_type.to_json(row) == 7
    assert value_type.check(row := saved()) is row
    assert value_type.check(7) == ModelReference(User, 7)
    assert value_type.from_stored(7) == value_type.from_json(7) == ModelReference(User, 7)
    assert ValueType.of(User | None).from_stored(None) is None
    assert ValueType.of(User | None).to_stored(None) is None


@pytest.mark.parametrize("row", [None, "x", True, 1.5, [], saved(Group), ModelReference(Group, 7)])
def test_other_things_are_no_rows(row: Any) -> None:
    with pytest.raises(InvalidValue, match=r"value: expected a saved auth\.User"):
        ValueType.of(User).check(row)


def test_an_unsaved_row_is_refused() -> None:
    with pytest.raises(InvalidValue, match="save it first"):
        ValueType.of(User).check(User(pk=7))


def test_a_reference_says_what_it_is_not() -> None:
    reference = ModelReference(User, 7)
    with pytest.raises(NotDurable, match=r"user\.email: a workflow holds a reference to auth\.User 7"):
        _ = reference.email
    assert reference.id == reference.pk == 7
    assert not hasattr(reference, "email")
    assert repr(reference) == "<auth.User 7>"
    assert copy.deepcopy(reference) == pickle.loads(pickle.dumps(reference)) == reference
    assert {reference: 1}[ModelReference(User, 7)] == 1
    assert reference != ModelReference(Group, 7)


# Functions

T = TypeVar("T")
C = TypeVar("C", contravariant=True)


class InputT(Generic[T]):
    pass


class Push(Protocol[C]):
    def __call__(self, key: str, value: C) -> bool: ...


class Context:
    pass


def full(x: Later, ctx: Context) -> list[Later]:
    raise NotImplementedError


async def alone(x: int) -> None: ...


def empty() -> Colour:
    raise NotImplementedError


def approve(Input: type[InputT[Later]], push: Push[bool]) -> None: ...


def review(Input: type[InputT[None]], push: Push[User | None]): ...  # type: ignore[no-untyped-def]


@dataclass
class Later:
    """Defined after the functions that name it."""

    x: int


def test_functions_are_read() -> None:
    signature = function_signature(full)
    assert signature.input.base is Later
    assert signature.output.base == list[Later]
    assert (signature.parameter, signature.context) == ("x", "ctx")
    signature = function_signature(alone)
    assert (signature.output.kind, signature.parameter, signature.context) == ("none", "x", None)
    signature = function_signature(empty)
    assert (signature.input.kind, signature.parameter, signature.context) == ("none", None, None)


def test_tasks_are_read() -> None:
    signature = task_signature(approve, input_marker=InputT, push_marker=Push)
    assert (signature.input.base, signature.output.base, signature.context) == (Later, bool, None)
    signature = task_signature(review, input_marker=InputT, push_marker=Push)
    assert (signature.input.kind, signature.output.model, signature.output.nullable) == ("none", User, True)


def untyped(x, ctx) -> int: ...  # type: ignore[no-untyped-def,empty-body]
def no_result(x: int): ...  # type: ignore[no-untyped-def]
def unknown(x: Nowhere) -> int: ...  # type: ignore[name-defined,empty-body]  # noqa: F821
def many(x: int, y: int, ctx: Context) -> int: ...  # type: ignore[empty-body]
def stars(*x: int) -> int: ...  # type: ignore[empty-body]
def keywords(x: int, *, y: int = 1) -> int: ...  # type: ignore[empty-body]
def of_models(x: list[User]) -> int: ...  # type: ignore[empty-body]
def to_models(x: int) -> list[User]: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (untyped, "parameter 'x' has no annotation. Write its type, such as `x: int`"),
        (no_result, "no return annotation. Write what it returns, `-> None`"),
        (unknown, "'Nowhere', which its module does not define.*TYPE_CHECKING"),
        (many, "has 3 parameters, at most 2.*dataclass"),
        (stars, r"`\*x.*` cannot be filled.*dataclass"),
        (keywords, "`y.*` cannot be filled.*dataclass"),
        (of_models, "the parameter 'x': .*cannot be validated"),
        (to_models, "the result: .*cannot be validated"),
    ],
)
def test_an_unreadable_function_is_named_with_its_place(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=rf"{function.__name__} \(.*test_signature\.py:\d+\).*{message}"):
        function_signature(function)


def no_push(Input: type[InputT[int]]) -> None: ...
def instance(Input: InputT[int], push: Push[int]) -> None: ...
def bare(Input: type[InputT], push: Push[int]) -> None: ...  # type: ignore[type-arg]
def wrong_push(Input: type[InputT[int]], push: Callable[..., int]) -> None: ...
def with_context(Input: type[InputT[int]], push: Push[int], ctx: Context) -> None: ...


@pytest.mark.parametrize("function", [no_push, instance, bare, wrong_push, with_context])
def test_an_unreadable_task_is_named_with_the_remedy(function: Callable[..., Any]) -> None:
    with pytest.raises(DefinitionError, match=rf"{function.__name__} .*Write `def f\(Input: type\[InputT\[str\]\]"):
        task_signature(function, input_marker=InputT, push_marker=Push)
