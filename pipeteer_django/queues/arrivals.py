"""New entries by the thousand: one INSERT for many, without making a model's instance of each."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Sequence
from functools import cache
from typing import Any

from django.db import models, transaction
from django.utils import timezone

from pipeteer_django.queues.database import time_of
from pipeteer_django.queues.statements import insert_rows

_AT_ONCE = 1000


def new_key() -> str:
    """A key for an entry that was given none: a UUID of version 7 (RFC 9562, section 5.7).

    It begins with the time, so that what is enqueued together stands together in the index of keys. A worker that
    drains a long queue then touches few pages of it; random keys would make it touch one for each entry.
    """
    bits = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return str(uuid.UUID(int=bits & ~(0xF << 76 | 0x3 << 62) | 0x7 << 76 | 0x2 << 62))


def insert_entries(
    model: type[models.Model], using: str, values: Sequence[Any], *, output: str, priority: int
) -> list[tuple[int, str]]:
    """Insert an entry for each stored value, all or none; returns their ids and keys, in the order of the values."""
    entries: list[tuple[int, str]] = []
    with transaction.atomic(using=using, savepoint=False):
        common = _defaults(model) | {
            "output": output,
            "priority": priority,
            "available_at": time_of(using),
            "created_at": timezone.now(),
        }
        for start in range(0, len(values), _AT_ONCE):
            some = {new_key(): value for value in values[start : start + _AT_ONCE]}
            columns = ("key", "value", *common)
            rows = [(key, value, *common.values()) for key, value in some.items()]
            ids = {key: id for id, key in insert_rows(using, model, columns, rows, returning=("id", "key"))}
            entries += [(ids[key], key) for key in some]
    return entries


@cache
def _defaults(model: type[models.Model]) -> dict[str, Any]:
    """What a new entry has in the columns that are the engine's."""
    fields = model._meta.concrete_fields
    return {field.name: field.get_default() for field in fields if field.name not in ("id", "key", "value")}
