"""`pipeteer_check`: what would not go on under today's code is found, nothing else is, and nothing is touched."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, models
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from pipeteer_django import WorkflowContext
from pipeteer_django.checking import entries, replays
from pipeteer_django.checking.deployment import unapplied, unwritten
from pipeteer_django.checking.findings import ADVICE, Finding
from pipeteer_django.checking.gate import Gate
from pipeteer_django.checking.patience import within
from pipeteer_django.models import Queue, Worker
from pipeteer_django.pipelines import loop
from pipeteer_django.pipelines.outcome import Done
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.pipelines.valuetype import ValueType
from pipeteer_django.queues.claim import plain
from pipeteer_django.testing import drain
from pipeteer_django.worker.attempts import run_workflow
from tests.queues import by_hand
from tests.testapp.pipelines import (
    approval,
    approve,
    chain,
    double,
    double_sync,
    echo_point,
    fan,
    parent,
    quad,
    quad_too,
)

pytestmark = pytest.mark.django_db

Change = Callable[[Any], None]


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Change:
    """Deploys another function as the workflow `quad`."""
    return lambda function: monkeypatch.setattr(quad, "function", function)


@pytest.fixture
def begun() -> Any:
    """quad(3) with its first step consumed and its second outstanding."""
    run = quad.enqueue(3, key="task")
    for pipeline in (quad, double, quad):
        drain(pipeline)
    return run


def look(*pipelines: Any, replay: bool = True) -> list[Finding]:
    return list(Gate(pipelines or (quad, double), replay=replay, only_values=True).findings())


def found(*pipelines: Any) -> str:
    """The text of the one replay that differs."""
    (finding,) = look(*pipelines)
    assert (finding.kind, finding.pipeline, finding.key, finding.stops) == ("replay", "quad", "task", True), finding
    return finding.text


def check(*arguments: str) -> tuple[int, str]:
    """Exit status and output of the command."""
    out = io.StringIO()
    try:
        call_command("pipeteer_check", *arguments, stdout=out)
    except SystemExit as end:
        return int(end.code or 0), out.getvalue()
    return 0, out.getvalue()


def everything() -> dict[str, list[dict[str, Any]]]:
    """Every row of every table that could be touched."""
    tables = [model for pipeline in registry for model in pipeline.models.values()]
    others = [Worker, Queue, MigrationRecorder.Migration]
    return {model._meta.label: list(plain(model, "default").order_by("pk").values()) for model in (*tables, *others)}


def statements(work: Callable[[], Any]) -> list[str]:
    said: list[str] = []

    def note(execute: Any, sql: str, *arguments: Any) -> Any:
        said.append(sql)
        return execute(sql, *arguments)

    with connection.execute_wrapper(note):
        work()
    return said


def many(count: int, steps: int = 1, size: int = 0) -> None:
    """So many runs of `chain`, asleep, with that many finished steps each, made by hand."""
    now = timezone.now()
    value = 10_000
    rows = [
        chain.Input(key=str(n), value=value, epoch=2, suspended=True, available_at=None, started_at=now)
        for n in range(count)
    ]
    plain(chain.Input, "default").bulk_create(rows)
    runs = plain(chain.Input, "default").values_list("id", flat=True)
    plain(chain.Step, "default").bulk_create(
        chain.Step(run_id=run, index=n, pipeline="add_one", param=n, result=n + 1, done_at=now, order=n + 1)
        for run in runs
        for n in range(steps)
    )
    plain(chain.Step, "default").bulk_create(
        chain.Step(run_id=run, index=steps, pipeline="add_one", param=steps) for run in runs
    )


# The same code


def test_unchanged_code_differs_nowhere() -> None:
    """Runs of several workflows, at every stage that they come to."""
    tables = [quad, quad_too, fan, parent, approval, chain, double, approve]
    for number in range(3):
        quad.enqueue(number)
    for pipeline, value in ((quad_too, 1), (fan, 3), (parent, 2), (approval, "?"), (chain, 3)):
        pipeline.enqueue(value)  # type: ignore[attr-defined]
    double.enqueue(7, delay=timedelta(days=1))
    for _ in range(8):
        assert look(*tables) == []
        for pipeline in tables:
            for claim in by_hand.claim_all(pipeline, 1):
                assert look(*tables) == []  # while it runs
                by_hand.turn([(claim, _outcome(claim))])


def _outcome(claim: Any) -> Any:
    return run_workflow(claim) if claim.pipeline.kind == "workflow" else Done(2 * claim.value)


def test_runs_that_never_began_are_fine(change: Change) -> None:
    async def after(x: int, ctx: WorkflowContext) -> int:
        return await ctx.call(double_sync, x)

    quad.enqueue(1)
    change(after)
    assert look() == []
    claim = by_hand.claim_one(quad)
    assert look() == []
    by_hand.settle(claim, _outcome(claim))
    plain(quad.Input, "default").update(key="task")
    change(quad_too.function)
    assert "was recorded as double_sync(1), and the code now calls double(1)" in found()
    quad.restart("task")
    assert look() == []


# Changed code


def test_another_pipeline(change: Change, begun: Any) -> None:
    async def after(x: int, ctx: WorkflowContext) -> int:
        return await ctx.call(double, await ctx.call(double_sync, x))

    change(after)
    text = found()
    assert text.startswith("step 0 was recorded as double(3), and the code now calls double_sync(3) at ")
    assert f"{__file__}:{after.__code__.co_firstlineno + 1}" in text
    assert "ctx.patched" not in text  # said once, at the end


def test_another_argument(change: Change, begun: Any) -> None:
    async def after(x: int, ctx: WorkflowContext) -> int:
        return await ctx.call(double, await ctx.call(double, x) + 1)

    change(after)
    assert "step 1 was recorded as double(6), and the code now calls double(7)" in found()


def test_fewer_calls(change: Change, begun: Any) -> None:
    async def after(x: int, ctx: WorkflowContext) -> int:
        return await ctx.call(double, x)

    change(after)
    assert "step 1 was recorded as double(6), and the code no longer makes this call" in found()


def test_another_call_before_the_record_is_over(change: Change, begun: Any) -> None:
    async def after(x: int, ctx: WorkflowContext) -> int:
        ctx.call(double, x)
        ctx.call(double, 6)
        return await ctx.call(double_sync, 1)

    change(after)
    assert "its record ends with step 1, and before all" in found()


def test_an_end_before_the_record_is_over(change: Change, begun: Any) -> None:
    async def after(x: int, ctx: WorkflowContext) -> int:
        ctx.call(double, x)
        ctx.call(double, 6)
        return 1

    change(after)
    assert "it ended with 1 recorded events still to come" in found()


@pytest.mark.parametrize("error", [KeyError("rate"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
def test_an_exception_where_the_record_goes_on(change: Change, begun: Any, error: BaseException) -> None:
    async def after(x: int, ctx: WorkflowContext) -> int:
        await ctx.call(double, x)
        raise error

    change(after)
    text = found()
    assert "step 1 was recorded as double(6), and the code no longer makes this call" in text
    assert (f"It raised {type(error).__name__}" in text) != isinstance(error, asyncio.CancelledError)


@pytest.mark.parametrize("error", [KeyError("rate"), SystemExit(3)])
def test_an_exception_where_the_record_is_over_is_how_it_goes_on(
    change: Change, begun: Any, error: BaseException
) -> None:
    async def after(x: int, ctx: WorkflowContext) -> int:
        ctx.call(double, await ctx.call(double, x))
        raise error

    change(after)
    assert look() == []


def test_an_event_of_a_step_not_called_yet(begun: Any) -> None:
    steps = plain(quad.Step, "default")
    steps.filter(index=0).update(order=2)
    steps.filter(index=1).update(order=1, result=12, done_at=timezone.now())
    assert "step 1, double(6), was finished when the code had called only 1" in found()


def test_a_missing_step(begun: Any) -> None:
    plain(quad.Step, "default").filter(index=0).delete()
    assert "step 0 is missing" in found()


def test_what_needs_another_remedy_than_other_code(change: Change, begun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MAX_CALLBACKS", 1000)

    async def after(x: int, ctx: WorkflowContext) -> int:
        call = ctx.call(double, x)
        while not call.done():
            await asyncio.sleep(0)
        return 1

    change(after)
    assert "without ever waiting" in found()


def test_only_what_was_consumed_counts(change: Change) -> None:
    """The result of step 0 is there, but the run has not taken it: what it does then is still open."""

    async def after(x: int, ctx: WorkflowContext) -> int:
        return await ctx.call(double_sync, await ctx.call(double, x))

    quad.enqueue(3, key="task")
    for pipeline in (quad, double):
        drain(pipeline)
    change(after)
    assert look() == []
    drain(quad)
    change(quad_too.function)
    assert "step 1 was recorded as double_sync(6)" in found()


def test_more_calls_after_the_record_are_no_difference(change: Change, begun: Any) -> None:
    async def after(x: int, ctx: WorkflowContext) -> int:
        return await ctx.call(double, await quad_too.function(x, ctx))

    change(after)
    assert look() == []


@pytest.mark.parametrize("patched", [True, False])
def test_patched(change: Change, begun: Any, patched: bool) -> None:
    async def after(x: int, ctx: WorkflowContext) -> int:
        if not patched or ctx.patched("sync"):
            x = await ctx.call(double_sync, x)
        else:
            x = await ctx.call(double, x)
        return await ctx.call(double, x)

    change(after)
    assert bool(look()) is not patched


def test_a_timer_keeps_its_time(change: Change) -> None:
    async def before(x: int, ctx: WorkflowContext) -> int:
        await ctx.sleep(3600)
        return x

    async def after(x: int, ctx: WorkflowContext) -> int:
        await ctx.sleep(timedelta(days=30))
        return x

    change(before)
    quad.enqueue(3, key="task")
    drain(quad)
    change(after)
    assert look() == []
    change(quad_too.function)
    assert "step 0 was recorded as a timer" in found()


# Code that does not end


def test_a_loop_without_end_is_stopped(change: Change, begun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "PATIENCE", 0.2)

    async def after(x: int, ctx: WorkflowContext) -> int:
        while True:
            x = -x

    change(after)
    started = time.monotonic()
    assert "it did not come to an end within 0.2" in found()
    assert time.monotonic() - started < 5
    assert "pipeteer-check" not in {thread.name for thread in threading.enumerate()}


def test_after_some_loops_without_end_the_other_runs_are_left_out(
    change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "PATIENCE", 0.05)
    quad.enqueue_many(range(6))
    drain(quad)

    async def after(x: int, ctx: WorkflowContext) -> int:
        while True:
            pass

    change(after)
    texts = [finding.text for finding in look(quad)]
    assert ["did not come to an end" in text for text in texts] == [True] * 3 + [False] * 3
    assert "was not replayed" in texts[-1]


def test_within() -> None:
    assert within(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="it raised SystemExit"):
        within(5, sys.exit)
    stubborn = threading.Event()

    def never() -> None:
        while not stubborn.is_set():
            try:
                time.sleep(0.01)
            except BaseException:
                continue

    with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
        within(0.05, never)
    stubborn.set()


# Values


def raw(value: Any) -> Any:
    """JSON as another version of the code wrote it, past today's checks."""
    return models.Value(value, models.JSONField())


