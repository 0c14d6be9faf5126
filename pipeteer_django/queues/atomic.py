"""Atomic activities: the body's ORM writes, its result and the removal of its entry are one transaction.

Leaving `atomic()` without an exception does not mean that the body's writes are in the transaction that commits.
Every known way to lose it is looked for afterwards and named.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from django.db import DatabaseError, InterfaceError, connections, transaction
from django.db.backends.signals import connection_created

from pipeteer_django.exceptions import BrokenAtomicity, EntryChanged, LeaseLost, LostTransaction
from pipeteer_django.pipelines.outcome import Done
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.claim import COLUMNS, Claim, claim_of, plain
from pipeteer_django.queues.database import (
    Strategy,
    aborted,
    durable,
    fence_stands,
    is_by_server,
    is_disconnect,
    set_fence,
    single_writer,
    time_of,
)
from pipeteer_django.queues.settle import settle, wake_callers
from pipeteer_django.queues.statements import select_rows
from pipeteer_django.queues.tickets import Settled, Ticket
from pipeteer_django.queues.turn import resolve, ticket_of

T = TypeVar("T")

logger = logging.getLogger("pipeteer_django.atomic")


class Busy(DatabaseError):
    """The entry's row is locked; its body was not begun."""


_SLOW = 0.5
"""Seconds."""
_PAUSES = tuple(0.01 * 2**n for n in range(7))
"""Seconds between tries to lock a caller's row."""


@dataclass(frozen=True, slots=True)
class _Owner:
    """Who may write inside the transaction under way."""

    using: str
    thread: int
    activity: str


_owner: ContextVar[_Owner | None] = ContextVar("pipeteer_atomic_owner", default=None)
_WRITE = re.compile(r"\s*(INSERT|UPDATE|DELETE|REPLACE|MERGE|CREATE|ALTER|DROP|TRUNCATE)\b", re.IGNORECASE)


def run_atomic(claim: Claim, using: str, body: Callable[[], Any], commit: Strategy = durable) -> Settled:
    """Fence, run `body`, settle its value, all in one transaction; then wake the caller in another.

    Raises what the body raised, LeaseLost when the entry is no longer this claim's, LostTransaction when the body's
    writes would not have been part of the commit. `body` returns the checked value.
    """
    watch_threads(using)
    in_doubt: list[Settled] = []
    try:
        settled = _run(claim, using, body, commit, in_doubt)
    except (DatabaseError, InterfaceError) as error:
        # The reply to COMMIT may be what was lost. My epoch still there means the writes are gone too.
        if not in_doubt or not is_disconnect(error) or resolve(in_doubt[0], [], using, "", commit) is None:
            raise
        settled = in_doubt[0]
        settled.proved = False
    return _after(claim, settled, using, commit)


def _run(claim: Claim, using: str, body: Callable[[], Any], commit: Strategy, in_doubt: list[Settled]) -> Settled:
    with commit(using) as proof:
        started = time.monotonic()  # not before: waiting for others to write is not its fault
        _fence(claim, using)
        value = _fenced(claim, using, body)
        settled = settle([ticket_of(claim, Done(value))], using=using, now=time_of(using), wait=True, parents=False)
        if not settled.done:
            raise LeaseLost(f"{claim.pipeline.id} {claim.key!r}: the entry was taken over while its body ran.")
        in_doubt.append(settled)  # from here on only COMMIT can fail
    if not proof.proved:
        raise LostTransaction(
            f"{claim.pipeline.id} {claim.key!r}: the transaction ended without a commit, so nothing was written. "
            "Did the body call transaction.set_rollback() or swallow a database error?"
        )
    _complain_if_slow(claim, using, time.monotonic() - started)
    return settled


def rehearse(pipeline: Pipeline[Any, Any], id: int, using: str, body: Callable[[Claim], T]) -> T:
    """Run `body` as an attempt at this entry would run it, in a transaction that is rolled back in any case.

    The entry's row is locked meanwhile, and otherwise left alone. Raises EntryChanged where it is gone or locked.
    """
    watch_threads(using)
    with transaction.atomic(using=using):
        claim = _unclaimed(pipeline, id, using)
        try:
            value = _fenced(claim, using, lambda: body(claim))
        except BrokenAtomicity as error:
            error.add_note("It was only rehearsed: what the body committed stays, the entry is still in its queue.")
            raise
        transaction.set_rollback(True, using=using)
    return value


def _unclaimed(pipeline: Pipeline[Any, Any], id: int, using: str) -> Claim:
    """What a worker's next claim of the entry would be."""
    rows = select_rows(using, pipeline.Input, COLUMNS, f"id = {int(id)}", order="id", lock=True)
    if not rows:
        raise EntryChanged(f"{pipeline.id}: entry {id} is being worked on just now, or left its queue. Load it again.")
    return claim_of(pipeline, dict(zip(COLUMNS, rows[0], strict=True)), time_of(using))


