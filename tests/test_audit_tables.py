"""`pipeteer_audit` and the invariants of the tables: a database spoilt by hand in each of the ways there are."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, connections, models
from django.test import override_settings
from django.utils import timezone

from pipeteer_django.auditing import records
from pipeteer_django.auditing.audit import Audit
from pipeteer_django.auditing.rules import RULES
from pipeteer_django.auditing.trail import Trail
from pipeteer_django.pipelines.record import TIMER
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.sweep import Sweeper
from pipeteer_django.testing import drain
from tests.queues.by_hand import engine
from tests.testapp.pipelines import double, mailbox, quad

pytestmark = pytest.mark.django_db

World = Any


@pytest.fixture
def world() -> World:
    """A run that is over, one that waits for its second child, and an entry of its own."""
    over = quad.enqueue(1, key="over").id
    drain(quad, double)
    live = quad.enqueue(2, key="live").id
    drain(quad)
    drain(double)
    drain(quad)
    double.enqueue(3, key="root")
    child = double.Input.objects.exclude(key="root").get()
    return SimpleNamespace(over=over, live=live, child=child, step=child.step_id)


def rules(*pipelines: Any) -> set[str]:
    chosen = pipelines or [pipeline for pipeline in registry if pipeline.attached]
    return {finding.rule for finding in Audit(chosen, "default").findings()}


def entries(pipeline: Any, **which: Any) -> Any:
    return plain(pipeline.Input, "default").filter(**which)


def steps(world: World, **which: Any) -> Any:
    return plain(quad.Step, "default").filter(**(which or {"id": world.step}))


def delete(rows: Any) -> None:
    """As raw SQL would: nobody is told."""
    rows._raw_delete("default")


def timer(world: World, sleeps_until: bool) -> None:
    due = timezone.now() + timedelta(hours=1)
    quad.Step.objects.create(run_id=world.live, index=2, pipeline=TIMER, param=due.isoformat())
    entries(quad, id=world.live).update(available_at=due if sleeps_until else None)


def add_message(world: World, **columns: Any) -> None:
    quad.Message.objects.create(run_id=world.live, name="note", **columns)


def second_child(world: World) -> None:
    twin = double.Input(key="twin", value=1, caller="quad", step_id=world.step)
    plain(double.Input, "default").bulk_create([twin])


def answer_unheard(world: World) -> None:
    steps(world).update(done_at=timezone.now(), result=8)
    delete(entries(double, id=world.child.pk))


NOW = timezone.now()
SPOILT: list[tuple[set[str], Callable[[World], Any]]] = [
    ({"E1"}, lambda w: plain(quad.Output, "default").create(key="live", value=1, run_id=w.live)),
    ({"E2"}, lambda w: entries(double, key="root").update(available_at=None)),
    ({"E3"}, lambda w: entries(quad, id=w.live).update(reserved_by="somebody")),
    ({"E3"}, lambda w: entries(quad, id=w.live).update(failed_at=NOW)),
    ({"E3"}, lambda w: entries(double, key="root").update(failed_at=NOW)),
    ({"E3"}, lambda w: entries(double, key="root").update(reserved_by="somebody", available_at=None)),
    ({"E3"}, lambda w: entries(double, key="root").update(reserved_by="somebody")),
    ({"E4"}, lambda w: delete(steps(w))),
    ({"E5"}, lambda w: steps(w).update(done_at=NOW, result=8, order=2)),
    ({"E6"}, lambda w: steps(w).update(cancelled_at=NOW)),
    ({"E7"}, second_child),
    ({"E8", "S7"}, lambda w: steps(w).update(pipeline="add_one")),
    ({"E9", "S7"}, lambda w: entries(double, id=w.child.pk).update(caller="")),
    ({"E9", "S7"}, lambda w: entries(double, id=w.child.pk).update(step_id=None)),
    ({"E10", "S7"}, lambda w: entries(double, id=w.child.pk).update(caller="of_tomorrow")),
    ({"S1"}, lambda w: steps(w, run_id=w.over, index=0).update(error={"type": "X", "message": "", "traceback": ""})),
    ({"S2"}, lambda w: steps(w).update(result=8)),
    ({"S2"}, lambda w: steps(w).update(order=2)),
    ({"S2"}, lambda w: add_message(w, order=2)),
    ({"S3"}, lambda w: steps(w, run_id=w.over).update(order=1)),
    ({"S3"}, lambda w: add_message(w, order=1, branch=0)),
    ({"S4"}, lambda w: steps(w, run_id=w.live, index=0).update(order=3)),
    ({"S5"}, lambda w: steps(w).update(index=4)),
    ({"S5"}, lambda w: delete(steps(w, run_id=w.live, index=0))),
    ({"S6"}, lambda w: entries(quad, id=w.live).update(branch=1)),
    ({"S6"}, lambda w: delete(entries(quad, id=w.live))),
    ({"S6"}, lambda w: steps(w, run_id=w.over, index=1).update(done_at=None, result=None, order=None)),
    ({"S7"}, lambda w: delete(entries(double, id=w.child.pk))),
    ({"S8"}, answer_unheard),
    ({"S9"}, add_message),
    ({"S10"}, lambda w: timer(w, sleeps_until=False)),
    ({"S11"}, lambda w: plain(double.Output, "default").create(key="z", value=1, run_id=w.child.pk - 1)),
    ({"E8", "S12"}, lambda w: steps(w).update(pipeline="of_tomorrow")),
]


def test_nothing_is_wrong(world: World) -> None:
    timer(world, sleeps_until=True)
    assert rules() == set()


@pytest.mark.parametrize(
    ("expected", "spoil"), SPOILT, ids=[f"{n}-{'-'.join(sorted(r))}" for n, (r, _) in enumerate(SPOILT)]
)
def test_spoilt(world: World, expected: set[str], spoil: Callable[[World], Any]) -> None:
    assert rules() == set()
    spoil(world)
    assert rules() == expected


def test_each_rule_about_tables_is_broken_once() -> None:
    broken = {rule for expected, _ in SPOILT for rule in expected} | {"O1"}
    assert broken == {id for id in RULES if id[0] in "EOS"}


@pytest.mark.django_db(transaction=True)
def test_two_outputs_of_a_run() -> None:
    """The database itself sees to that there are none, so its constraint has to go first."""
    double.enqueue(1)
    drain(double)
    unique = double.Output._meta.get_field("run_id")
    free = models.BigIntegerField()
    free.model = double.Output
    free.set_attributes_from_name("run_id")
    free.concrete = True
    with connection.schema_editor() as editor:
        editor.alter_field(double.Output, unique, free)
    try:
        assert rules(double) == set()
        run = double.Output.objects.get().run_id
        plain(double.Output, "default").create(key="again", value=2, run_id=run)
        assert rules(double) == {"O1"}
    finally:
        delete(plain(double.Output, "default"))
        with connection.schema_editor() as editor:
            editor.alter_field(double.Output, free, unique)


def test_messages_of_a_run_without_steps() -> None:
    mailbox.enqueue(1, key="a")
    drain(mailbox)
    mailbox.send("a", "note", "x")
    mailbox.send("a", "note", "y")
    drain(mailbox)
    assert rules(mailbox) == set()
    plain(mailbox.Message, "default").update(order=1)
    assert rules(mailbox) == {"S3"}


@pytest.mark.parametrize(("expected", "spoil"), [(e, s) for e, s in SPOILT if e in ({"E6"}, {"S7"}, {"S8"})])
def test_what_is_pending_a_sweep_repairs(world: World, expected: set[str], spoil: Callable[[World], Any]) -> None:
    spoil(world)
    assert rules() == expected
    assert {RULES[id].weight for id in expected} == {"pending"}
    sweeper = Sweeper([quad, double], "default")
    for _ in range(3):
        sweeper.sweep()
    assert rules() == set()


def test_runs_are_never_cut_in_two(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    steps(world, run_id=world.live, index=0).update(order=3)
    for size in range(1, 6):
        monkeypatch.setattr(records, "AT_ONCE", size)
        assert rules() == {"S4"}


def test_a_child_that_cleans_up_outlives_its_step() -> None:
    outer = registry.find("parent")
    outer.enqueue(1, key="a")
    drain(outer)
    drain(outer, quad)
    outer.cancel("a")
    drain(outer)
    assert rules() == set()
    assert quad.Input.objects.exists()


def test_values_are_not_read(world: World) -> None:
    with connection.execute_wrapper(_refuse_values):
        assert rules(quad, double) == set()


def _refuse_values(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
    words = sql.replace('"', " ").replace("`", " ").replace(".", " ").replace(",", " ").split()
    assert "value" not in words, sql
    return execute(sql, params, many, context)


@pytest.mark.django_db(transaction=True)
def test_it_sees_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker goes on between two of its pages."""
    quad.enqueue_many(range(3))
    drain(quad)

    def work() -> None:
        drain(quad, double)
        connections.close_all()

    look = records.Records._vanished

    def late(*arguments: Any) -> Any:
        """Between the open steps and their children all goes on."""
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        return look(*arguments)

    monkeypatch.setattr(records.Records, "_vanished", late)
    assert rules(quad, double) == set()
    assert not quad.Input.objects.exists()


