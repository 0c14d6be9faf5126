"""The pipelines that the engine's tests run."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

import pydantic
from django.db import models
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

import pipeteer_django as pipeteer
from pipeteer_django import Context, InputT, Push, WorkflowContext
from tests.testapp.models import Item, Ledger


class Flaky(Exception):
    """What `flaky` raises until it has failed often enough."""


class Boom(Exception):
    """What everything raises that always fails."""


# Plain activities


@pipeteer.activity()
async def double(x: int) -> int:
    """The smallest activity."""
    return 2 * x


@pipeteer.activity()
def double_sync(x: int) -> int:
    """`double` on the thread pool."""
    return 2 * x


@pipeteer.activity()
async def slow(seconds: float) -> float:
    """Sleep without blocking anything."""
    await asyncio.sleep(seconds)
    return seconds


@pipeteer.activity()
def slow_sync(seconds: float) -> float:
    """Sleep on the thread pool."""
    time.sleep(seconds)
    return seconds


@pipeteer.activity(timeout=0.2, max_attempts=1)
async def too_slow(seconds: float) -> float:
    """Has a fifth of a second."""
    await asyncio.sleep(seconds)
    return seconds


@pipeteer.activity()
def nothing(x: int) -> None:
    """None is a value."""


@pipeteer.activity()
def no_input() -> str:
    """An activity may take nothing."""
    return "done"


@pipeteer.activity()
def about(x: int, ctx: Context) -> dict[str, str | int]:
    """What the context says about this attempt."""
    ctx.log.info("about %s", x)
    return {
        "key": ctx.key,
        "run_id": ctx.run_id,
        "attempt": ctx.attempt,
        "idempotency_key": ctx.idempotency_key,
        "app": repr(ctx.app),
    }


# Activities that leave a trace, or fail


@pipeteer.activity()
def trace(name: str, ctx: Context) -> str:
    """One Ledger row per attempt, outside any transaction: counts how often the body ran."""
    Ledger.objects.create(name=name, run_id=ctx.run_id)
    return name


@pipeteer.activity(atomic=True)
def record(name: str, ctx: Context) -> str:
    """One Ledger row, committed together with the output: exactly one, whatever crashes."""
    Ledger.objects.create(name=name, run_id=ctx.run_id)
    return name


@pipeteer.activity(atomic=True, backoff=0.05)
def record_flaky(failures: int, ctx: Context) -> int:
    """Write, then fail, `failures` times: none of those writes may be left."""
    Ledger.objects.create(name="record_flaky", run_id=ctx.run_id)
    if ctx.attempt <= failures:
        raise Flaky(f"attempt {ctx.attempt} of {failures + 1}")
    return ctx.attempt


@pipeteer.activity(atomic=True, max_attempts=2, backoff=0.05)
def record_even(x: int, ctx: Context) -> int:
    """Write; with an odd number, fail twice and be given up."""
    Ledger.objects.create(name="record_even", run_id=ctx.run_id)
    if x % 2:
        raise Boom(f"{x} is odd")
    return x


@pipeteer.activity(backoff=0.05)
def flaky(failures: int, ctx: Context) -> int:
    """Fail `failures` times, then return the number of tries; each try leaves a Ledger row."""
    Ledger.objects.create(name="flaky", run_id=ctx.run_id)
    tries = Ledger.objects.filter(name="flaky", run_id=ctx.run_id).count()
    if tries <= failures:
        raise Flaky(f"try {tries} of {failures + 1}")
    return tries


@pipeteer.activity(max_attempts=1)
def boom(message: str) -> int:
    """Always given up at once."""
    raise Boom(message)


@pipeteer.activity(max_attempts=3, backoff=0.05)
async def boom_thrice(message: str) -> int:
    """Given up after three attempts."""
    raise Boom(message)


@pipeteer.activity(max_attempts=1)
def odd_fails(x: int) -> int:
    """`x` if it is even."""
    if x % 2:
        raise Boom(f"{x} is odd")
    return x


@pipeteer.activity(retry_on=Flaky, backoff=0.05)
def picky(kind: str, ctx: Context) -> int:
    """Retries Flaky only."""
    if ctx.attempt == 1:
        raise Flaky(kind) if kind == "flaky" else Boom(kind)
    return ctx.attempt


# Workflows


@pipeteer.workflow()
async def quad(x: int, ctx: WorkflowContext) -> int:
    """Two calls, one after the other."""
    x2 = await ctx.call(double, x)
    return await ctx.call(double, x2)


@pipeteer.workflow()
async def quad_too(x: int, ctx: WorkflowContext) -> int:
    """Another workflow that calls the same activity: its children must not meet those of `quad`."""
    x2 = await ctx.call(double, x)
    return await ctx.call(double, x2)


@pipeteer.workflow()
async def fan(n: int, ctx: WorkflowContext) -> list[int]:
    """`n` parallel calls; the results come back in the order of the calls."""
    return list(await ctx.all(*(ctx.call(double, x) for x in range(n))))


@pipeteer.workflow()
async def fan_failing(n: int, ctx: WorkflowContext) -> list[str]:
    """`n` parallel calls of which every other one fails."""
    calls = (ctx.call(odd_fails, x) for x in range(n))
    return [str(result) for result in await ctx.all(*calls, return_exceptions=True)]


@pipeteer.workflow()
async def parent(x: int, ctx: WorkflowContext) -> int:
    """Calls a workflow, which calls activities."""
    return 1 + await ctx.call(quad, x)


@pipeteer.workflow()
async def family(n: int, ctx: WorkflowContext) -> int:
    """Several child workflows at once."""
    return sum(await ctx.all(*(ctx.call(quad, x) for x in range(n))))


@pipeteer.workflow()
async def chain(n: int, ctx: WorkflowContext) -> int:
    """`n` calls, one after the other."""
    total = 0
    for _ in range(n):
        total = await ctx.call(add_one, total)
    return total


@pipeteer.activity()
async def add_one(x: int) -> int:
    """A step of `chain`; defined after it, because a workflow only needs its children when it runs."""
    return x + 1


@pipeteer.workflow()
async def careful(message: str, ctx: WorkflowContext) -> str:
    """A saga in small: it catches its child's failure."""
    try:
        await ctx.call(boom, message)
    except pipeteer.StepFailed as failure:
        return f"{failure.type_name}: {failure.message}"
    return "no failure"