def _fenced(claim: Claim, using: str, body: Callable[[], T]) -> T:
    """Run the body; raises LostTransaction unless this is still the transaction that it began in."""
    set_fence(using)
    try:
        with _owned(using, claim):
            value = body()
    except BaseException as error:
        _refuse_broken(claim, using, error)
        raise
    _still_whole(claim, using)
    return value


def _complain_if_slow(claim: Claim, using: str, seconds: float) -> None:
    if seconds > _SLOW and single_writer(using):
        logger.warning(
            "%s %r held SQLite's only writer for %.1f s: everything else waited. Keep atomic bodies short there.",
            claim.pipeline.id, claim.key, seconds,
        )  # fmt: skip


def _after(claim: Claim, settled: Settled, using: str, commit: Strategy) -> Settled:
    if claim.step_id is None:
        return settled
    left: Sequence[Ticket] = settled.done
    # Never a waiting lock, which would need a timeout that outlives this transaction on MariaDB. Who stays locked all
    # that time, and who is lost to an error here, is woken by the sweep.
    for pause in _PAUSES:
        try:
            with commit(using):
                woken = wake_callers(left, using=using, now=time_of(using))
        except (DatabaseError, InterfaceError):
            break
        settled.ready |= woken.ready
        left = woken.later
        if not left:
            break
        time.sleep(pause)
    return settled


def _fence(claim: Claim, using: str) -> None:
    """Lock the row first: while this session lives, the lock is the lease."""
    row = plain(claim.pipeline.Input, using).filter(id=claim.id, epoch=claim.epoch).values_list("id", flat=True)
    if row.select_for_update(skip_locked=True).first() is None:
        if row.first() is not None:
            raise Busy("somebody else holds a lock on the entry")
        raise LeaseLost(f"{claim.pipeline.id} {claim.key!r}: another worker has taken the entry over.")


def _still_whole(claim: Claim, using: str) -> None:
    connection = connections[using]
    name = f"{claim.pipeline.id} {claim.key!r}"
    if _closed(connection):
        raise LostTransaction(
            f"{name}: the database connection was closed inside the body, and its writes with it. Do not call "
            "connection.close(), close_old_connections() or channels.db.database_sync_to_async there."
        )
    swallowed = aborted(using)
    if not fence_stands(using):
        raise BrokenAtomicity(_BROKEN.format(name=name))
    if connection.needs_rollback:
        raise LostTransaction(
            f"{name}: the transaction can only be rolled back, because the body called set_rollback(True) or caught a "
            "database error outside its own `with transaction.atomic()`. Put the failing statement into such a block."
        )
    if swallowed:
        raise LostTransaction(
            f"{name}: the transaction was aborted by a database error that the body swallowed. "
            "Put the failing statement into its own `with transaction.atomic()`."
        )


def _refuse_broken(claim: Claim, using: str, error: BaseException) -> None:
    """A body that ended its transaction and then raised may have committed writes: another attempt would repeat them.

    Not where the server itself may have ended it: a deadlock (MariaDB), a lost connection, a full disk.
    """
    if not (_closed(connections[using]) or _by_server(error) or fence_stands(using)):
        raise BrokenAtomicity(_BROKEN.format(name=f"{claim.pipeline.id} {claim.key!r}")) from error


def _closed(connection: Any) -> bool:
    return connection.connection is None or connection.closed_in_transaction


def _by_server(error: BaseException | None) -> bool:
    while error is not None:
        if is_by_server(error):
            return True
        error = error.__cause__ or error.__context__
    return False


_BROKEN = (
    "{name}: the body ended the transaction itself (a raw COMMIT or ROLLBACK, or DDL on MariaDB). Part of its writes "
    "may be committed, so it is not retried: look at the data, then retry or complete it by hand."
)


# Writes that would escape


@contextmanager
def _owned(using: str, claim: Claim) -> Iterator[None]:
    token = _owner.set(_Owner(using, threading.get_ident(), f"{claim.pipeline.id} {claim.key!r}"))
    try:
        yield
    finally:
        _owner.reset(token)


def watch_threads(using: str) -> None:
    """A write that an atomic body makes from another thread, outside its transaction, raises; here, too."""
    _watch(connection=connections[using])


def _watch(*, connection: Any, **kwargs: Any) -> None:
    if _refuse_escape not in connection.execute_wrappers:
        connection.execute_wrappers.append(_refuse_escape)


def _refuse_escape(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
    owner = _owner.get()
    if (
        owner is not None
        and owner.thread != threading.get_ident()
        and context["connection"].alias == owner.using
        and _WRITE.match(str(sql))
    ):
        raise LostTransaction(
            f"{owner.activity}: its atomic body wrote from another thread, outside its transaction. Use the ORM "
            "directly or through sync_to_async; asyncio.to_thread and thread_sensitive=False leave the transaction."
        )
    return execute(sql, params, many, context)


# When this module is imported, and not with the first atomic body: a connection opened before would go unwatched.
connection_created.connect(_watch, dispatch_uid="pipeteer_django.atomic")
