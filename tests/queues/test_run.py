"""What becomes of entries when they are run: values, retries, giving up, workflows, children, tasks, signals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.dispatch import Signal
from django.utils import timezone

from pipeteer_django import signals
from pipeteer_django.exceptions import InvalidValue, PipeteerError
from pipeteer_django.models import Queue
from pipeteer_django.pipelines.activity import Activity
from pipeteer_django.pipelines.outcome import Done
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.sweep import Sweeper
from pipeteer_django.worker import attempts
from tests.queues import by_hand
from tests.queues.by_hand import drain_anyway
from tests.testapp.models import Item, Ledger
from tests.testapp.pipelines import (
    Point,
    about,
    approval,
    approve,
    boom,
    boom_thrice,
    careful,
    careless,
    chain,
    double,
    double_sync,
    echo_literal,
    echo_point,
    family,
    fan,
    fan_failing,
    flaky,
    item_flow,
    misdeclared,
    no_input,
    nothing,
    odd_fails,
    parent,
    picky,
    process_item,
    quad,
    quad_too,
    recording,
    review,
    trace,
)
from tests.trouble.pipelines import ask, desk, fails, never_again, office, returns, waits, waits_anyway

pytestmark = pytest.mark.django_db


def run(pipeline: Any, value: Any = None, **options: Any) -> Any:
    """Enqueue, run everything, and give the result."""
    handle = pipeline.enqueue(value, **options)
    drain_anyway()
    return handle.result(timeout=0)


def only_failed(pipeline: Any) -> Any:
    return pipeline.Input.objects.failed().get()


def now_due(pipeline: Any) -> None:
    by_hand.overdue(pipeline)
    drain_anyway()


@contextmanager
def code(pipeline: Any, function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Other code under the same id, as after a deployment."""
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "function", function)
        yield


# Activities


@pytest.mark.parametrize(
    ("pipeline", "value", "result"),
    [
        (double, 2, 4),
        (double_sync, 2, 4),
        (nothing, 1, None),
        (no_input, None, "done"),
        (echo_point, Point(1, 2), Point(1, 2)),
    ],
    ids=str,
)
def test_activity(pipeline: Any, value: Any, result: Any) -> None:
    assert run(pipeline, value) == result
    assert not pipeline.Input.objects.exists()


def test_calling_a_pipeline_calls_its_function() -> None:
    assert asyncio.run(double(2)) == 4
    assert double_sync(2) == 4


def test_the_context() -> None:
    handle = about.enqueue(1, key="task")
    drain_anyway(about, app="my app")
    said = handle.result(timeout=0)
    assert (said["key"], said["run_id"], said["attempt"], said["app"]) == ("task", handle.id, 1, "'my app'")


def test_the_idempotency_key_is_the_runs() -> None:
    keys = [run(about, 1, key="task")["idempotency_key"] for _ in range(2)]
    assert keys[0] != keys[1]


def test_the_idempotency_key_is_the_same_in_every_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def remember(x: int, ctx: Any) -> dict[str, Any]:
        seen.append(ctx.idempotency_key)
        if ctx.attempt == 1:
            raise OSError("again, please")
        return {}

    with code(about, remember, monkeypatch):
        about.enqueue(1)
        drain_anyway(about)
        now_due(about)
    assert len(seen) == 2
    assert len(set(seen)) == 1


def test_a_model_in_and_out() -> None:
    item = Item.objects.create(name="pen")
    assert run(process_item, item) == item
    assert Item.objects.get().processed


def test_a_workflow_hands_a_model_on() -> None:
    item = Item.objects.create(name="pen")
    assert run(item_flow, item) == item
    assert Ledger.objects.get().name == "pen"


def test_an_output_has_all_the_facts() -> None:
    handle = double.enqueue(2, key="task", output="mine")
    drain_anyway(double)
    row = double.Output.objects.get()
    assert (row.key, row.value, row.output, row.run_id, row.attempt) == ("task", 4, "mine", handle.id, 1)
    assert row.created_at <= row.finished_at
    assert row.consumed_at is None


# Retries


def test_an_activity_is_retried_until_it_succeeds() -> None:
    handle = flaky.enqueue(2)
    for attempt in (1, 2):
        drain_anyway(flaky)
        entry = flaky.Input.objects.scheduled().get()
        assert (entry.attempt, "Flaky" in entry.error, entry.reserved_by) == (attempt, True, "")
        by_hand.overdue(flaky)
    drain_anyway(flaky)
    assert handle.result(timeout=0) == 3
    assert flaky.Output.objects.get().attempt == 3


