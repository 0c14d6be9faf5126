"""What a person does to many rows at once: some hundreds a transaction, and an exact list of those it was done to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from pipeteer_django.exceptions import DuplicateKey
from pipeteer_django.queues.claim import plain

CHUNK = 500
"""Rows in one transaction: few enough not to keep the engine waiting, enough to be quick."""


class _Fewer(Exception):
    """Some of the rows had moved on."""


def pages(rows: QuerySet[Any], most: int) -> Iterator[list[int]]:
    """The primary keys of up to `most` of these rows, oldest first, in chunks; rows that arrive meanwhile are left."""
    keys = rows.order_by("pk").values_list("pk", flat=True)
    last = keys.last()
    after = None
    while last is not None and most > 0:
        page = list((keys if after is None else keys.filter(pk__gt=after)).filter(pk__lte=last)[: min(CHUNK, most)])
        if not page:
            return
        yield page
        after, most = page[-1], most - len(page)


def exactly(
    using: str, keys: Sequence[int], verb: Callable[[Sequence[int]], int], record: Callable[[Sequence[int]], object]
) -> list[int]:
    """Call `verb`, which says how many of the rows it moved, and `record` with the moved ones, in one transaction.

    Where some had moved on by themselves, nobody knows which: that is rolled back, and they are taken one by one.
    """
    try:
        with transaction.atomic(using=using):
            if verb(keys) != len(keys):
                raise _Fewer
            record(keys)
    except _Fewer:
        alone = [[key] for key in keys] if len(keys) > 1 else []
        return [key for one in alone for key in exactly(using, one, verb, record)]
    return list(keys)


def taken(model: Any, using: str, keys: Sequence[str]) -> set[str]:
    """Which of these keys entries in the queue have."""
    rows = plain(model, using)
    some = (keys[start : start + CHUNK] for start in range(0, len(keys), CHUNK))
    return {key for part in some for key in rows.filter(key__in=part).values_list("key", flat=True)}


def add(
    using: str, entries: Sequence[Any], skip_taken: bool, record: Callable[[Sequence[Any]], object]
) -> tuple[int, int]:
    """Enqueue new entries of one queue, all in one transaction, and call `record` with each chunk of them.

    Those whose key is there already are left out, or with `skip_taken=False` nothing is added and DuplicateKey raised.
    Returns how many were added, and how many left out. IntegrityError: a key was taken in this very moment.
    """
    with transaction.atomic(using=using):
        there = taken(type(entries[0]), using, [entry.key for entry in entries]) if entries else set()
        if there and not skip_taken:
            raise DuplicateKey(f"{len(there)} of the keys are there already, such as {min(there)!r}.")
        new = [entry for entry in entries if entry.key not in there]
        for start in range(0, len(new), CHUNK):
            record(type(new[0])._default_manager.using(using).bulk_create(new[start : start + CHUNK]))
    return len(new), len(entries) - len(new)
