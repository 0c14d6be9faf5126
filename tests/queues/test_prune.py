"""History goes when it is old enough; nothing else does, and nobody is disturbed."""

from __future__ import annotations

import io
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, ProgrammingError, connection, transaction
from django.test import override_settings
from django.utils import timezone

import pipeteer_django as pipeteer
from pipeteer_django import InputT, Push, WorkflowContext
from pipeteer_django.exceptions import DefinitionError
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues import prune
from pipeteer_django.queues.claim import nothing_kept, plain
from pipeteer_django.queues.prune import PAGE, Pruner, prune_all, retention_of
from pipeteer_django.testing import drain
from pipeteer_django.worker.desk import Desk, Work
from tests.queues import by_hand
from tests.testapp.pipelines import approval, approve, double, double_sync, quad
from tests.trouble.models import Receipt, Remark, Signature
from tests.trouble.pipelines import keeps

pytestmark = pytest.mark.django_db

LONG_AGO = timedelta(days=31)
on_servers = pytest.mark.skipif(str(connection.vendor) == "sqlite", reason="SQLite locks no rows")


def outputs(pipeline: Pipeline[Any, Any], count: int, age: timedelta = LONG_AGO, *, first: int = 1) -> list[Any]:
    """That many results that finished so long ago, oldest first; `first` is the run id of the first."""
    finished = timezone.now() - age
    rows = [
        pipeline.Output(key=str(run), value=0, run_id=run, finished_at=finished) for run in range(first, first + count)
    ]
    plain(pipeline.Output, "default").bulk_create(rows)
    return list(plain(pipeline.Output, "default").filter(run_id__gte=first).order_by("id"))


def steps(run: int, branches: Iterable[int], age: timedelta = LONG_AGO) -> list[Any]:
    """One step of the workflow `quad` for each of these branches."""
    made = timezone.now() - age
    rows = [
        quad.Step(run_id=run, branch=branch, index=index, pipeline="double", created_at=made)
        for index, branch in enumerate(branches)
    ]
    plain(quad.Step, "default").bulk_create(rows)
    return list(plain(quad.Step, "default").filter(run_id=run).order_by("id"))


def message(run: int, branch: int | None, age: timedelta = LONG_AGO) -> Any:
    return quad.Message.objects.create(run_id=run, branch=branch, name="news", sent_at=timezone.now() - age)


def there(model: Any) -> list[int]:
    return list(plain(model, "default").order_by("id").values_list("id", flat=True))


def ids(rows: Iterable[Any]) -> list[int]:
    return [row.pk for row in rows]


