"""What a turn costs: statements that do not grow with the entries, and a claim that walks its index."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from pipeteer_django.pipelines.outcome import Done, Failed, Failure, Parked, Released, Retry
from pipeteer_django.queues import turn as turns
from pipeteer_django.queues.claim import plain
from pipeteer_django.testing import drain
from pipeteer_django.worker.attempts import run_workflow
from pipeteer_django.worker.intake import Intake
from tests.queues import by_hand
from tests.testapp.pipelines import double, double_sync, fan, quad

pytestmark = pytest.mark.django_db

FAILURE = Failure("Boom", "no", "Traceback ...")
OUTCOMES: dict[str, Callable[[Any], Any]] = {
    "done": lambda claim: Done(2 * claim.value),
    "retry": lambda claim: Retry(FAILURE, 60),
    "failed": lambda claim: Failed(FAILURE),
    "parked": lambda claim: Parked(FAILURE),
    "released": lambda claim: Released(),
}


def statements(work: Callable[[], Any]) -> list[str]:
    said: list[str] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        said.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        work()
    return said


def with_their_parameters(work: Callable[[], Any]) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        work()
    return [query["sql"] for query in captured.captured_queries]


def settle_and_claim(count: int, outcome: Callable[[Any], Any]) -> list[str]:
    double.enqueue_many(range(2 * count))
    settled = [(claim, outcome(claim)) for claim in by_hand.claim_all(double, count)]
    done: list[Any] = []
    said = statements(lambda: done.append(by_hand.turn(settled, (double, 0), slots=count)))
    assert (len(done[0].settled.done), len(done[0].claims)) == (count, count)
    return said


# Statements


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_turn_of_many_has_as_many_statements_as_one_of_few(name: str) -> None:
    few, many = (settle_and_claim(count, OUTCOMES[name]) for count in (10, 400))
    assert len(few) == len(many) <= 12


def test_all_outcomes_together() -> None:
    double.enqueue_many(range(500))
    claims = by_hand.claim_all(double, 500)
    mixed = [(claim, OUTCOMES[name](claim)) for claim, name in zip(claims, list(OUTCOMES) * 100, strict=True)]
    assert len(statements(lambda: by_hand.turn(mixed))) <= 12


@pytest.mark.parametrize("outcome", ["calls", "results"])
def test_children_do_not_count(outcome: str) -> None:
    counts = []
    for children in (5, 300):
        fan.enqueue(children)
        parent = by_hand.claim_one(fan)
        calls = statements(lambda parent=parent: by_hand.turn([(parent, run_workflow(parent))]))  # type: ignore[misc]
        results = [(claim, Done(0)) for claim in by_hand.claim_all(double)]
        counts.append(len(calls if outcome == "calls" else statements(lambda done=results: by_hand.turn(done))))  # type: ignore[misc]
        assert len(results) == children
        plain(fan.Input, "default").delete()
    assert counts[0] == counts[1] <= 14


def test_parents_do_not_count() -> None:
    counts = []
    for parents in (3, 100):
        quad.enqueue_many(range(parents))
        waiting = [(claim, run_workflow(claim)) for claim in by_hand.claim_all(quad)]
        counts.append(len(statements(lambda ended=waiting: by_hand.turn(ended))))  # type: ignore[misc]
        results = [(claim, Done(0)) for claim in by_hand.claim_all(double)]
        counts.append(len(statements(lambda done=results: by_hand.turn(done))))  # type: ignore[misc]
        plain(quad.Input, "default").delete()
    assert counts[:2] == counts[2:]


@contextmanager
def counted(counts: list[tuple[int, int]]) -> Iterator[None]:
    """Note (entries claimed, statements) of every turn."""
    take_turn = turns.take_turn

    def counting(*arguments: Any, **options: Any) -> Any:
        made: list[Any] = []
        said = statements(lambda: made.append(take_turn(*arguments, **options)))
        counts.append((len(made[0].claims), len(said)))
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeteer_django.testing.take_turn", counting)
        yield


@pytest.mark.skipif(
    str(connection.vendor) != "sqlite", reason="the count is the same everywhere, and SQLite the fastest"
)
def test_ten_thousand_entries() -> None:
    double_sync.enqueue_many(range(10_000))
    counts: list[tuple[int, int]] = []
    with counted(counts):
        assert drain(double_sync) == 10_000
    assert double_sync.Output.objects.count() == 10_000
    full = [said for claimed, said in counts if claimed == 100]
    assert len(full) == 100
    assert max(said for _, said in counts) <= 12


# Plans


def explain(sql: str) -> str:
    prefix = {"sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN "}.get(connection.vendor, "EXPLAIN FORMAT=JSON ")
    with connection.cursor() as cursor:
        cursor.execute(prefix + sql)
        return "\n".join(" ".join(map(str, row)) for row in cursor.fetchall())


def claim_index() -> str:
    (name,) = (index.name for index in double.Input._meta.indexes if "available_at" in index.fields)
    return str(name)


def assert_walks_the_claim_index(plan: str) -> None:
    assert claim_index() in plan
    for sorting in ("filesort", "TEMP B-TREE", "Sort", "Seq Scan on testapp"):
        assert sorting not in plan


@pytest.fixture
def busy_queue() -> None:
    """Three thousand entries: half of them asleep, leased or due later, in three priorities."""
    now = timezone.now()
    chance = random.Random(5)
    entries = []
    for number in range(3000):
        entry = double.Input(key=str(number), value=number, priority=chance.choice([-5, 0, 5]))
        entry.available_at = now + timedelta(seconds=chance.uniform(-500, 500))
        entries.append(entry)
    double.Input.objects.bulk_create(entries)
    if connection.vendor != "mysql":  # there it commits, and is not needed
        with connection.cursor() as cursor:
            cursor.execute(f"ANALYZE {connection.ops.quote_name(double.Input._meta.db_table)}")


@pytest.mark.usefixtures("busy_queue")
def test_the_claim_walks_its_index() -> None:
    said = with_their_parameters(lambda: by_hand.claim_all(double, 20))
    (select,) = (sql for sql in said if "available_at" in sql and sql.startswith("SELECT") and "LIMIT 20" in sql)
    assert_walks_the_claim_index(explain(select))


@pytest.mark.usefixtures("busy_queue")
def test_the_peek_walks_the_same_index() -> None:
    intake = Intake([double], "default", "me")
    intake.look()
    (look,) = with_their_parameters(intake.look)
    assert_walks_the_claim_index(explain(look))


@pytest.mark.usefixtures("busy_queue")
def test_a_look_at_the_queues_is_one_statement() -> None:
    intake = Intake([double, quad, fan], "default", "me")
    intake.look()
    assert len(statements(intake.look)) == 1


@pytest.mark.usefixtures("busy_queue")
def test_a_claim_takes_the_oldest_of_the_highest_priority() -> None:
    now = timezone.now()
    due = double.Input.objects.filter(available_at__lt=now, priority=5).order_by("available_at", "id")
    expected = list(due.values_list("id", flat=True)[:20])
    assert [claim.id for claim in by_hand.turn((), (double, 5), slots=20).claims] == expected


def read_in_full(sql: str) -> str:
    """Where a plan reads all of a table of ours, or all of an index of it; "" where it does not."""
    plan = explain(sql)
    if connection.vendor == "postgresql":
        lines = [line for line in plan.splitlines() if "testapp" in line and " on testapp" in line]
        following = dict(zip(plan.splitlines(), [*plan.splitlines()[1:], ""], strict=True))
        whole = [
            line
            for line in lines
            if "Seq Scan" in line or ("Index" in line and "Cond" not in line and "Cond" not in following[line])
        ]
        return plan if whole else ""
    if connection.vendor == "mysql":
        return plan if '"access_type": "ALL", "table_name": "testapp' in plan else ""
    return plan if "SCAN testapp" in plan else ""


def growing(pipeline: Any) -> None:
    """Its tables hold a few thousand rows that nobody has counted yet."""
    pipeline.Step.objects.bulk_create(
        [
            pipeline.Step(run_id=10**6 + n, branch=0, index=0, pipeline="double", param=n, created_at=timezone.now())
            for n in range(3000)
        ]
    )


def test_no_statement_of_a_turn_reads_a_table_that_grows() -> None:
    """Two hundred runs call, are answered and go on, beside thousands of other steps and without statistics."""
    growing(quad)
    quad.enqueue_many(range(200))
    said: list[str] = []
    claims: list[Any] = by_hand.claim_all(quad)
    for _ in range(2):
        called = [(claim, run_workflow(claim)) for claim in claims]
        said += with_their_parameters(lambda called=called: by_hand.turn(called))  # type: ignore[misc]
        results = [(claim, Done(1)) for claim in by_hand.claim_all(double)]
        said += with_their_parameters(lambda results=results: by_hand.turn(results))  # type: ignore[misc]
        claims = by_hand.claim_all(quad)
    written = [sql for sql in said if sql.startswith(("UPDATE", "DELETE")) and "testapp" in sql]
    assert any("quadstep" in sql and "CASE WHEN" in sql for sql in written)
    settings = [sql for sql in said if "enable_seqscan" in sql]
    if settings:
        with connection.cursor() as cursor:
            cursor.execute(settings[0])
    assert [plan for plan in map(read_in_full, written) if plan] == []