def test_inputs_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        echo_point.enqueue({"x": number, "y": 0}, key=str(number))  # type: ignore[arg-type]
    assert look(echo_point) == []
    plain(echo_point.Input, "default").filter(key="1").update(value=raw({"x": 1}))
    (finding,) = look(echo_point)
    assert (finding.kind, finding.pipeline, finding.key, finding.table) == ("value", "echo_point", "1", "Input")
    assert finding.id == echo_point.Input.objects.get(key="1").pk
    assert "y" in finding.text
    assert finding.stops


def test_outputs_that_nobody_consumed() -> None:
    rows = [echo_point.Output(key=str(n), value={"x": 1, "y": 2}, run_id=n) for n in range(2)]
    plain(echo_point.Output, "default").bulk_create(rows)
    assert look(echo_point) == []
    plain(echo_point.Output, "default").update(value=raw({"x": 1}))
    plain(echo_point.Output, "default").filter(run_id=0).update(consumed_at=timezone.now())
    (finding,) = look(echo_point)
    assert (finding.kind, finding.key, finding.table) == ("value", "1", "Output")


def test_results_that_live_runs_replay(begun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(double.__dict__, "signature", _returning(double, str | None))
    assert look(replay=False) == look()
    (finding,) = look()
    assert (finding.kind, finding.pipeline, finding.id, finding.step) == ("value", "quad", begun.id, 0)
    assert finding.text.startswith("the result of double: value: ")
    monkeypatch.undo()
    drain(double)  # the second one is there, not consumed
    monkeypatch.setitem(double.__dict__, "signature", _returning(double, str | None))
    assert [finding.step for finding in look()] == [0, 1]


def _returning(pipeline: Any, annotation: Any) -> Any:
    return replace(pipeline.signature, output=ValueType.of(annotation))


def test_messages_of_declared_types(begun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    quad.send("task", "rate", 1.5)
    quad.send("task", "news", "x")
    assert look() == []
    monkeypatch.setitem(quad.__dict__, "messages", {"rate": ValueType.of(str)})
    fits, named = look()
    assert (fits.kind, fits.id, named.kind) == ("value", begun.id, "unknown")
    assert "'rate'" in fits.text
    assert "'news'" in named.text


def test_pipelines_that_this_code_does_not_know(begun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(registry._pipelines, "double")
    (finding,) = look(quad, replay=False)
    assert (finding.kind, finding.step) == ("unknown", 0)
    assert "called double, which this code does not know" in finding.text
    monkeypatch.undo()
    monkeypatch.delitem(registry._pipelines, "quad")
    (finding,) = look(double)
    assert (finding.kind, finding.pipeline, finding.table) == ("unknown", "double", "Input")


def test_entries_that_were_given_up_are_told_apart(change: Change, begun: Any) -> None:
    change(chain.function)
    by_hand.engine(quad, failed_at=timezone.now(), available_at=None)
    (finding,) = look()
    assert (finding.failed, finding.stops) == (True, False)
    status, text = check("quad", "--values", "--replay")
    assert status == 0
    assert "replay (failed): quad 'task'" in text
    assert "1 of these are about entries that were given up before" in text


# Nothing is touched


def test_nothing_is_written_and_nothing_locked(change: Change, begun: Any) -> None:
    quad.send("task", "news", 1)
    change(chain.function)
    before = everything()
    reads = ("SELECT", "SHOW", "PRAGMA")
    for sql in statements(lambda: check("--replay", "--values")):
        assert sql.lstrip(" (\n").upper().startswith("SELECT"), sql
    for sql in statements(lambda: check("--replay")):
        # (Django asks SQLite about JSON inside a savepoint.)
        assert sql.lstrip(" (\n").upper().startswith((*reads, "SAVEPOINT", "RELEASE")), sql
        assert " FOR UPDATE" not in sql.upper()
        assert " FOR SHARE" not in sql.upper()
    assert everything() == before
    change(quad_too.function)
    drain()
    assert begun.result(timeout=1) == 12


def test_logs_stay_silent(change: Change, begun: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def after(x: int, ctx: WorkflowContext) -> int:
        ctx.log.info("before")
        x2 = await ctx.call(double, x)
        ctx.log.info("between")
        return await ctx.call(double, x2)

    change(after)
    with caplog.at_level(logging.DEBUG):
        assert look() == []
    assert caplog.records == []


# Beside running workers


class Mover:
    """Lets runs move on right after their records were read, so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int, move: Callable[[], None]) -> None:
        self.times, self._move, self._load = times, move, entries.load
        monkeypatch.setattr(entries, "load", self.load)

    def load(self, *arguments: Any) -> None:
        self._load(*arguments)
        if self.times:
            self.times -= 1
            self._move()


def _bump() -> None:
    plain(quad.Input, "default").update(epoch=models.F("epoch") + 1)


def test_a_run_that_moves_on_is_looked_at_again(begun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read is torn: its second step is missing from the record, although it has consumed it."""
    real = plain(quad.Step, "default").get(index=0)
    plain(quad.Step, "default").filter(index=0).delete()

    def mend() -> None:
        _bump()
        real.save(force_insert=True)

    Mover(monkeypatch, 1, mend)
    assert look() == []


def test_a_run_that_ends_is_no_finding(change: Change, begun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    change(chain.function)
    Mover(monkeypatch, 1, lambda: plain(quad.Input, "default").delete())
    assert look(quad) == []


def test_a_run_that_ends_while_it_is_replayed_is_no_finding(
    change: Change, begun: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(chain.function)
    real = replays.Replays._difference

    def difference(self: Any, each: Any) -> str | None:
        text = real(self, each)
        plain(quad.Input, "default").delete()
        return text

    monkeypatch.setattr(replays.Replays, "_difference", difference)
    assert look(quad) == []


def test_a_run_that_moves_on_and_differs_is_found(change: Change, begun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    change(chain.function)
    mover = Mover(monkeypatch, 4, _bump)
    found()
    assert mover.times == 0


def test_a_run_that_never_stands_still_is_named(change: Change, begun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    change(chain.function)
    Mover(monkeypatch, 1000, _bump)
    (finding,) = look()
    assert (finding.warning, finding.stops) == (True, False)
    assert "moved on" in finding.text


@pytest.mark.django_db(transaction=True)
def test_beside_a_worker() -> None:
    chain.enqueue_many([6] * 8)
    looks = 0
    over = threading.Event()

    def work() -> None:
        try:
            drain()
        finally:
            over.set()

    def watch() -> list[Finding]:
        nonlocal looks
        seen: list[Finding] = []
        while not over.is_set():
            seen += look(chain, registry.find("add_one"))
            looks += 1
        return seen

    worked, seen = by_hand.in_threads(work, watch)
    assert worked is None
    assert seen == []
    assert looks
    assert chain.Output.objects.count() == 8


# What it costs


def test_statements_do_not_grow_with_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    many(2)
    few = len(statements(lambda: look(chain)))
    plain(chain.Input, "default").delete()
    many(60)
    assert len(statements(lambda: look(chain))) == few
    monkeypatch.setattr(entries, "PAGE", 20)
    per_page = len(statements(lambda: look(chain)))
    assert few < per_page <= 3 * few


def test_memory_does_not_grow_with_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "PAGE", 10)
    # What is garbage, and waits for the collector, does not count.
    Mover(monkeypatch, 10_000, lambda: gc.collect() and None)
    many(20, steps=20)
    few = _peak()
    plain(chain.Step, "default").delete()
    plain(chain.Input, "default").delete()
    many(160, steps=20)
    assert _peak() < 2 * few  # for eight times the runs (drivers keep some statements)


def _peak() -> int:
    look(chain)
    tracemalloc.start()
    try:
        assert look(chain) == []
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_long_records_are_loaded_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    many(5, steps=9)  # and an open one
    monkeypatch.setattr(entries, "EVENTS", 20)
    sizes: list[int] = []
    real = entries.load
    monkeypatch.setattr(entries, "load", lambda *a: (sizes.append(len(a[2])), real(*a)))
    assert look(chain) == []
    assert sizes == [2, 2, 1]


# Settings and migrations


def test_migrations_that_have_not_run() -> None:
    labels = {"testapp", "pipeteer_django"}
    assert list(unapplied("default", labels)) == list(unwritten(labels)) == []
    MigrationRecorder.Migration.objects.filter(app="testapp").delete()
    (finding,) = unapplied("default", labels)
    assert (finding.kind, finding.text, finding.stops) == ("migration", "testapp.0001_initial has not run.", True)


def test_changes_without_a_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    field = models.IntegerField()
    field.set_attributes_from_name("extra")
    options = quad.Input._meta
    monkeypatch.setattr(options, "local_fields", [*options.local_fields, field])
    (finding,) = unwritten({"testapp"})
    assert finding.text == "testapp has no migration for this: Add field extra to quadinput"
    assert list(unwritten({"bareapp"})) == []


def test_tables_that_do_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        connection.introspection, "table_names", lambda *_: [MigrationRecorder.Migration._meta.db_table]
    )
    findings = [finding for finding in Gate([double, quad]).findings() if finding.kind == "migration"]
    names = ["doubleinput", "doubleoutput", "quadinput", "quadoutput", "quadstep", "quadmessage"]
    assert [finding.text for finding in findings] == [f"the table testapp_{name} does not exist." for name in names]
    assert [finding.pipeline for finding in findings] == ["double"] * 2 + ["quad"] * 4


@pytest.mark.django_db(transaction=True)
def test_tables_that_cannot_be_read_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """New code, old tables: a migration is missing, and what it will bring cannot be read."""
    MigrationRecorder.Migration.objects.filter(app="testapp").delete()
    try:
        monkeypatch.setattr(double.Input._meta, "db_table", "elsewhere")
        entries.select_rows.__globals__["_reading"].cache_clear()
        quad.enqueue(1)
        findings = [finding for finding in Gate([double, quad]).findings() if not finding.warning]
        assert ["could not be read before" in finding.text for finding in findings].count(True) == 1
        assert {finding.pipeline for finding in findings} == {"", "double"}
        with pytest.raises(CommandError, match="does not answer as it should") as caught:
            check("double", "--values")
        assert caught.value.returncode == 2
    finally:
        monkeypatch.undo()
        entries.select_rows.__globals__["_reading"].cache_clear()
        MigrationRecorder(connection).record_applied("testapp", "0001_initial")


def test_system_checks(settings: Any) -> None:
    settings.USE_TZ = False
    status, text = check("double")
    assert status == 1
    assert "(pipeteer.E007)" in text


# The command


def test_fine() -> None:
    status, text = check("--replay")
    assert status == 0
    assert "Everything can go on under this code." in text


def test_lines_counts_and_advice(change: Change, begun: Any) -> None:
    change(chain.function)
    assert check("--values")[0] == 0
    assert check("double", "--values", "--replay")[0] == 0
    status, text = check("quad", "double", "--values", "--replay")
    assert status == 1
    line, looked, advice, counts = text.splitlines()
    assert line.startswith(f"replay: quad 'task' (Input {begun.id}): step 0 was recorded as double(3), and the code ")
    assert looked == "Looked at 2 entries, 1 records of runs, 0 outputs; replayed 1 runs."
    assert advice == f"replay: {ADVICE['replay']}"
    assert counts == "Found: 1 replay."


def test_json(change: Change, begun: Any) -> None:
    change(chain.function)
    status, text = check("quad", "--replay", "--values", "--json")
    document = json.loads(text)
    assert status == 1
    (finding,) = document["findings"]
    assert finding["pipeline"] == "quad"
    assert finding["id"] == begun.id
    assert (document["ok"], document["stops"], document["counts"]) == (False, 1, {"replay": 1})
    assert document["looked_at"]["replays"] == 1
    change(quad_too.function)
    status, text = check("quad", "--replay", "--json")
    assert (status, json.loads(text)["ok"]) == (0, True)


def test_no_telling(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match="Did you mean double") as caught:
        check("duoble")
    assert caught.value.returncode == 2

    def broken(self: Gate) -> Iterator[Finding]:
        yield Finding(kind="value", text="x")
        raise OperationalError("server closed the connection")

    monkeypatch.setattr(Gate, "findings", broken)
    out = io.StringIO()
    with pytest.raises(CommandError, match="server closed") as caught:
        call_command("pipeteer_check", "--json", stdout=out)
    assert caught.value.returncode == 2
    document = json.loads(out.getvalue())
    assert (document["ok"], len(document["findings"])) == (False, 1)
    assert "server closed" in document["error"]
