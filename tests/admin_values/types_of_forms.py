"""Types for the tests of typed forms."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NotRequired,  # pydantic wants this one before Python 3.12
)
from uuid import UUID, uuid4

import pydantic
from typing_extensions import TypedDict


class Colour(Enum):
    RED = "red"
    DARK_BLUE = "blue"


class Mixed(Enum):
    ONE = 1
    TEXT = "1"
    NOTHING = ""


@dataclass
class Line:
    name: str
    price: Decimal
    quantity: int = 1
    note: str | None = None


@dataclass
class Order:
    """An order."""

    customer: str
    lines: list[Line]
    colour: Colour
    due: datetime | None = None
    express: bool = False
    tags: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)


class Address(TypedDict):
    street: str
    number: NotRequired[int]
    floor: NotRequired[str | None]


class Tagged(TypedDict):
    name: str
    kind: NotRequired[Literal["only"]]


class Pair(NamedTuple):
    left: int
    right: str = "x"


class Customer(pydantic.BaseModel):
    name: str = pydantic.Field(min_length=1, description="As on the invoice.")
    age: int | None = pydantic.Field(default=None, ge=0, alias="years")
    address: Address | None = None
    id: UUID = pydantic.Field(default_factory=uuid4)


class Tree(pydantic.BaseModel):
    name: str
    children: list[Tree] = []


@dataclass
class Everything:
    whole: int
    real: float
    text: str
    truth: bool
    day: date
    moment: datetime
    clock: time
    span: timedelta
    name: UUID
    colour: Colour
    mixed: Mixed
    word: Literal["a", "b", None]
    pair: tuple[int, str]
    several: tuple[float, ...]
    anything: Any
    either: int | str
    perhaps: bool | None
    nested: list[list[int]]
    named: dict[str, Line]
    mode: Literal["only"] = "only"


Small = Annotated[int, pydantic.Field(ge=0, le=9)]