@pipeteer.workflow()
async def careless(message: str, ctx: WorkflowContext) -> int:
    """Lets its child's failure through."""
    return await ctx.call(boom, message)


@pipeteer.workflow()
async def recording(n: int, ctx: WorkflowContext) -> int:
    """`n` atomic activities, one after the other."""
    for index in range(n):
        await ctx.call(record, f"step {index}")
    return n


@pipeteer.workflow()
async def approval(question: str, ctx: WorkflowContext) -> str:
    """Waits for a person."""
    return "yes" if await ctx.call(approve, question) else "no"


# Tasks


@pipeteer.task()
def approve(Input: type[InputT[str]], push: Push[bool]) -> str:
    """Its artifact only shows that it was handed both."""
    return f"{Input.__name__}, {callable(push)}"


@pipeteer.task()
def review(Input: type[InputT[Item]], push: Push[Optional[str]]) -> str:  # noqa: UP045
    """A task about a model's row, which may be answered with None."""
    return f"{Input.__name__}, {callable(push)}"


# Types


class Colour(Enum):
    """Stored as its value."""

    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    """Typed JSON."""

    x: int
    y: int
    tags: list[str] = field(default_factory=list)


class Address(TypedDict):
    """Typed JSON."""

    street: str
    number: int


class Customer(pydantic.BaseModel):
    """Typed JSON with rules of its own."""

    name: str = pydantic.Field(min_length=1)
    age: int = pydantic.Field(ge=0)


@dataclass
class Verdict:
    """What a person decides, and why."""

    decision: Literal["refund", "replace"]
    reasons: list[str] = field(default_factory=list)


@pipeteer.task()
def judge(Input: type[InputT[Customer]], push: Push[Verdict]) -> None:
    """A task with a form for its answer."""


@pipeteer.task()
def pick(Input: type[InputT[str]], push: Push[Item]) -> None:
    """A task answered with a model's row."""


