"""The states are exact: an entry is in one of them, whatever it has been through."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from pipeteer_django.pipelines.outcome import Failure, Parked, Released, Retry, Waiting
from pipeteer_django.testing import drain
from tests.queues import by_hand
from tests.testapp.pipelines import boom, double, flaky, quad

pytestmark = pytest.mark.django_db

STATES = ("ready", "running", "waiting", "scheduled", "failed")
FAILURE = Failure("Boom", "no", "Traceback ...")


def states(pipeline: Any) -> list[str]:
    return [name for name in STATES if getattr(pipeline.Input.objects.all(), name)().exists()]


def test_new() -> None:
    double.enqueue(1)
    assert states(double) == ["ready"]


def test_delayed() -> None:
    double.enqueue(1, delay=timedelta(minutes=1))
    assert states(double) == ["scheduled"]


def test_claimed() -> None:
    double.enqueue(1)
    by_hand.claim_one(double)
    assert states(double) == ["running"]


def test_claimed_by_a_worker_that_died() -> None:
    double.enqueue(1)
    by_hand.claim_one(double)
    by_hand.overdue(double)
    assert states(double) == ["ready"]


def test_backing_off() -> None:
    flaky.enqueue(1)
    by_hand.settle(by_hand.claim_one(flaky), Retry(FAILURE, 60))
    assert states(flaky) == ["scheduled"]
    assert flaky.Input.objects.get().error == "Traceback ..."


def test_asleep() -> None:
    quad.enqueue(1)
    drain(quad)
    assert states(quad) == ["waiting"]


def test_asleep_until_a_timer() -> None:
    quad.enqueue(1)
    due = timezone.now() + timedelta(hours=1)
    by_hand.settle(by_hand.claim_one(quad), Waiting(due=due))
    assert states(quad) == ["waiting"]
    assert quad.Input.objects.get().available_at == due


def test_woken() -> None:
    quad.enqueue(1)
    drain(quad)
    drain(double)
    assert states(quad) == ["ready"]


def test_given_up() -> None:
    boom.enqueue("no")
    drain(boom, raise_failures=False)
    assert states(boom) == ["failed"]


def test_parked() -> None:
    quad.enqueue(1)
    drain(quad)
    by_hand.overdue(quad)
    by_hand.engine(quad, available_at=timezone.now() - timedelta(minutes=1))
    by_hand.settle(by_hand.claim_one(quad), Parked(FAILURE))
    assert states(quad) == ["failed"]


def test_handed_back() -> None:
    double.enqueue(1)
    by_hand.settle(by_hand.claim_one(double), Released())
    assert states(double) == ["ready"]
    assert double.Input.objects.get().attempt == 0


def test_released() -> None:
    double.enqueue(1)
    by_hand.claim_one(double)
    assert double.Input.objects.all().release() == 1
    assert states(double) == ["ready"]


def test_retried() -> None:
    boom.enqueue("no")
    drain(boom, raise_failures=False)
    assert boom.Input.objects.failed().retry() == 1
    assert states(boom) == ["ready"]


def test_they_combine_with_other_filters() -> None:
    double.enqueue(1, key="a")
    double.enqueue(2, key="b")
    assert [entry.key for entry in double.Input.objects.filter(value__gt=1).ready().order_by("id")] == ["b"]


def test_a_delay_counts_by_the_databases_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    if by_hand.connection.vendor == "sqlite":
        pytest.skip("SQLite has no clock of its own")
    now = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: now() + timedelta(hours=1))
    double.enqueue(1, key="now")
    double.enqueue(1, key="later", delay=timedelta(minutes=1))
    assert [claim.key for claim in by_hand.claim_all(double)] == ["now"]