def statements(work: Any) -> int:
    count = 0

    def note(execute: Any, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        return execute(*arguments)

    with connection.execute_wrapper(note):
        work()
    return count


# What goes and what stays


def test_old_outputs_go_and_young_ones_stay() -> None:
    outputs(double, 3)
    young = outputs(double, 2, timedelta(days=29), first=10)
    assert prune_all([double], "default") == 3
    assert there(double.Output) == ids(young)
    assert prune_all([double], "default") == 0


def test_consumed_or_not() -> None:
    outputs(double, 2)
    plain(double.Output, "default").filter(run_id=1).update(consumed_at=timezone.now())
    assert prune_all([double], "default") == 2


def test_entries_stay_however_old() -> None:
    double.enqueue(1)
    double.enqueue_many([1, 2])
    by_hand.engine(double, created_at=timezone.now() - LONG_AGO, failed_at=timezone.now() - LONG_AGO)
    assert prune_all([double], "default") == 0
    assert len(there(double.Input)) == 3


def test_a_real_run_with_all_it_left() -> None:
    run = quad.enqueue(1)
    drain()
    assert run.result(timeout=1) == 4
    assert prune_all([quad], "default") == 0
    plain(quad.Output, "default").update(finished_at=timezone.now() - LONG_AGO)
    plain(quad.Step, "default").update(created_at=timezone.now() - LONG_AGO)
    message(run.id, None)
    assert prune_all([quad, double], "default") == 4
    assert there(quad.Output) == there(quad.Step) == there(quad.Message) == []


def test_live_runs_keep_their_steps_and_messages() -> None:
    run = quad.enqueue(1).id
    there_still = [*steps(run, [0, 0]), message(run, 0), message(run, None)]
    assert prune_all([quad], "default") == 0
    assert there(quad.Step) + there(quad.Message) == ids(there_still)


def test_older_branches_of_live_runs_go() -> None:
    run = quad.enqueue(1).id
    by_hand.engine(quad, branch=2)
    *_, kept = steps(run, [0, 1, 2])
    message(run, 0)
    unconsumed, consumed = message(run, None), message(run, 2)
    assert prune_all([quad], "default") == 3
    assert there(quad.Step) == [kept.pk]
    assert there(quad.Message) == ids([unconsumed, consumed])


def test_older_branches_stay_while_they_are_young() -> None:
    run = quad.enqueue(1).id
    by_hand.engine(quad, branch=2)
    young = steps(run, [0, 1], timedelta(days=1))
    assert prune_all([quad], "default") == 0
    assert there(quad.Step) == ids(young)


def test_a_failed_run_is_a_live_one() -> None:
    run = quad.enqueue(1).id
    by_hand.engine(quad, failed_at=timezone.now() - LONG_AGO, available_at=None)
    steps(run, [0])
    assert prune_all([quad], "default") == 0


def test_a_run_that_took_long_keeps_its_steps_as_long_as_its_output() -> None:
    steps(7, [0, 0])
    outputs(quad, 1, timedelta(days=1), first=7)
    assert prune_all([quad], "default") == 0
    plain(quad.Output, "default").update(finished_at=timezone.now() - LONG_AGO)
    assert prune_all([quad], "default") == 3


def test_open_children_do_not_notice() -> None:
    """A person answers after months: the step is still there."""
    run = approval.enqueue("really?")
    drain()
    plain(approval.Step, "default").update(created_at=timezone.now() - LONG_AGO)
    assert prune_all([approval, approve], "default") == 0
    approve.push(approve.Input.objects.get().key, True)
    drain()
    assert run.result(timeout=1) == "yes"


# How long


def test_the_setting_and_the_pipelines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert retention_of(double) == timedelta(days=30)
    with override_settings(PIPETEER={"RETENTION": None}):
        assert retention_of(double) is None
        outputs(double, 1)
        assert prune_all([double], "default") == 0
        monkeypatch.setattr(double, "retention", timedelta(days=1))
        assert prune_all([double], "default") == 1
    monkeypatch.setattr(double, "retention", None)
    outputs(double, 1)
    assert (retention_of(double), prune_all([double], "default")) == (None, 0)


def test_longer_than_the_calendar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(double, "retention", timedelta.max)
    outputs(double, 1)
    assert prune_all([double], "default") == 0


def test_the_databases_clock_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs(double, 1, timedelta(days=1))
    monkeypatch.setattr(prune, "time_of", lambda using: timezone.now() + LONG_AGO)
    assert prune_all([double], "default") == 1


@pytest.mark.parametrize("retention", [timedelta(0), timedelta(-1), 30], ids=str)
def test_what_is_no_retention(retention: Any) -> None:
    with pytest.raises(DefinitionError, match="retention is a timedelta above 0, or None for ever, not"):
        pipeteer.activity(retention=retention)(lambda x: x)


@pytest.mark.parametrize("retention", [timedelta(days=1), None], ids=str)
def test_every_decorator_takes_it(retention: timedelta | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_sealed", False)
    monkeypatch.setattr(registry, "_pipelines", {})

    @pipeteer.activity(retention=retention)
    def one(x: int) -> int:
        return x

    @pipeteer.workflow(retention=retention)
    async def two(x: int, ctx: WorkflowContext) -> int:
        return x

    @pipeteer.task(retention=retention)
    def three(Input: type[InputT[str]], push: Push[str]) -> None: ...

    assert [each.retention for each in registry] == [retention] * 3


# Pages


def test_one_page_at_a_time_and_the_pipelines_in_turn() -> None:
    outputs(double, PAGE + 2)
    outputs(double_sync, 1)
    pruner = Pruner([double, double_sync], "default")
    assert [pruner.prune() for _ in range(5)] == [PAGE, 1, 2, 0, 0]


def test_nothing_to_prune() -> None:
    assert Pruner([], "default").prune() == 0
    assert prune_all([], "default") == 0


def test_a_walk_goes_through_live_steps_to_the_old_ones_behind() -> None:
    run = quad.enqueue(1).id
    live = steps(run, [0] * (PAGE + 1))
    steps(run + 1, [0])
    pruner = Pruner([quad], "default")
    assert [pruner.prune() for _ in range(3)] == [0, 1, 0]
    assert there(quad.Step) == ids(live)


def test_a_pass_ends_at_the_first_row_that_is_too_young() -> None:
    outputs(double, 1)
    outputs(double, 1, timedelta(0), first=2)
    behind = outputs(double, PAGE, first=3)
    pruner = Pruner([double], "default")
    assert [pruner.prune() for _ in range(3)] == [1, 0, 0]
    assert len(there(double.Output)) == len(behind) + 1


def test_the_cost_does_not_grow_with_the_tables() -> None:
    counts = []
    for more in (1, 4):
        outputs(quad, more * PAGE)
        for run in range(more):
            steps(10_000 + run, [0] * PAGE)
        pruner = Pruner([quad], "default")
        counts.append(statements(pruner.prune))
        assert len(there(quad.Output)) == len(there(quad.Step)) == (more - 1) * PAGE
        plain(quad.Step, "default").delete()
        plain(quad.Output, "default").delete()
    assert counts[0] == counts[1] <= 25


def test_an_idle_look_is_cheap() -> None:
    outputs(double, 1, timedelta(0))
    pruner = Pruner([double], "default")
    assert statements(pruner.prune) <= 2  # the clock, and one page


# What users' rows point at


def test_what_goes_with_an_output() -> None:
    first, second = outputs(keeps, 2)
    young = outputs(keeps, 1, timedelta(0), first=9)[-1]
    for output in (first, second, young):
        Remark.objects.create(on=output)
    assert prune_all([keeps], "default") == 2
    assert [remark.on_id for remark in Remark.objects.all()] == [young.pk]


def test_protected_outputs_stay_and_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    first, _, third, _ = outputs(keeps, 4)
    for output in (first, third):
        Receipt.objects.create(of=output)
    pruner = Pruner([keeps], "default")
    assert [pruner.prune() for _ in range(4)] == [2, 0, 0, 0]
    assert there(keeps.Output) == ids([first, third])
    assert [record.message for record in caplog.records] == [
        "trouble.KeepsOutput: rows that are old enough stay, because others point at them with PROTECT."
    ]


def test_protected_around_a_corner(caplog: pytest.LogCaptureFixture) -> None:
    rows = outputs(keeps, 20)
    Signature.objects.create(under=Remark.objects.create(on=rows[13]))
    pruner = Pruner([keeps], "default")
    assert [pruner.prune() for _ in range(3)] == [19, 0, 0]
    assert (there(keeps.Output), len(caplog.records)) == ([rows[13].pk], 1)


def test_more_protected_ones_than_a_page_holds() -> None:
    rows = outputs(keeps, PAGE + 5)
    Receipt.objects.bulk_create(Receipt(of=row) for row in rows[:PAGE])
    pruner = Pruner([keeps], "default")
    assert [pruner.prune() for _ in range(4)] == [0, 5, 0, 0]
    assert prune_all([keeps], "default") == 0


# Others


@on_servers
@pytest.mark.django_db(transaction=True)
def test_locked_rows_are_left_for_later() -> None:
    first, *_ = outputs(double, 3)
    with transaction.atomic():
        plain(double.Output, "default").select_for_update().get(pk=first.pk)
        (deleted,) = by_hand.in_threads(lambda: prune_all([double], "default"))
    assert (deleted, there(double.Output)) == (2, [first.pk])
    assert prune_all([double], "default") == 1


@pytest.mark.django_db(transaction=True)
def test_many_prune_at_once() -> None:
    outputs(double, 3 * PAGE)
    counts = by_hand.in_threads(*[lambda: prune_all([double], "default")] * 4)
    left = prune_all([double], "default")  # what somebody held and then could not delete
    assert (sum(counts) + left, there(double.Output)) == (3 * PAGE, [])


def test_a_step_that_moves_to_a_new_branch_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    run = quad.enqueue(1).id
    by_hand.engine(quad, branch=1)
    (step,) = steps(run, [0])

    def move(self: Any, ids: Any) -> set[int]:
        plain(quad.Step, "default").update(branch=1)
        return set()

    monkeypatch.setattr(prune._Walk, "_protected", move)
    assert prune_all([quad], "default") == 0
    assert there(quad.Step) == [step.pk]


# Workers


def desk() -> Desk:
    return Desk([double], using="default", label="desk", kept=nothing_kept)


def idle(*, sweep: bool = True, slots: int = 1) -> Work:
    return Work([], slots, 1, True, slots > 0, frozenset(), sweep)


def test_an_idle_worker_prunes_all_pipelines_of_its_database() -> None:
    outputs(double, 1)
    outputs(keeps, 1)
    worker = desk()
    for _ in registry:
        worker.work(idle())
    assert there(double.Output) == there(keeps.Output) == []


def test_a_busy_worker_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = desk()
    calls: list[int] = []
    monkeypatch.setattr(worker._pruner, "prune", lambda: calls.append(1))
    worker.work(idle(sweep=False))
    worker.intake.trust(["double"])
    worker.work(idle(slots=0))
    assert calls == []


@pytest.mark.django_db(transaction=True)
def test_a_table_that_is_not_there_yet_stops_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    table = keeps.Output._meta.db_table
    with connection.schema_editor() as editor:
        editor.alter_db_table(keeps.Output, table, "elsewhere")
    try:
        worker = desk()
        for _ in registry:
            worker.work(idle())
    finally:
        with connection.schema_editor() as editor:
            editor.alter_db_table(keeps.Output, "elsewhere", table)
    said = "No tables for keeps, so nothing is repaired there. Run: python manage.py migrate"
    assert [record.message for record in caplog.records] == [said]


def test_what_goes_wrong_stops_no_worker(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    worker = desk()
    for error in (ValueError("a receiver's"), ProgrammingError("no such table")):
        monkeypatch.setattr(prune._Walk, "prune", raising(error))
        worker.work(idle())
    assert [record.message for record in caplog.records] == ["Could not prune; going on."] * 2


def test_a_database_that_is_gone_is_the_workers_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune._Walk, "prune", raising(OperationalError("server closed the connection")))
    with pytest.raises(OperationalError):
        desk().work(idle())


def raising(error: Exception) -> Any:
    def fail(*arguments: Any, **options: Any) -> int:
        raise error

    return fail


# The command


def command(*arguments: str) -> list[str]:
    out = io.StringIO()
    call_command("pipeteer_prune", *arguments, stdout=out)
    return out.getvalue().splitlines()


def test_the_command_says_what_went() -> None:
    outputs(double, PAGE + 1)
    steps(5, [0, 0])
    assert sorted(command()) == ["testapp.DoubleOutput: 501 rows deleted.", "testapp.QuadStep: 2 rows deleted."]
    assert command() == ["Nothing is old enough."]


def test_a_dry_run_deletes_nothing() -> None:
    rows = outputs(keeps, PAGE + 3)
    Receipt.objects.create(of=rows[0])
    assert command("--dry-run") == ["trouble.KeepsOutput: 502 rows would go."]
    assert there(keeps.Output) == ids(rows)


def test_some_pipelines_only() -> None:
    outputs(double, 1)
    outputs(double_sync, 1)
    outputs(approve, 1)
    assert command("double", "approve") == [
        "testapp.DoubleOutput: 1 rows deleted.",
        "testapp.ApproveOutput: 1 rows deleted.",
    ]
    assert len(there(double_sync.Output)) == 1


@pytest.mark.parametrize(
    ("age", "left"), [("3", 0), ("4d", 0), ("6d", 1), ("100h", 0), ("200h", 1), ("90m", 0), ("0", 0), ("999999", 1)]
)
def test_an_age_instead_of_the_retention(age: str, left: int) -> None:
    outputs(double, 1, timedelta(days=5))
    command("double", "--older-than", age)
    assert len(there(double.Output)) == left


@pytest.mark.parametrize("age", ["x", "1.5", "3w", "", "12345678"])
def test_what_is_no_age(age: str) -> None:
    with pytest.raises(CommandError, match="is no age: write days"):
        command("--older-than", age)


def test_what_is_kept_for_ever_goes_only_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(double, "retention", None)
    outputs(double, 1)
    assert command("--older-than", "1") == ["Nothing is old enough."]
    with pytest.raises(CommandError, match="double is kept for ever"):
        command("double")
    assert command("double", "--older-than", "1") == ["testapp.DoubleOutput: 1 rows deleted."]


def test_without_a_retention_in_the_settings_an_age_is_enough() -> None:
    outputs(double, 1)
    with override_settings(PIPETEER={"RETENTION": None}):
        assert command() == ["Nothing is old enough."]
        assert command("--older-than", "30") == ["testapp.DoubleOutput: 1 rows deleted."]


def test_an_unknown_pipeline() -> None:
    with pytest.raises(CommandError, match=r"No pipeline is called 'doubel'\. Did you mean double"):
        command("doubel")
