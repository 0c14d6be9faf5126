"""Wake-ups leave on commit, once per topic and transaction, and never on rollback."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from django.db import connections, transaction

from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.signals import entries_leaving, entries_moved, entry_enqueued, run_finished
from pipeteer_django.wakeups import publish, tell_changed
from pipeteer_django.wakeups.topics import CHANGES


def wake_on_commit(using: str, *topics: str) -> None:
    """Publish these topics when the transaction commits (now, where there is none); of a queue pages hear, too."""
    for topic in topics:
        once_on_commit(using, topic, partial(publish, topic))
        if registry.get(topic):
            changed_on_commit(using, topic)


def changed_on_commit(using: str, id: str) -> None:
    """Tell pages that rows of this pipeline changed: by itself where no worker is to be woken for it."""
    once_on_commit(using, CHANGES + id, partial(tell_changed, [id]))


def once_on_commit(using: str, name: str, action: Callable[[], None]) -> None:
    """Do this when the transaction commits (now, where there is none), once for all that have the same name."""
    # Registered per write: a savepoint that rolls back takes only its own registrations with it.
    transaction.on_commit(_once(_batch(using), name, action), using=using, robust=True)


def _batch(using: str) -> set[str]:
    """The names of what was already done for the transaction under way.

    A set that is not empty belongs to a transaction that has committed, so a new one begins; one that belongs to a
    transaction that rolled back is still empty and can be used again.
    """
    connection: Any = connections[using]
    batch: set[str] | None = getattr(connection, "_pipeteer_sent", None)
    if batch is None or batch:
        batch = connection._pipeteer_sent = set()
    return batch


def _once(done: set[str], name: str, action: Callable[[], None]) -> Callable[[], None]:
    def act() -> None:
        if name not in done:
            done.add(name)
            action()

    return act


def enqueued(using: str, pipeline: Pipeline[Any, Any], keys: list[str], ids: list[int | None]) -> None:
    """Send `entry_enqueued` when the transaction commits, if anybody listens."""
    if entry_enqueued.has_listeners(pipeline):

        def send() -> None:
            entry_enqueued.send_robust(sender=pipeline, keys=keys, ids=ids)

        transaction.on_commit(send, using=using, robust=True)


def leaving(pipeline: Pipeline[Any, Any], verb: str, ids: Iterable[int]) -> None:
    """Send `entries_leaving`, now and inside the transaction, if anybody listens."""
    if entries_leaving.has_listeners(pipeline):
        entries_leaving.send_robust(sender=pipeline, verb=verb, ids=list(ids))


def moved(
    using: str,
    pipeline: Pipeline[Any, Any],
    verb: str,
    ids: Iterable[int] | None = None,
    *,
    count: int | None = None,
    epoch: int | None = None,
) -> None:
    """Send `entries_moved` when the transaction commits, if anybody listens and anything moved."""
    chosen = None if ids is None else list(ids)
    number = len(chosen or ()) if count is None else count
    if number and entries_moved.has_listeners(pipeline):

        def send() -> None:
            entries_moved.send_robust(sender=pipeline, verb=verb, ids=chosen, count=number, epoch=epoch)

        transaction.on_commit(send, using=using, robust=True)


def finished(using: str, pipeline: Pipeline[Any, Any], run_id: int, key: str, output: str) -> None:
    """Send `run_finished` when the transaction commits, if anybody listens."""
    if run_finished.has_listeners(pipeline):

        def send() -> None:
            run_finished.send_robust(sender=pipeline, run_id=run_id, key=key, output=output)

        transaction.on_commit(send, using=using, robust=True)