def test_retries_back_off() -> None:
    fails.enqueue(1)
    pauses = []
    for _ in range(6):
        drain_anyway(fails)
        pauses.append((fails.Input.objects.get().available_at - timezone.now()).total_seconds())
        by_hand.overdue(fails)
    assert all(
        low - 2 < pause <= high
        for pause, (low, high) in zip(pauses, [(5, 10), (10, 20), (20, 40), *[(30, 60)] * 3], strict=True)
    )


def test_max_attempts() -> None:
    boom_thrice.enqueue("no")
    for _ in range(3):
        drain_anyway(boom_thrice)
        by_hand.overdue(boom_thrice)
    entry = only_failed(boom_thrice)
    assert (entry.attempt, entry.error.count("Boom: no")) == (3, 1)
    assert drain_anyway(boom_thrice) == 0


def test_retry_on() -> None:
    picky.enqueue("flaky", key="retried")
    picky.enqueue("boom", key="given up")
    drain_anyway(picky)
    assert picky.Input.objects.scheduled().get().key == "retried"
    assert only_failed(picky).key == "given up"


def test_no_retry_on() -> None:
    never_again.enqueue(1)
    drain_anyway(never_again)
    assert only_failed(never_again).attempt == 1


def test_every_kind_of_exception_is_only_a_failed_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    for error in (
        SystemExit(3),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        Unprintable(),
        OSError("\x00\ud800" * 9999),
    ):

        def fail(x: int, error: BaseException = error) -> int:
            raise error

        with code(double_sync, fail, monkeypatch):
            double_sync.enqueue(1)
            double.enqueue(1)
            drain_anyway(double_sync, double)
    assert double_sync.Input.objects.scheduled().count() == double.Output.objects.count() == 5


def test_a_failing_entry_does_not_stop_its_neighbours() -> None:
    for x in range(6):
        odd_fails.enqueue(x)
    drain_anyway(odd_fails)
    assert odd_fails.Input.objects.failed().count() == 3
    assert sorted(odd_fails.Output.objects.values_list("value", flat=True)) == [0, 2, 4]


def test_retried_by_hand_it_starts_from_its_first_attempt() -> None:
    boom.enqueue("no")
    drain_anyway(boom)
    boom.Input.objects.all().retry()
    drain_anyway(boom)
    assert only_failed(boom).attempt == 1


# Values that cannot be


def spoil(pipeline: Any, stored: str, number: int = 0) -> None:
    """Write what older code may have stored, past all checks."""
    id = pipeline.Input.objects.order_by("id").values_list("id", flat=True)[number]
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {pipeline.Input._meta.db_table} SET value = %s WHERE id = %s", [stored, id])


@pytest.mark.parametrize("kind", ["object", "nan", "nul", "surrogate", "deep", "large", "list"])
def test_a_result_that_cannot_be_stored(kind: str) -> None:
    returns.enqueue(kind, key=kind)
    returns.enqueue("fine")
    drain_anyway(returns)
    entry = only_failed(returns)
    assert (entry.key, "InvalidValue: value" in entry.error) == (kind, True)
    assert returns.Output.objects.count() == 1


def test_a_result_of_another_type_than_declared() -> None:
    misdeclared.enqueue("x")
    drain_anyway(misdeclared)
    assert "InvalidValue: value: Input should be a valid integer" in only_failed(misdeclared).error


def test_a_stored_value_that_no_longer_fits_parks_alone() -> None:
    for number in range(10):
        echo_point.enqueue(Point(number, 0), key=str(number))
    spoil(echo_point, '{"x": "?", "y": 2}', number=3)
    drain_anyway(echo_point)
    assert (only_failed(echo_point).key, echo_point.Output.objects.count()) == ("3", 9)
    assert "value.x: Input should be a valid integer" in only_failed(echo_point).error
    assert only_failed(echo_point).value == {"x": "?", "y": 2}


def test_a_stored_option_that_is_none_any_more_parks_and_can_be_mended() -> None:
    echo_literal.enqueue("up", key="task")
    spoil(echo_literal, "sideways")
    drain_anyway(echo_literal)
    assert "sideways" in only_failed(echo_literal).error
    entry = only_failed(echo_literal)
    entry.value = "down"
    entry.save()
    echo_literal.Input.objects.failed().retry()
    drain_anyway(echo_literal)
    assert echo_literal.result("task", timeout=0) == "down"


def test_a_workflows_stored_value_that_no_longer_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(claim: Any) -> Any:
        raise InvalidValue("value: it was an int once")

    quad.enqueue(1)
    with monkeypatch.context() as patch:
        patch.setattr(attempts, "decode", refuse)
        drain_anyway(quad)
    assert "it was an int once" in only_failed(quad).error


