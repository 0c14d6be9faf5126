"""The verbs of results, on the managers and QuerySets of an Output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import models, transaction
from django.utils import timezone

from pipeteer_django.exceptions import EntryChanged
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.querysets import OfPipeline


class OutputQuerySet(OfPipeline, models.QuerySet[Any]):
    """Results of one pipeline."""

    @contextmanager
    def consume(self, output: str = "output") -> Iterator[Any]:
        """The oldest unconsumed row of `output`, locked, or None. Consumed if the block succeeds."""
        with transaction.atomic(using=self._alias):
            rows = self.using(self._alias).filter(output=output, consumed_at=None)
            entry = rows.order_by("id").select_for_update(skip_locked=True).first()
            yield entry
            if entry is not None:
                entry.consumed_at = timezone.now()
                still_there = plain(self.model, self._alias).filter(pk=entry.pk, consumed_at=None)
                if not still_there.update(consumed_at=entry.consumed_at):
                    raise EntryChanged(f"{entry}: the output was consumed or deleted while the block ran.")


class AllOutputs(models.Manager.from_queryset(OutputQuerySet)):  # type: ignore[misc]
    """`quad.Output.everything`: consumed ones too (what the admin and dumpdata see)."""


class UnconsumedOutputs(AllOutputs):
    """`quad.Output.objects`: what nobody has consumed yet."""

    def get_queryset(self) -> Any:
        """Hide what was consumed."""
        return super().get_queryset().filter(consumed_at=None)
