"""Whatever PostgreSQL believes of a table, a turn reads the rows it is about.

Autovacuum comes by when it likes: then a queue of ten thousand entries has the statistics it had when it was empty.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from pipeteer_django.pipelines.outcome import Done, Failed, Failure, Parked, Released, Retry
from pipeteer_django.queues.renew import renew
from pipeteer_django.queues.sweep import Sweeper
from pipeteer_django.worker.attempts import run_workflow
from pipeteer_django.worker.intake import Intake
from tests.queues import by_hand
from tests.testapp.pipelines import double, quad

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="elsewhere statistics are not what decides"),
]

NUMBERS = itertools.count(10**6)
OTHERS = 3_000
AT_ONCE = 100
URGENT = 5
"""The newest are first: the oldest are found soon by who reads all from the beginning."""
FAILURE = Failure("Boom", "no", "Traceback ...")
OUTCOMES = {
    "done": lambda claim: Done(2 * claim.value),
    "retry": lambda claim: Retry(FAILURE, 60),
    "failed": lambda claim: Failed(FAILURE),
    "parked": lambda claim: Parked(FAILURE),
    "released": lambda claim: Released(),
}


def enter(count: int) -> None:
    double.enqueue_many(range(count))
    quad.enqueue_many(range(count))
    by_hand.overdue(quad)  # what has just woken up may be another worker's, and is looked at one by one
    quad.Step.objects.bulk_create(
        quad.Step(run_id=next(NUMBERS), branch=0, index=0, pipeline="double", param=1, created_at=timezone.now())
        for _ in range(count)
    )


def leave(but: int) -> None:
    for model in (double.Input, quad.Input, quad.Step):
        kept = list(model.objects.order_by("-id").values_list("id", flat=True)[:but])
        model.objects.exclude(id__in=kept)._raw_delete("default")


def analyze() -> None:
    with connection.cursor() as cursor:
        for model in (double.Input, quad.Input, quad.Step):
            cursor.execute(f"ANALYZE {model._meta.db_table}")


def nearly_empty() -> None:
    enter(OTHERS)
    leave(but=1)
    analyze()
    enter(OTHERS)


def empty() -> None:
    enter(OTHERS)
    leave(but=0)
    analyze()
    enter(OTHERS)


def none() -> None:
    enter(OTHERS)


def right() -> None:
    enter(OTHERS)
    analyze()


@pytest.fixture(params=[nearly_empty, empty, none, right], ids=lambda made: made.__name__)
def statistics(request: pytest.FixtureRequest) -> None:
    request.param()


def rows_read(work: Callable[[], Any]) -> int:
    """Rows of our tables that its statements looked at, through an index or in a row."""

    def so_far() -> int:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT sum(seq_tup_read + COALESCE(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables "
                "WHERE relname LIKE 'testapp%'"
            )
            return int(cursor.fetchone()[0])

    before = so_far()
    work()
    return so_far() - before


@pytest.mark.usefixtures("statistics")
@pytest.mark.parametrize("name", OUTCOMES)
def test_settling_reads_what_it_settles(name: str) -> None:
    double.enqueue_many(range(AT_ONCE), priority=URGENT)
    claims = by_hand.claim_all(double, priority=URGENT)
    assert len(claims) == AT_ONCE
    outcome: Any = OUTCOMES[name]
    settled = [(claim, outcome(claim)) for claim in claims]
    assert rows_read(lambda: by_hand.turn(settled)) <= 10 * AT_ONCE


@pytest.mark.usefixtures("statistics")
def test_claiming_reads_what_it_claims() -> None:
    double.enqueue_many(range(AT_ONCE), priority=URGENT)
    claimed: list[Any] = []
    assert rows_read(lambda: claimed.extend(by_hand.turn((), (double, URGENT), slots=AT_ONCE).claims)) <= 10 * AT_ONCE
    assert len(claimed) == AT_ONCE


@pytest.mark.usefixtures("statistics")
def test_runs_read_their_own_steps() -> None:
    double.Input.objects.all()._raw_delete("default")
    quad.enqueue_many(range(AT_ONCE), priority=URGENT)
    runs = by_hand.claim_all(quad, priority=URGENT)
    called = [(run, run_workflow(run)) for run in runs]
    assert rows_read(lambda: by_hand.turn(called)) <= 20 * AT_ONCE
    children = by_hand.claim_all(double)
    results = [(child, Done(1)) for child in children]
    assert len(runs) == len(children) == AT_ONCE
    assert rows_read(lambda: by_hand.turn(results)) <= 20 * AT_ONCE


@pytest.mark.usefixtures("statistics")
def test_a_look_at_the_queues_reads_a_row_of_each() -> None:
    intake = Intake([double, quad], "default", "me")
    intake.look()
    assert rows_read(intake.look) <= 10


@pytest.mark.usefixtures("statistics")
def test_renewing_reads_what_is_held() -> None:
    double.enqueue_many(range(AT_ONCE), priority=URGENT)
    held = {claim.id: claim.epoch for claim in by_hand.claim_all(double, priority=URGENT)}
    assert len(held) == AT_ONCE
    assert rows_read(lambda: renew(double, "default", held, "by hand")) <= 10 * AT_ONCE


@pytest.mark.usefixtures("statistics")
def test_a_sweep_reads_a_page() -> None:
    quad.enqueue_many(range(AT_ONCE), priority=URGENT)
    by_hand.turn([(run, run_workflow(run)) for run in by_hand.claim_all(quad, priority=URGENT)])
    sweeper = Sweeper([quad], "default")
    assert rows_read(lambda: sweeper.sweep({quad.id: [URGENT]})) <= 10 * AT_ONCE