def test_a_row_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(claim: Any) -> Any:
        raise InvalidValue("value: testapp.Item 1 does not exist any more.")

    process_item.enqueue(Item.objects.create(name="pen"))
    with monkeypatch.context() as patch:
        patch.setattr(attempts, "decode", refuse)
        drain_anyway(process_item)
    assert "does not exist" in only_failed(process_item).error
    assert Ledger.objects.count() == 0


# Workflows


@pytest.mark.parametrize(
    ("workflow", "value", "result"),
    [
        (quad, 3, 12),
        (fan, 20, [2 * x for x in range(20)]),
        (parent, 3, 13),
        (family, 5, 40),
        (chain, 12, 12),
        (recording, 3, 3),
    ],
    ids=str,
)
def test_workflow(workflow: Any, value: Any, result: Any) -> None:
    assert run(workflow, value) == result
    assert not any(p.Input.objects.exists() for p in (workflow, double, quad))


def test_the_record_of_a_run() -> None:
    run(quad, 3, key="task")
    steps = quad.Step.objects.order_by("index").values_list("index", "pipeline", "param", "result", "error", "order")
    assert list(steps) == [(0, "double", 3, 6, None, 1), (1, "double", 6, 12, None, 2)]


def test_two_workflows_with_the_same_key_call_the_same_activity() -> None:
    handles = [workflow.enqueue(x, key="task") for x, workflow in enumerate((quad, quad_too), start=1)]
    drain_anyway(quad, quad_too)
    assert double.Input.objects.count() == 2
    drain_anyway()
    assert [handle.result(timeout=0) for handle in handles] == [4, 8]


def test_a_users_key_may_look_like_anything_else() -> None:
    double.enqueue(5, key="0_task")
    double.enqueue(5, key="quad:task")
    assert run(quad, 1, key="task") == 4


def test_a_child_that_fails_is_an_exception_in_its_parent() -> None:
    assert run(careful, "no way") == "Boom: no way"
    assert not boom.Input.objects.exists()


def test_a_parent_that_does_not_catch_it_fails() -> None:
    careless.enqueue("no way")
    drain_anyway()
    entry = only_failed(careless)
    assert "StepFailed: boom: Boom: no way" in entry.error
    assert careless.Step.objects.get().error["message"] == "no way"


def test_a_child_that_was_deleted_is_an_exception_too() -> None:
    handle = waits_anyway.enqueue("ready?")
    drain_anyway(waits_anyway)
    ask.Input.objects.get().delete()
    drain_anyway()
    assert handle.result(timeout=0) == "ask: Deleted"


def test_a_child_workflow_that_fails_delivers_its_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(x: int, ctx: Any) -> int:
        raise ZeroDivisionError("in the child")

    with code(quad, fail, monkeypatch):
        parent.enqueue(1)
        drain_anyway()
    assert "StepFailed: quad: ZeroDivisionError: in the child" in only_failed(parent).error
    assert not quad.Input.objects.exists()


def test_a_thousand_children_some_of_which_fail() -> None:
    results = run(fan_failing, 1000)
    assert results[::2] == [str(x) for x in range(0, 1000, 2)]
    assert all(f"Boom: {x} is odd" in result for x, result in zip(range(1, 1000, 2), results[1::2], strict=True))
    assert not odd_fails.Input.objects.exists()


def test_the_parent_runs_once_per_batch_of_results() -> None:
    fan.enqueue(200)
    assert drain_anyway(fan, double) < 200 + 10