@pipeteer.activity(atomic=True)
def process_item(item: Item, ctx: Context) -> Item:
    """A model in, a model out."""
    item.processed = True
    item.save()
    Ledger.objects.create(name=item.name, run_id=ctx.run_id)
    return item


@pipeteer.workflow()
async def item_flow(item: Item, ctx: WorkflowContext) -> Item:
    """A workflow holds a reference to a row and hands it on."""
    return await ctx.call(process_item, item)


@pipeteer.activity()
def echo_point(x: Point) -> Point:
    """A dataclass."""
    return x


@pipeteer.activity()
def echo_address(x: Address) -> Address:
    """A TypedDict."""
    return x


@pipeteer.activity()
def echo_customer(x: Customer) -> Customer:
    """A pydantic model."""
    return x


@pipeteer.activity()
def echo_decimal(x: Decimal) -> Decimal:
    """Exact on every database."""
    return x


@pipeteer.activity()
def echo_money(
    x: Annotated[Decimal, models.DecimalField(max_digits=12, decimal_places=2)],
) -> Annotated[Decimal, models.DecimalField(max_digits=12, decimal_places=2)]:
    """A column as the user wants it."""
    return x


@pipeteer.activity()
def echo_colour(x: Colour) -> Colour:
    """An Enum."""
    return x


@pipeteer.activity()
def echo_literal(x: Literal["up", "down"]) -> Literal["up", "down"]:
    """A Literal."""
    return x


@pipeteer.activity()
def echo_optional(x: int | None) -> Optional[int]:  # noqa: UP045
    """None as a value, in both spellings of the type."""
    return x


@pipeteer.activity()
def echo_union(x: int | list[str]) -> int | list[str]:
    """A union, as typed JSON."""
    return x


@pipeteer.activity()
def echo_nested(x: dict[str, list[Point]]) -> dict[str, list[Point]]:
    """Types within types."""
    return x


@pipeteer.activity()
def echo_bool(x: bool) -> bool:
    """A native column."""
    return x


@pipeteer.activity()
def echo_str(x: str) -> str:
    """A native column."""
    return x


@pipeteer.activity()
def echo_float(x: float) -> float:
    """A native column."""
    return x


@pipeteer.activity()
def echo_date(x: date) -> date:
    """A native column."""
    return x


@pipeteer.activity()
def echo_datetime(x: datetime) -> datetime:
    """A native column."""
    return x


@pipeteer.activity()
def echo_timedelta(x: timedelta) -> timedelta:
    """A native column."""
    return x


@pipeteer.activity()
def echo_uuid(x: UUID) -> UUID:
    """A native column."""
    return x


@pipeteer.activity()
async def echo_later(x: Later) -> Later:
    """A forward reference: the class comes further down."""
    return x


@dataclass
class Later:
    """Defined after the function that names it."""

    text: str


@pipeteer.activity(max_attempts=1)
def misdeclared(x: str) -> int:
    """Returns what its annotation does not promise."""
    return x  # type: ignore[return-value]


# Workflows whose code a test gives them


@pipeteer.workflow()
async def scripted(x: Any, ctx: WorkflowContext) -> Any:
    """Whatever a test makes of it."""
    return x


@pipeteer.workflow()
async def scripted_child(x: Any, ctx: WorkflowContext) -> Any:
    """What `scripted` calls, or sends messages to."""
    return x


@pipeteer.workflow()
async def scripted_grandchild(x: Any, ctx: WorkflowContext) -> Any:
    """What `scripted_child` calls."""
    return x


@pipeteer.workflow(messages={"approved": bool, "note": str})
async def mailbox(x: int, ctx: WorkflowContext) -> list[Any]:
    """Says which messages it receives: `x` notes, and then an approval."""
    notes = [await ctx.receive("note") for _ in range(x)]
    return [*notes, await ctx.receive("approved")]


@pipeteer.workflow()
async def rounds(left: int, ctx: WorkflowContext) -> int:
    """Begins again until nothing is left."""
    await ctx.call(double, left)
    if left:
        ctx.continue_as_new(left - 1)
    return left
