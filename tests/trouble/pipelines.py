"""Pipelines that misbehave: atomic bodies that lose their transaction, values that cannot be stored, and the like."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Annotated, Any

from asgiref.sync import sync_to_async
from channels.db import database_sync_to_async
from django.db import (
    DatabaseError,
    IntegrityError,
    OperationalError,
    close_old_connections,
    connection,
    models,
    transaction,
)

import pipeteer_django as pipeteer
from pipeteer_django import Context, InputT, Push, WorkflowContext
from tests.trouble.models import Crate, Effect, HeavyCrate, Parcel


class Trouble(Exception):
    """What the bodies here raise."""


# Atomic bodies that lose their transaction


def effect(name: str = "lost", unique: int | None = None) -> None:
    """The write that must be there if and only if there is an output."""
    Effect.objects.create(name=name, unique=unique)


def raw(sql: str) -> None:
    """One statement, past the ORM."""
    with connection.cursor() as cursor:
        cursor.execute(sql)


def set_rollback() -> None:
    effect()
    transaction.set_rollback(True)


def close_connection() -> None:
    effect()
    connection.close()


def close_and_write_on() -> None:
    effect()
    connection.close()
    with contextlib.suppress(DatabaseError):
        effect()


def close_old() -> None:
    effect()
    connection.close_at = 0.0  # as with CONN_MAX_AGE over
    close_old_connections()


def swallow_save() -> None:
    effect(unique=1)
    with contextlib.suppress(IntegrityError):
        Effect(name="twice", unique=1).save()


def swallow_bulk_create() -> None:
    effect(unique=1)
    with contextlib.suppress(IntegrityError):
        # In two batches: from Django 6.1 on, one alone gets no block of its own, and so spoils none.
        Effect.objects.bulk_create([Effect(name="once", unique=2), Effect(name="twice", unique=1)], batch_size=1)


def swallow_inner_block() -> None:
    effect()
    with contextlib.suppress(Trouble), transaction.atomic(savepoint=False):
        raise Trouble("inside")


def swallow_in_savepoint() -> None:
    with transaction.atomic():
        effect(unique=1)
        with contextlib.suppress(IntegrityError):
            Effect(name="twice", unique=1).save()


def raw_commit() -> None:
    effect()
    raw("COMMIT")


def raw_commit_and_begin() -> None:
    effect()
    raw("COMMIT")
    raw("BEGIN")


def raw_rollback() -> None:
    effect()
    raw("ROLLBACK")


def raw_commit_and_raise() -> None:
    raw_commit()
    raise Trouble("afterwards")


def raw_commit_and_swallow() -> None:
    effect(unique=1)
    raw("COMMIT")
    with contextlib.suppress(IntegrityError):
        Effect(name="twice", unique=1).save()


def raw_commit_and_swallow_raw() -> None:
    raw_commit()
    with contextlib.suppress(DatabaseError):
        raw("SELECT * FROM no_such_table")


def raise_deadlock() -> None:
    effect()
    raise OperationalError("deadlock detected")


LOSSES: dict[str, Callable[[], None]] = {
    loss.__name__: loss
    for loss in (
        set_rollback,
        close_connection,
        close_and_write_on,
        close_old,
        swallow_save,
        swallow_bulk_create,
        swallow_inner_block,
        swallow_in_savepoint,
        raw_commit,
        raw_commit_and_begin,
        raw_rollback,
        raw_commit_and_raise,
        raw_commit_and_swallow,
        raw_commit_and_swallow_raw,
        raise_deadlock,
    )
}


@pipeteer.activity(atomic=True, backoff=60)
def loses(how: str) -> str:
    """Write, then lose the transaction in the way that is named."""
    LOSSES[how]()
    return how


@pipeteer.activity(atomic=True, backoff=60)
def swallows_raw_error(x: int) -> int:
    """Some databases go on after a failed statement, PostgreSQL does not."""
    effect()
    with contextlib.suppress(DatabaseError):
        raw("SELECT * FROM no_such_table")
    return x


@pipeteer.activity(atomic=True, backoff=60)
def makes_table(x: int) -> int:
    """DDL commits on MariaDB, and takes part in the transaction elsewhere."""
    effect()
    raw("CREATE TABLE trouble_made (x int)")
    return x


@pipeteer.activity(atomic=True, backoff=60)
async def borrows_from_channels(x: int) -> int:
    """Channels closes old connections around each call."""
    await sync_to_async(effect)()
    await database_sync_to_async(effect)()
    return x


@pipeteer.activity(atomic=True, backoff=60)
async def writes_in_thread(where: str) -> str:
    """Writes past its transaction, on another thread's connection."""
    if where == "to_thread":
        await asyncio.to_thread(_write_and_close)
    elif where == "thread_sensitive":
        await sync_to_async(_write_and_close, thread_sensitive=False)()
    else:
        await sync_to_async(effect)("kept")
    return where


