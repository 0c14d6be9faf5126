"""What the templates of the inboxes show: the inboxes of a site, and the entries in one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from django.db import models, router
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.text import Truncator, capfirst

from pipeteer_django.admin import links
from pipeteer_django.admin.lists import beginning
from pipeteer_django.admin.readable import of_column, of_text, readable
from pipeteer_django.admin.states import now_of
from pipeteer_django.admin.words import Text, duration
from pipeteer_django.models import Queue
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.pipelines.valuetype import ValueType

MOST = 99
"""Entries that are counted; more are "99+"."""
FIRST = 5
"""Entries of each inbox on the page of all of them."""
SHORT = 2000
"""Characters of a value in a list that are read; the rest is on the entry's own page."""


def alias(model_admin: Any) -> str:
    """The database of the entries."""
    return router.db_for_write(model_admin.model)


def rows_of(model_admin: Any, request: HttpRequest) -> Any:
    """The entries of an inbox as its admin shows them to this user."""
    return model_admin.get_queryset(request).using(alias(model_admin))


def inboxes(site: Any, request: HttpRequest) -> Iterator[Inbox]:
    """The inboxes of a site that this user may look into, by name."""
    tasks = [pipeline for pipeline in registry if pipeline.kind == "task" and pipeline.attached]
    for task in sorted(tasks, key=lambda task: task.id):
        if links.may_see(site, request, task) and links.page_of(site, task.Input, "inbox"):
            yield Inbox(links.admin_of(site, task.Input), request)


def all_of(site: Any) -> str | None:
    """The page of all inboxes."""
    return links.page_of(site, Queue, "inbox")


def is_decision(output: ValueType) -> bool:
    """Whether a task asks for a plain bool: two buttons."""
    return output.native is bool and not output.options and not output.optional and output.given_field is None


def in_short(output: Any, value: Any) -> str:
    """An answer in a line of the log."""
    return Truncator(json.dumps(output.to_json(value), ensure_ascii=False)).chars(200)


@dataclass(frozen=True)
class Shown:
    """One entry that waits."""

    id: int
    key: str
    epoch: int
    since: datetime
    waited: str
    value: SafeString
    caller: str
    """The run that asks, in words; empty for an entry that somebody enqueued."""
    caller_url: str | None
    answer_url: str | None
    may_answer: bool


class Inbox:
    """The inbox of one task, as one user sees it."""

    def __init__(self, model_admin: Any, request: HttpRequest) -> None:
        self.site, self.request = model_admin.admin_site, request
        self._admin, self._task = model_admin, model_admin.model.pipeline
        self.id: str = self._task.id
        self.title = capfirst(self._task.id.replace("_", " "))
        self.url = links.page_of(self.site, model_admin.model, "inbox")
        self.list_url = links.page_of(self.site, model_admin.model, "changelist")
        self.all_url = all_of(self.site)
        self.decides = is_decision(self._task.output)

    @property
    def _waiting(self) -> Any:
        return rows_of(self._admin, self.request).ready()

    @cached_property
    def count(self) -> int:
        """How many wait, no further than one more than MOST."""
        found: int = self._waiting.order_by()[: MOST + 1].count()
        return found

    @property
    def count_text(self) -> str:
        """The same, in few letters."""
        return f"{MOST}+" if self.count > MOST else str(self.count)

    def read(self, most: int, after: int = 0) -> tuple[list[Shown], int | None]:
        """The oldest entries; and the id of the last of them if there are more."""
        rows = self._light(self._waiting.filter(pk__gt=after).order_by("pk"))
        found = list(rows[: most + 1])
        return self.shown(found[:most]), found[most - 1].pk if len(found) > most else None

    def _light(self, rows: Any) -> Any:
        """Of a value that may be long only its beginning; of a model's row its columns."""
        field = self._admin.opts.get_field("value")
        if isinstance(field, models.ForeignKey):
            return rows.defer("error").select_related("value")
        if isinstance(field, models.JSONField | models.TextField):
            return rows.defer("value", "error").annotate(value_start=beginning("value", SHORT + 1))
        return rows.defer("error")

    def shown(self, entries: Sequence[Any]) -> list[Shown]:
        """Entries as the templates want them."""
        askers = links.askers(entries, alias(self._admin))
        return [self._shown(entry, askers.get((entry.caller, entry.step_id))) for entry in entries]

    def _shown(self, entry: Any, asker: tuple[int, int] | None) -> Shown:
        caller, url = entry.caller, None
        if asker is not None:
            caller = f"{entry.caller} {asker[0]}"
            workflow = registry.find(entry.caller)
            if links.may_see(self.site, self.request, workflow):
                url = links.run_of(self.site, entry.caller, *asker)
        since = max(entry.created_at, entry.available_at or entry.created_at)
        return Shown(
            id=entry.pk,
            key=entry.key,
            epoch=entry.epoch,
            since=since,
            waited=duration(now_of(entry) - since),
            value=self._value(entry),
            caller=caller,
            caller_url=url,
            answer_url=links.page_of(self.site, self._admin.model, "answer", entry.pk),
            may_answer=self._admin.has_change_permission(self.request, entry),
        )

    def _value(self, entry: Any) -> SafeString:
        if not hasattr(entry, "value_start"):
            return of_column(entry, "value", self._task.input, self.site)
        if isinstance(self._admin.opts.get_field("value"), models.JSONField):
            return of_text(Text.of_start(entry.value_start, SHORT))
        start = entry.value_start
        if start is None or len(start) <= SHORT:
            return readable(start)
        return of_text(Text(start[:SHORT], cut=True))
