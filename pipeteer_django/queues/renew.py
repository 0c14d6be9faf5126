"""Leases of running entries, renewed from a thread of its own so that `reserve` bounds death, not work."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import DateTimeField, ExpressionWrapper
from django.utils import timezone

from pipeteer_django.models import Worker
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.claim import lease, plain
from pipeteer_django.queues.database import DatabaseNow, begin
from pipeteer_django.queues.rows import all_written


def renew(pipeline: Pipeline[Any, Any], using: str, held: Mapping[int, int], worker: str) -> set[int]:
    """Extend the leases of `held` (epochs by id); returns the ids that are this worker's no more.

    Rows that are locked are left alone: an atomic body holds its own row, and the lock is its lease.
    """
    rows = plain(pipeline.Input, using).filter(id__in=list(held), reserved_by=worker)
    with transaction.atomic(using=using, durable=True):
        begin(using)
        free = list(rows.order_by("id").select_for_update(skip_locked=True).values_list("id", flat=True))
        until = ExpressionWrapper(DatabaseNow() + lease(pipeline), output_field=DateTimeField())
        all_written(pipeline.id, free, rows.filter(id__in=free).update(available_at=until))
    return held.keys() - set(rows.values_list("id", flat=True))


def heartbeat(using: str, label: str, **columns: Any) -> None:
    """Say that this worker process is alive."""
    now = timezone.now()
    row = plain(Worker, using).filter(label=label)
    if not row.update(heartbeat_at=now, **columns):
        Worker(label=label, started_at=now, heartbeat_at=now, **columns).save(using=using, force_insert=True)


def sign_off(using: str, label: str) -> None:
    """Remove this worker's row, and those of workers not heard of for a day."""
    stale = timezone.now() - timedelta(days=1)
    plain(Worker, using).filter(label=label).delete()
    plain(Worker, using).filter(heartbeat_at__lt=stale).delete()
