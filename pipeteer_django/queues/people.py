"""What people and application code do to entries: through the same settle door, in their own transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from django.db import models, transaction
from django.db.models import Case, F, Q, QuerySet, When

from pipeteer_django.pipelines.outcome import Done, Failure, Outcome
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.database import DatabaseNow, time_of
from pipeteer_django.queues.hints import changed_on_commit, finished, leaving, moved, wake_on_commit
from pipeteer_django.queues.settle import settle
from pipeteer_django.queues.tickets import Removed, Settled, Ticket

_CHUNK = 500

RESERVED = ~Q(reserved_by="")


def push(pipeline: Pipeline[Any, Any], using: str, key: str, value: Any) -> bool:
    """Complete an entry by hand. Of several callers one wins; the others, and a key that is not there, get False."""
    return bool(_push(pipeline, using, Q(key=key), value).done)


def answer(pipeline: Pipeline[Any, Any], using: str, id: int, epoch: int, value: Any) -> Settled:
    """`push` to the entry that somebody saw at this epoch. Nothing is `done` where it has moved since, or is gone."""
    return _push(pipeline, using, Q(pk=id), value, epoch)


def push_all(pipeline: Pipeline[Any, Any], using: str, ids: Sequence[int], value: Any) -> int:
    """`push` of one value to all of these entries. Returns how many it completed; the others were gone."""
    return len(_push(pipeline, using, Q(pk__in=ids), value).done)


def _push(pipeline: Pipeline[Any, Any], using: str, which: Q, value: Any, epoch: int | None = None) -> Settled:
    checked = pipeline.output.check(value)
    with transaction.atomic(using=using):
        entries = list(plain(pipeline.Input, using).filter(which).values_list("id", "key", "caller", "output"))
        for caller in {caller for _id, _key, caller, _output in entries if caller}:
            registry.find(caller)  # raises: without the caller's code the value would reach nobody
        ids = [entry[0] for entry in entries]
        settled = _settle(pipeline, using, ids, lambda: Done(checked, leaves_open=True), epoch)
        done = {ticket.id for ticket in settled.done}
        for id, key, caller, output in entries:
            if id in done and not caller:
                finished(using, pipeline, id, key, output)
        moved(using, pipeline, "pushed", done)
    return settled


def complete(pipeline: Pipeline[Any, Any], using: str, id: int, outcome: Done) -> bool:
    """Settle an entry, in the caller's transaction, as if its work had come to this. False where it is gone."""
    done = _settle(pipeline, using, [id], lambda: outcome).done
    moved(using, pipeline, "pushed", [ticket.id for ticket in done])
    return bool(done)


def remove(pipeline: Pipeline[Any, Any], using: str, ids: Iterable[int]) -> int:
    """Take entries out of their queue, with all they had outstanding; callers get StepFailed. Returns how many."""
    failure = Failure("Deleted", "the entry was deleted from its queue", "")
    chosen = list(ids)
    with transaction.atomic(using=using):
        leaving(pipeline, "deleted", chosen)
        removed = [ticket.id for ticket in _settle(pipeline, using, chosen, lambda: Removed(failure)).done]
        moved(using, pipeline, "deleted", removed)
    return len(removed)


def _settle(
    pipeline: Pipeline[Any, Any],
    using: str,
    ids: Sequence[int],
    outcome: Callable[[], Outcome | Removed],
    epoch: int | None = None,
) -> Settled:
    everything = Settled()
    for start in range(0, len(ids), _CHUNK):
        rows = plain(pipeline.Input, using).filter(id__in=ids[start : start + _CHUNK])
        tickets = [
            Ticket(pipeline, id, epoch, outcome(), caller=caller, step_id=step_id)
            for id, caller, step_id in rows.values_list("id", "caller", "step_id")
        ]
        settled = settle(tickets, using=using, now=time_of(using), wait=True)
        wake_on_commit(using, *sorted(settled.topics))
        changed_on_commit(using, pipeline.id)
        everything.done += settled.done
        everything.dropped += settled.dropped
    return everything


def retry(rows: QuerySet[Any]) -> int:
    """Let failed entries run again. A condition of the UPDATE itself, so that two people cannot both do it."""
    return rows.filter(failed_at__isnull=False).update(**fresh(), reserved_by="")


def release(rows: QuerySet[Any]) -> int:
    """Take running entries away from their workers, whose results will be refused; the attempt does not count."""
    freed = fresh() | {"attempt": Case(When(attempt__gt=0, then=F("attempt") - 1), default=F("attempt"))}
    return rows.filter(RESERVED).update(**freed, reserved_by="")


def fresh() -> dict[str, Any]:
    """The columns of an entry that is to run now, from a first attempt."""
    return {
        "epoch": F("epoch") + 1,
        "available_at": DatabaseNow(),
        "attempt": 0,
        "crashes": 0,
        "suspended": False,
        "failed_at": None,
    }


def edited(values: dict[str, Any]) -> dict[str, Any]:
    """The whole UPDATE for a user's edit of `values`: it moves the row, and releases it where it is reserved.

    The order matters: MariaDB assigns from left to right, and all conditions look at reserved_by.
    """
    return {
        **values,
        "attempt": Case(When(RESERVED & Q(attempt__gt=0), then=F("attempt") - 1), default=F("attempt")),
        "available_at": _available_at(values),
        "epoch": F("epoch") + 1,
        "reserved_by": "",
    }


def _available_at(values: dict[str, Any]) -> Case:
    moment = models.DateTimeField()
    if "available_at" not in values:
        return Case(When(RESERVED, then=DatabaseNow()), default=F("available_at"), output_field=moment)
    given = DatabaseNow() if values["available_at"] is None else values["available_at"]
    meant = given if hasattr(given, "resolve_expression") else models.Value(given, moment)
    asleep_or_failed = Q(suspended=True) | Q(failed_at__isnull=False)
    return Case(When(asleep_or_failed, then=F("available_at")), default=meant, output_field=moment)