def test_a_workflow_that_was_held_back_by_a_parked_child(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = quad.enqueue(1)
    drain_anyway(quad)
    by_hand.engine(double, crashes=3)
    drain_anyway()
    assert "3 times while it ran this entry" in only_failed(double).error
    assert quad.Input.objects.waiting().count() == 1
    double.Input.objects.failed().retry()
    drain_anyway()
    assert handle.result(timeout=0) == 4


def test_restart_with_outstanding_children() -> None:
    handle = waits.enqueue("ready?", key="task")
    drain_anyway(waits)
    ask.push(ask.Input.objects.order_by("id").first().key, "one")
    assert waits.restart("task")
    assert not ask.Input.objects.exists()
    drain_anyway(waits)
    for entry in ask.Input.objects.order_by("id"):
        ask.push(entry.key, entry.value)
    drain_anyway(waits)
    assert handle.result(timeout=0) == "ready? 0 ready? 1"
    assert waits.Step.objects.filter(branch=0, cancelled_at__isnull=False).count() == 1


def test_a_run_that_ends_cancels_what_it_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    async def impatient(question: str, ctx: Any) -> str:
        ctx.call(ask, "for nobody")
        return str(await ctx.call(ask, "for me"))

    with code(waits, impatient, monkeypatch):
        handle = waits.enqueue("ready?")
        drain_anyway(waits)
        ask.push(ask.Input.objects.get(value="for me").key, "yes")
        drain_anyway(waits)
    assert handle.result(timeout=0) == "yes"
    assert not ask.Input.objects.exists()
    assert waits.Step.objects.get(cancelled_at__isnull=False).param == "for nobody"


def test_a_held_queue_rests() -> None:
    Queue.objects.create(pipeline="double", held=True)
    handle = double.enqueue(2)
    drain_anyway(double)
    assert double.Input.objects.ready().count() == 1
    Queue.objects.update(held=False)
    drain_anyway(double)
    assert handle.result(timeout=0) == 4


# Impure workflows


def test_an_impure_workflow_parks_and_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    async def changed(x: int, ctx: Any) -> int:
        return int(await ctx.call(double, x + 1))

    quad.enqueue(1, key="impure")
    drain_anyway(quad)
    neighbour = fan.enqueue(3)
    with code(quad, changed, monkeypatch):
        drain_anyway()
    entry = only_failed(quad)
    assert (
        "quad does not repeat its record: step 0 was recorded as double(1), and the code now calls double(2)"
        in entry.error
    )
    assert neighbour.result(timeout=0) == [0, 2, 4]


def test_with_the_old_code_back_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def changed(x: int, ctx: Any) -> int:
        return int(await ctx.call(double_sync, x))

    handle = quad.enqueue(1)
    drain_anyway(quad)
    with code(quad, changed, monkeypatch):
        drain_anyway()
    quad.Input.objects.failed().retry()
    drain_anyway()
    assert handle.result(timeout=0) == 4
    assert double_sync.Output.objects.count() == 0


def test_an_impure_child_parks_and_its_parent_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def changed(x: int, ctx: Any) -> int:
        return 7

    handle = parent.enqueue(3)
    drain_anyway(parent, quad)
    with code(quad, changed, monkeypatch):
        drain_anyway()
    assert "ImpureWorkflow" in only_failed(quad).error
    assert parent.Input.objects.waiting().count() == 1
    quad.Input.objects.failed().retry()
    drain_anyway()
    assert handle.result(timeout=0) == 13


# Tasks


def test_push_completes_an_entry() -> None:
    handle = approve.enqueue("may I?", key="task")
    assert drain_anyway() == 0
    assert approve.push("task", True) is True
    assert handle.result(timeout=0) is True


def test_push_has_one_winner() -> None:
    approve.enqueue("may I?", key="task")
    assert [approve.push("task", answer) for answer in (False, True)] == [True, False]
    assert approve.Output.objects.get().value is False


def test_push_of_an_unknown_key() -> None:
    assert approve.push("task", True) is False


def test_push_of_what_does_not_fit_changes_nothing() -> None:
    approve.enqueue("may I?", key="task")
    with pytest.raises(InvalidValue, match="boolean"):
        approve.push("task", "perhaps")  # type: ignore[arg-type]
    assert approve.Input.objects.get().epoch == 0


def test_push_of_none() -> None:
    handle = review.enqueue(Item.objects.create(name="pen"), key="task")
    assert review.push("task", None)
    assert handle.result(timeout=0) is None


def test_push_wakes_the_waiting_workflow(wakeups: list[str], django_capture_on_commit_callbacks: Any) -> None:
    handle = approval.enqueue("may I?")
    drain_anyway(approval)
    with django_capture_on_commit_callbacks(execute=True):
        approve.push(approve.Input.objects.get().key, True)
    assert wakeups == ["approval"]
    drain_anyway(approval)
    assert handle.result(timeout=0) == "yes"


def test_push_announces_the_output(wakeups: list[str], django_capture_on_commit_callbacks: Any) -> None:
    approve.enqueue("may I?", key="task", output="mine")
    with django_capture_on_commit_callbacks(execute=True):
        approve.push("task", True)
    assert wakeups == ["approve", "mine"][1:]


def test_push_of_an_activitys_entry_refuses_its_workers_result() -> None:
    double.enqueue(1, key="task")
    claim = by_hand.claim_one(double)
    assert double.Input.objects.push("task", 99)
    assert len(by_hand.settle(claim, Done(2)).lost) == 1
    assert double.Output.objects.get().value == 99


def test_push_to_a_caller_that_this_code_does_not_know() -> None:
    approve.enqueue("may I?", key="task")
    by_hand.engine(approve, caller="of_tomorrow", step_id=1)
    with pytest.raises(PipeteerError, match="of_tomorrow"):
        approve.push("task", True)
    assert approve.Input.objects.count() == 1


def test_artifacts() -> None:
    assert approve.artifact == "ApproveInput, True"
    assert (desk.artifact, office.artifact) == (["ask", "ask_again"], ["ask", "ask_again", "ask"])


# What this code does not know


def test_an_entry_of_an_unknown_caller_is_left_alone() -> None:
    trace.enqueue("of tomorrow's code", key="task")
    by_hand.engine(trace, caller="of_tomorrow", step_id=12345)
    drain_anyway(trace)
    entry = trace.Input.objects.get()
    assert (entry.attempt, entry.failed_at, Ledger.objects.count()) == (0, None, 0)
    assert entry.available_at > timezone.now()


def test_a_step_of_an_unknown_pipeline_is_left_alone() -> None:
    handle = quad.enqueue(1, key="task")
    drain_anyway(quad)
    double.Input.objects.all()._raw_delete("default")
    plain(quad.Step, "default").update(pipeline="of_tomorrow")
    drain_anyway()
    Sweeper([quad], "default").sweep()
    drain_anyway()
    assert quad.Input.objects.waiting().count() == 1
    with pytest.raises(TimeoutError):
        handle.result(timeout=0)


def test_a_raw_insert_is_an_entry() -> None:
    plain(double.Input, "default").bulk_create([double.Input(key="raw", value=4)])
    drain_anyway(double)
    assert double.result("raw", timeout=0) == 8


# Signals


@contextmanager
def heard(*chosen: Signal) -> Iterator[list[tuple[str, ...]]]:
    """(signal, pipeline, outcome or the like), in order."""
    log: list[tuple[str, ...]] = []
    names = {signal: name for name, signal in vars(signals).items() if isinstance(signal, Signal)}

    def hear(sender: Any, signal: Signal, **kwargs: Any) -> None:
        said = kwargs.get("outcome", kwargs.get("gave_up", ""))
        log.append((names[signal], sender.id, said if isinstance(said, str) else type(said).__name__))

    for signal in chosen:
        signal.connect(hear)
    try:
        yield log
    finally:
        for signal in chosen:
            signal.disconnect(hear)


def test_signals_of_a_workflow() -> None:
    with heard(signals.attempt_started, signals.attempt_finished, signals.run_finished) as log:
        run(quad, 1)
    assert [entry for entry in log if entry[1] == "quad"] == [
        ("attempt_started", "quad", ""),
        ("attempt_finished", "quad", "waiting"),
        ("attempt_started", "quad", ""),
        ("attempt_finished", "quad", "waiting"),
        ("attempt_started", "quad", ""),
        ("attempt_finished", "quad", "done"),
        ("run_finished", "quad", ""),
    ]
    assert [entry[0] for entry in log if entry[1] == "double"] == ["attempt_started", "attempt_finished"] * 2


def test_signals_of_a_failure() -> None:
    with heard(signals.entry_failed, signals.attempt_finished, signals.run_finished) as log:
        boom_thrice.enqueue("no")
        for _ in range(3):
            drain_anyway(boom_thrice)
            by_hand.overdue(boom_thrice)
    assert [entry[2] for entry in log if entry[0] == "attempt_finished"] == ["retry", "retry", "failed"]
    assert [entry[2] for entry in log if entry[0] == "entry_failed"] == ["Retry", "Retry", "Failed"]


def test_signals_of_an_atomic_activity() -> None:
    with heard(signals.attempt_finished, signals.run_finished) as log:
        run(process_item, Item.objects.create(name="pen"))
    assert [entry[0] for entry in log] == ["attempt_finished", "run_finished"]


def test_a_receiver_that_raises_harms_nothing() -> None:
    def fail(**kwargs: Any) -> None:
        raise RuntimeError("a receiver's own trouble")

    for signal in (signals.attempt_started, signals.attempt_finished, signals.run_finished):
        signal.connect(fail)
    try:
        assert run(quad, 1) == 4
    finally:
        for signal in (signals.attempt_started, signals.attempt_finished, signals.run_finished):
            signal.disconnect(fail)


# drain itself


def test_drain_leaves_what_is_not_due() -> None:
    double.enqueue(1, delay=timedelta(hours=1))
    assert drain_anyway() == 0


def test_drain_of_some_pipelines() -> None:
    quad.enqueue(1)
    assert drain_anyway(quad) == 1
    assert drain_anyway(double) == 1


def test_what_max_attempts_cannot_be() -> None:
    with pytest.raises(PipeteerError, match="max_attempts"):
        Activity(lambda x: x, id="never", max_attempts=0)
