"""What an atomic activity would do with an entry: done, looked at, and taken back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db import connections, router

from pipeteer_django.exceptions import InvalidValue
from pipeteer_django.pipelines.activity import Activity
from pipeteer_django.queues.atomic import rehearse
from pipeteer_django.queues.models import Input
from pipeteer_django.worker.attempts import Attempt, BadResult, Misfit, bound, checked


@dataclass(frozen=True, slots=True)
class Preview:
    """What came of it: the typed output, and the SQL statements of the body, in order."""

    value: Any
    sql: list[str]


def preview(entry: Any, *, app: Any = None) -> Preview:
    """Run an atomic activity for one entry, as it is in the database, and roll everything back.

    Nothing stays: no rows, no `on_commit` hooks, no result, and the entry is as it was. What the body does outside
    its database (a mail, a request) does happen. `app` becomes `ctx.app`.

    Raises what the body raises; TypeError for what is no entry; InvalidValue for an entry of a pipeline whose effects
    could not be rolled back; EntryChanged if it is gone or being worked on; LostTransaction if the body lost the
    transaction, BrokenAtomicity if it ended it, so that something may have stayed.
    """
    activity = _activity_of(entry)
    using = router.db_for_write(type(entry), instance=entry)
    sql: list[str] = []
    try:
        value = rehearse(activity, entry.pk, using, lambda claim: _body(Attempt(claim, app, using), sql))
    except (Misfit, BadResult) as error:
        raise error.__cause__ or error from None
    return Preview(value, sql)


def _activity_of(entry: Any) -> Activity[Any, Any]:
    if not isinstance(entry, Input):
        raise TypeError(f"preview() takes an entry, such as ship.Input.objects.first(), and not {entry!r}.")
    activity = entry.pipeline
    if not isinstance(activity, Activity) or not activity.atomic:
        raise InvalidValue(
            f"{activity.id} is no atomic activity, so its effects could not be rolled back. Make it "
            "@pipeteer.activity(atomic=True), or call its function in a test."
        )
    if entry.pk is None:
        raise InvalidValue(f"This entry of {activity.id} is not in its queue yet; save it first.")
    return activity


def _body(attempt: Attempt, sql: list[str]) -> Any:
    body = bound(attempt)
    with _recorded(attempt.using, sql):
        result = body()
    return checked(attempt, result)


@contextmanager
def _recorded(using: str, sql: list[str]) -> Iterator[None]:
    """Append each statement of this connection, with its parameters filled in."""
    connection = connections[using]

    def record(execute: Any, statement: str, parameters: Any, many: bool, context: Any) -> Any:
        sql.append(str(statement))  # should it fail, this is what is known
        result = execute(statement, parameters, many, context)
        if not many:
            sql[-1] = connection.ops.last_executed_query(context["cursor"], statement, parameters) or sql[-1]
        return result

    with connection.execute_wrapper(record):
        yield
