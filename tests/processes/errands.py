"""Work of three kinds that a fault may interrupt anywhere, and what must have come of it: each thing once."""

from __future__ import annotations

from django.db import transaction

from tests.perils.pipelines import errand, linger, linger_atomic
from tests.testapp.models import Ledger

from .tools import consume, eventually, finished

IDS = ("errand", "linger_atomic", "linger", "--concurrency", "6")
"""The pipelines, and how many at once, for the command line of a worker."""


def enqueue(count: int) -> None:
    """So many workflows of two atomic activities, and as many plain activities."""
    with transaction.atomic():
        for n in range(count):
            errand.enqueue(0.05, key=str(n))
            linger.enqueue(0.05, key=str(n))


def assert_exact(count: int) -> None:
    """All outputs are there, consumed and deleted; each atomic body has written once."""
    for pipeline in (errand, linger):
        eventually(finished(pipeline, count), f"the {pipeline.id}s are finished")
        assert sorted(entry.key for entry in consume(pipeline)) == sorted(map(str, range(count)))  # type: ignore[attr-defined]
        assert not pipeline.Output.everything.exists()
    atomic = Ledger.objects.filter(name="linger_atomic")
    assert atomic.count() == len(set(atomic.values_list("run_id", flat=True))) == 2 * count
    assert not linger_atomic.Input.objects.exists()


def clean() -> None:
    """Where no test's own flush comes by."""
    for model in (Ledger, *(model for p in (errand, linger, linger_atomic) for model in p.models.values())):
        model._base_manager.all()._raw_delete("default")