def _write_and_close() -> None:
    try:
        effect()
    finally:
        connection.close()


@pipeteer.activity(atomic=True, backoff=60)
def raises_after_write(x: int) -> int:
    """Nothing of it may be left."""
    effect()
    raise Trouble(f"after writing {x}")


@pipeteer.activity(atomic=True, backoff=60)
def careful_write(x: int) -> int:
    """The right way to let a statement fail."""
    effect("kept", unique=1)
    with contextlib.suppress(IntegrityError), transaction.atomic():
        effect("twice", unique=1)
    return x


@pipeteer.activity(atomic=True, backoff=60)
def enqueues(x: int) -> int:
    """Enqueue another pipeline's entry, which is there only if this one is done."""
    keeps.enqueue(x, key=f"from {x}")
    if x < 0:
        raise Trouble("changed its mind")
    return x


# Values


@pipeteer.activity(max_attempts=3)
def returns(kind: str) -> dict[str, Any]:
    """What cannot be stored."""
    deep: list[Any] = []
    for _ in range(40):
        deep = [deep]
    values: dict[str, Any] = {
        "object": {"x": object()},
        "nan": {"x": float("nan")},
        "nul": {"x": "a\x00b"},
        "surrogate": {"x": "\ud800"},
        "deep": {"x": deep},
        "large": {"x": "x" * 2_000_000},
        "list": [],
        "fine": {"x": 1},
    }
    return values[kind]  # type: ignore[no-any-return]


# Rows that go with others


@pipeteer.task()
def deliver_parcel(
    Input: type[InputT[Annotated[Parcel, models.ForeignKey(Parcel, on_delete=models.CASCADE)]]], push: Push[bool]
) -> str:
    """A child that a CASCADE can take away."""
    return Input.__name__


@pipeteer.workflow()
async def shipping(parcel: int, ctx: WorkflowContext) -> str:
    """Waits for a parcel, and notices when it is gone."""
    try:
        return str(await ctx.call(deliver_parcel, parcel))  # type: ignore[arg-type]  # its primary key
    except pipeteer.StepFailed as failure:
        return failure.type_name


# Odds and ends


@pipeteer.activity(backoff=60)
def keeps(x: int, ctx: Context) -> int:
    """Nothing wrong with it, for once."""
    return x


@pipeteer.activity(no_retry_on=Trouble)
def never_again(x: int) -> int:
    """Its error is one that no retry mends."""
    raise Trouble(f"{x} will not do")


@pipeteer.activity(backoff=10, max_backoff=60)
def fails(x: int) -> int:
    """Retried for ever, ever later."""
    raise Trouble(f"{x} will not do")


@pipeteer.workflow()
async def waits(question: str, ctx: WorkflowContext) -> str:
    """Asks two people at once and needs both."""
    answers = await ctx.all(*(ctx.call(ask, f"{question} {n}") for n in range(2)))
    return " ".join(answers)


@pipeteer.workflow()
async def waits_for_waits(question: str, ctx: WorkflowContext) -> str:
    """A parent of a parent."""
    return await ctx.call(waits, question)


@pipeteer.workflow()
async def waits_anyway(question: str, ctx: WorkflowContext) -> str:
    """Says what became of its child."""
    try:
        return await ctx.call(ask, question)
    except pipeteer.StepFailed as failure:
        return f"{failure.pipeline}: {failure.type_name}"


@pipeteer.task()
def ask(Input: type[InputT[str]], push: Push[str]) -> list[str]:
    """Artifact: what multitasks merge."""
    return ["ask"]


@pipeteer.task()
def ask_again(Input: type[InputT[str]], push: Push[str]) -> list[str]:
    """Another artifact."""
    return ["ask_again"]


@pipeteer.multitask(ask, ask_again)
def desk(first: list[str], second: list[str]) -> list[str]:
    """Several tasks as one."""
    return first + second


@pipeteer.multitask(desk, ask)
def office(first: list[str], second: list[str]) -> list[str]:
    """Multitasks of multitasks."""
    return first + second


# Rows that may be missing, and those of models that inherit


@pipeteer.activity()
def appraise(parcel: Parcel | None) -> Parcel | None:
    """A row, or none."""
    return parcel


@pipeteer.activity()
def stack(crate: Crate) -> Crate:
    """A row whose model inherits from another."""
    return crate


@pipeteer.activity()
def lift(crate: HeavyCrate) -> HeavyCrate:
    """A row by its model's proxy."""
    return crate


@pipeteer.activity()
def scan(parcel: Annotated[Parcel, models.ForeignKey(Parcel, on_delete=models.CASCADE)]) -> int:
    """Work that goes with what it is about."""
    return parcel.pk
