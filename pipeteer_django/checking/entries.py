"""Walks through the tables of a pipeline, a page at a time: plain reads, no locks, and beside running workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import models
from django.utils import timezone

from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.claim import COLUMNS, Claim, claim_of, load, plain
from pipeteer_django.queues.statements import select_rows

PAGE = 200
"""Rows read at once."""
EVENTS = 20_000
"""Steps and messages held in memory at once, where a single run has not more."""

_COLUMNS = (*COLUMNS, "failed_at")
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Entry:
    """An Input row, and the claim that a worker would make of it; nobody claims it."""

    claim: Claim
    failed: bool

    @property
    def epoch(self) -> int:
        """The row's."""
        return self.claim.epoch - 1

    @property
    def begun(self) -> bool:
        """Whether anything may be written down about it."""
        return bool(self.epoch or self.claim.deliveries)


def walk(using: str, model: type[models.Model], columns: tuple[str, ...], where: str = "TRUE") -> Iterator[Rows]:
    """Pages of rows by id, the first of `columns`. Rows that come while it walks are left out: it comes to an end."""
    last = plain(model, using).aggregate(last=models.Max("id"))["last"] or 0
    after = 0
    while after < last:
        page = select_rows(using, model, columns, f"{where} AND id > {after} AND id <= {last}", order="id", limit=PAGE)
        if page:
            yield page
        after = page[-1][0] if len(page) == PAGE else last


def entries(pipeline: Pipeline[Any, Any], using: str) -> Iterator[list[Entry]]:
    """Pages of everything that is in a queue."""
    for page in walk(using, pipeline.Input, _COLUMNS):
        yield [_entry(pipeline, row) for row in page]


def entry(pipeline: Pipeline[Any, Any], using: str, id: int) -> Entry | None:
    """An entry as it is now, with its record; None where it has left its queue."""
    rows = select_rows(using, pipeline.Input, _COLUMNS, f"id = {int(id)}", order="id")
    if not rows:
        return None
    found = _entry(pipeline, rows[0])
    load(pipeline, using, [found.claim])
    return found


def _entry(pipeline: Pipeline[Any, Any], row: Sequence[Any]) -> Entry:
    columns = dict(zip(_COLUMNS, row, strict=True))
    failed = columns.pop("failed_at") is not None
    return Entry(claim_of(pipeline, columns, timezone.now()), failed)


def with_records(pipeline: Pipeline[Any, Any], using: str, page: Sequence[Entry]) -> Iterator[list[Entry]]:
    """The runs of a page that have begun, their records loaded: so many at a time as memory should hold."""
    begun = [each for each in page if each.begun]
    sizes = _sizes(pipeline, using, [each.claim.id for each in begun]) if begun else Counter()
    batch: list[Entry] = []
    held = 0
    for each in begun:
        size = sizes[each.claim.id]
        if batch and held + size > EVENTS:
            yield _loaded(pipeline, using, batch)
            batch, held = [], 0
        batch.append(each)
        held += size
    if batch:
        yield _loaded(pipeline, using, batch)


def _sizes(pipeline: Pipeline[Any, Any], using: str, ids: list[int]) -> Counter[int]:
    sizes: Counter[int] = Counter()
    for name in ("Step", "Message"):
        rows = plain(pipeline.models[name], using).filter(run_id__in=ids).values("run_id")
        sizes.update(dict(rows.annotate(count=models.Count("id")).values_list("run_id", "count")))
    return sizes


def _loaded(pipeline: Pipeline[Any, Any], using: str, batch: list[Entry]) -> list[Entry]:
    load(pipeline, using, [each.claim for each in batch])
    return batch


def moved(pipeline: Pipeline[Any, Any], using: str, seen: Sequence[Entry]) -> set[int]:
    """Ids of those that are not at the epoch any more at which they were read, or gone."""
    if not seen:
        return set()
    rows = plain(pipeline.Input, using).filter(id__in=[each.claim.id for each in seen])
    now = dict(rows.values_list("id", "epoch"))
    return {each.claim.id for each in seen if now.get(each.claim.id) != each.epoch}