# The command


def run(*arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    try:
        call_command("pipeteer_audit", *arguments, stdout=out)
    except SystemExit as end:
        return int(end.code or 0), out.getvalue()
    except CommandError as error:
        return error.returncode, str(error)
    return 0, out.getvalue()


def test_all_is_well(world: World) -> None:
    status, text = run()
    assert status == 0
    assert text.splitlines() == ["Looked at 3 entries, 1 outputs, 4 steps.", "All is well."]


def test_an_empty_database() -> None:
    assert run("quad") == (0, "Looked at nothing: all tables are empty.\nAll is well.\n")


def test_what_is_wrong_is_explained(world: World) -> None:
    delete(steps(world))
    status, text = run("quad", "double")
    assert status == 1
    key, run_id = world.child.key, world.child.pk
    assert f"wrong E4: double {key!r} (run {run_id}): step {world.step} of quad does not exist" in text
    for part in (RULES["E4"].sentence, RULES["E4"].means, RULES["E4"].advice, "1 findings are wrong."):
        assert part in text


def test_only_the_pipelines_named(world: World) -> None:
    engine(double, available_at=None)
    assert run("quad")[0] == 0
    assert run("double")[0] == 1


def test_what_is_pending_is_wrong_only_at_rest(world: World) -> None:
    delete(entries(double, id=world.child.pk))
    status, text = run()
    assert status == 0
    assert "pending S7" in text
    assert "Nothing is wrong." in text
    assert run("--at-rest")[0] == 1


def test_json(world: World) -> None:
    delete(steps(world))
    status, text = run("--json")
    assert status == 1
    document = json.loads(text)
    (finding,) = document["findings"]
    assert (finding["rule"], finding["pipeline"], finding["run"]) == ("E4", "double", world.child.pk)
    assert finding["advice"] == RULES["E4"].advice
    assert (document["ok"], document["counts"], document["looked_at"]["entries"]) == (False, {"E4": 1}, 3)


def test_with_a_trail(tmp_path: Path) -> None:
    trail = Trail(tmp_path)
    trail.write("enqueued", "double", runs=[10_000_000], keys=["gone"])
    trail.write("enqueued", "of_yesterday", runs=[1], keys=["x"])
    trail.disconnect()
    status, text = run("--trail", str(tmp_path))
    assert status == 1
    assert "wrong T3: double 'gone' (run 10000000): it is neither in its queue nor in the outputs" in text
    assert "double: 1 enqueued ≠ 0 outputs + 1 lost." in text
    assert "The trail also speaks of of_yesterday, which this code does not know." in text
    with override_settings(PIPETEER={"AUDIT": str(tmp_path)}):
        assert run()[0] == 1
        assert run("--no-trail")[0] == 0


def test_a_question_that_cannot_be_answered(tmp_path: Path) -> None:
    assert run("qad")[0] == 2
    status, text = run("--database", "nowhere")
    assert status == 2
    assert "no database 'nowhere'" in text
    status, text = run("--trail", str(tmp_path))
    assert status == 2
    assert "has no trail" in text


def test_another_alias(world: World) -> None:
    assert run("--database", "default")[0] == 0
