"""A run that is dumped in one database goes on in another: `pipeteer_dump`, `dumpdata`, `loaddata`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.utils import timezone

from pipeteer_django.pipelines.outcome import Done
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.copies import rows_of_run
from pipeteer_django.queues.database import keep_ids_above, snapshot
from pipeteer_django.testing import drain
from tests.conftest import ROOT
from tests.queues import by_hand
from tests.queues.by_hand import drain_anyway
from tests.testapp.models import Item
from tests.testapp.pipelines import (
    about,
    approval,
    approve,
    boom,
    double,
    mailbox,
    parent,
    process_item,
    quad,
    record_flaky,
    scripted,
    scripted_child,
)

pytestmark = pytest.mark.django_db

VENDOR = connection.vendor
TABLES = ("Input", "Output", "Step", "Message")

Play = Callable[[Any, Callable[..., Any]], None]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Gives a pipeline other code."""
    return lambda pipeline, function: monkeypatch.setattr(pipeline, "function", function)


def dump(pipeline: Any, key: str, folder: Path) -> str:
    """The run as a file."""
    file = folder / "run.json"
    call_command("pipeteer_dump", pipeline.id, key, output=file, verbosity=0)
    return str(file)


def forget() -> None:
    """What another machine knows: nothing."""
    for pipeline in registry:
        for model in pipeline.models.values():
            plain(model, "default")._raw_delete("default")


def load(file: str) -> None:
    call_command("loaddata", file, verbosity=0)


def rows() -> dict[str, list[dict[str, Any]]]:
    """Everything."""
    models = [model for pipeline in registry for model in pipeline.models.values()]
    found = {model.__name__: list(plain(model, "default").order_by("id").values()) for model in models}
    return {name: content for name, content in found.items() if content}


def models_in(file: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in json.loads(Path(file).read_text()):
        counts[row["model"]] = counts.get(row["model"], 0) + 1
    return counts


# What is in it


def test_a_live_run_with_its_open_children(tmp_path: Path) -> None:
    parent.enqueue(1, key="task")
    quad.enqueue(1, key="other")
    drain(parent, quad)
    file = dump(parent, "task", tmp_path)
    assert models_in(file) == {
        "testapp.parentinput": 1, "testapp.parentstep": 1, "testapp.quadinput": 1, "testapp.quadstep": 1,
        "testapp.doubleinput": 1,
    }  # fmt: skip
    quad.Input.objects.filter(key="other").delete()
    quad.Step.objects.exclude(run_id=quad.Input.objects.get().pk).delete()
    was = rows()
    forget()
    load(file)
    assert rows() == was  # to the microsecond
    drain()
    assert parent.result("task", timeout=0) == 5


def test_a_run_that_is_over(tmp_path: Path) -> None:
    run = quad.enqueue(1, key="task", output="mine")
    drain()
    was = rows()
    file = dump(quad, "task", tmp_path)
    assert models_in(file) == {"testapp.quadoutput": 1, "testapp.quadstep": 2}
    forget()
    load(file)
    assert rows() == was
    assert run.result(timeout=0) == 4


def test_all_branches_and_messages(play: Play, tmp_path: Path) -> None:
    mailbox.enqueue(2, key="m")
    mailbox.send("m", "note", "one")
    drain()
    mailbox.restart("m")
    drain()
    mailbox.send("m", "note", "two")
    was = rows()
    file = dump(mailbox, "m", tmp_path)
    assert models_in(file)["testapp.mailboxmessage"] == 2
    forget()
    load(file)
    assert rows() == was
    mailbox.send("m", "approved", True)
    drain()
    assert mailbox.result("m", timeout=0) == ["one", "two", True]


def test_the_newest_run_of_a_key(tmp_path: Path) -> None:
    for value in (1, 2):
        quad.enqueue(value, key="task")
        drain()
    assert '"value": 8' in Path(dump(quad, "task", tmp_path)).read_text()
    quad.enqueue(3, key="task")
    assert models_in(dump(quad, "task", tmp_path)) == {"testapp.quadinput": 1}


def test_an_activitys_entry(tmp_path: Path) -> None:
    double.enqueue(2, key="task")
    file = dump(double, "task", tmp_path)
    forget()
    load(file)
    drain()
    assert double.result("task", timeout=0) == 4


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    for arguments, message in [(("quad", "task"), "no run under the key 'task'"), (("quat", "x"), "quad")]:
        with pytest.raises(CommandError, match=message):
            call_command("pipeteer_dump", *arguments)
    quad.enqueue(1, key="task")
    with pytest.raises(CommandError, match="cannot be written"):
        call_command("pipeteer_dump", "quad", "task", output=tmp_path / "no" / "folder")
    out = StringIO()
    call_command("pipeteer_dump", "quad", "task", stdout=out)
    assert json.loads(out.getvalue())[0]["fields"]["key"] == "task"


# The same run, elsewhere


async def remembers(x: Any, ctx: Any) -> list[str]:
    """Hands on everything that a replay must find again: times, chance, the order of events."""
    said = [ctx.now().isoformat(), str(ctx.uuid()), ctx.random.random()]
    await ctx.call(scripted_child, said)
    await ctx.sleep(0.0123456)
    said.append(ctx.now().isoformat())
    await ctx.call(double, 1)
    said.append(ctx.now().isoformat())
    await ctx.receive("word")
    said.append(ctx.now().isoformat())
    await ctx.call(scripted_child, said)
    await ctx.call(approve, "Enough?")
    return [str(part) for part in said]


async def echo(x: Any, ctx: Any) -> Any:
    """Gives back what it was given."""
    return x


@pytest.mark.parametrize("how", ["pipeteer_dump", "dumpdata"])
def test_a_replay_sees_what_it_saw_before(how: str, play: Play, tmp_path: Path) -> None:
    play(scripted, remembers)
    play(scripted_child, echo)
    run = scripted.enqueue(None, key="task")
    drain(skip_time=timedelta(minutes=1))
    scripted.send("task", "word")
    drain(skip_time=timedelta(minutes=1))
    if how == "dumpdata":
        names = [f"testapp.{id}{role}".lower() for id in ("scripted", "scriptedchild") for role in TABLES]
        file = str(tmp_path / "run.json")
        call_command("dumpdata", *names, "testapp.approveinput", output=file)
    else:
        file = dump(scripted, "task", tmp_path)
    expected = plain(scripted.Step, "default").filter(pipeline="scripted_child").order_by("-index")[0].param
    forget()
    load(file)
    approve.push(approve.Input.objects.get().key, True)
    drain()
    assert run.result(timeout=0) == [str(part) for part in expected]


def test_a_run_under_way_is_released(tmp_path: Path) -> None:
    run = quad.enqueue(1, key="task")
    drain(quad)
    claim = by_hand.claim_one(double)
    file = dump(quad, "task", tmp_path)
    forget()
    load(file)
    entry = double.Input.objects.get()
    assert (entry.reserved_by, entry.attempt, entry.crashes) == ("", 0, 0)
    assert entry.epoch > claim.epoch
    assert double.Input.objects.ready().count() == 1
    assert len(by_hand.settle(claim, Done(7)).lost) == 1
    drain()
    assert (run.result(timeout=0), double.Input.objects.count()) == (4, 0)


def test_the_worker_that_kept_a_run_is_not_waited_for(tmp_path: Path) -> None:
    approval.enqueue("May I?", key="task")
    drain()
    by_hand.engine(approval, holder="another machine")
    file = dump(approval, "task", tmp_path)
    forget()
    load(file)
    approve.push(approve.Input.objects.get().key, True)
    drain()
    assert approval.result("task", timeout=0) == "yes"


def test_failed_and_backing_off_as_they_were(tmp_path: Path) -> None:
    boom.enqueue("bang", key="given up")
    record_flaky.enqueue(1, key="waiting")
    drain_anyway()
    was = rows()
    file = str(tmp_path / "all.json")
    files = [dump(boom, "given up", tmp_path)]
    (tmp_path / "run.json").rename(file)
    files = [file, dump(record_flaky, "waiting", tmp_path)]
    forget()
    for each in files:
        load(each)
    assert rows() == was
    boom.Input.objects.retry()
    by_hand.overdue(record_flaky)
    drain_anyway()
    assert (boom.Input.objects.get().attempt, record_flaky.result("waiting", timeout=0)) == (1, 2)


def test_the_idempotency_key_goes_with_the_run(play: Play, tmp_path: Path) -> None:
    seen: list[str] = []

    def body(x: int, ctx: Any) -> dict[str, Any]:
        seen.append(ctx.idempotency_key)
        if len(seen) < 3:
            raise OSError("not yet")
        return {}

    play(about, body)
    about.enqueue(1, key="task")
    for how in ("dumpdata", "pipeteer_dump"):
        drain_anyway(about)
        file = str(tmp_path / f"{how}.json")
        arguments = ["testapp.aboutinput"] if how == "dumpdata" else ["about", "task"]
        call_command(how, *arguments, output=file, verbosity=0)
        forget()
        load(file)
        by_hand.overdue(about)
    drain(about)
    assert len(seen) == 3
    assert len(set(seen)) == 1


def test_over_what_is_there_it_is_an_edit(tmp_path: Path) -> None:
    """The state of the file, as a move of the row: whoever has it loses it."""
    run = quad.enqueue(1, key="task")
    drain(quad)
    file = dump(quad, "task", tmp_path)
    (claim,) = by_hand.claim_all(double)
    load(file)
    assert len(by_hand.settle(claim, Done(7)).lost) == 1
    drain()
    assert run.result(timeout=0) == 4


def test_another_run_under_the_same_key_is_not_overwritten(tmp_path: Path) -> None:
    quad.enqueue(1, key="task")
    file = dump(quad, "task", tmp_path)
    forget()
    quad.enqueue(2, key="task")
    if quad.Input.objects.get().pk != json.loads(Path(file).read_text())[0]["pk"]:
        with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
            load(file)


def test_rows_that_values_refer_to_come_with_the_projects_own(tmp_path: Path) -> None:
    item = Item.objects.create(name="pen")
    process_item.enqueue(item, key="task")
    file = dump(process_item, "task", tmp_path)
    items = str(tmp_path / "items.json")
    call_command("dumpdata", "testapp.item", output=items)
    forget()
    Item.objects.all().delete()
    call_command("loaddata", file, items, verbosity=0)
    drain()
    assert Item.objects.get().processed


# Ids


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("live", [False, True])
def test_the_ids_of_runs_that_are_over_stay_theirs(live: bool, tmp_path: Path) -> None:
    start = quad.enqueue(0, key="old").id
    keep_ids_above("default", quad.Input, start + 50)
    run = quad.enqueue(1, key="over")
    drain()
    files = [dump(quad, "over", tmp_path)]
    if live:
        # PostgreSQL's sequence is set by loaddata to what is in the table: less than the id of the run that is over.
        files.append(str(tmp_path / "live.json"))
        Path(files[1]).write_text(
            json.dumps([{"model": "testapp.quadinput", "pk": start, "fields": {"key": "live", "value": 2}}])
        )
    forget()
    _forget_ids(start)
    call_command("loaddata", *files, verbosity=0)
    new = quad.enqueue(3, key="new")
    assert new.id > run.id
    drain()
    assert (run.result(timeout=0), new.result(timeout=0)) == (4, 12)


def _forget_ids(start: int) -> None:
    """The sequence of a database that never saw these runs."""
    table = quad.Input._meta.db_table
    with connection.cursor() as cursor:
        if VENDOR == "sqlite":
            cursor.execute("UPDATE sqlite_sequence SET seq = %s WHERE name = %s", [start - 1, table])
        elif VENDOR == "postgresql":
            cursor.execute("SELECT setval(pg_get_serial_sequence(%s, 'id'), %s)", [table, max(start - 1, 1)])
        else:
            cursor.execute(f"ALTER TABLE {table} AUTO_INCREMENT = {start}")


@pytest.mark.django_db(transaction=True)
def test_ids_are_never_lowered() -> None:
    first = double.enqueue(1).id
    keep_ids_above("default", double.Input, first + 10)
    keep_ids_above("default", double.Input, 1)
    second = double.enqueue(1).id
    assert second > first + 10
    double.Input.objects.all().delete()


# Running runs


@pytest.mark.django_db(transaction=True)
def test_a_dump_sees_one_moment() -> None:
    double.enqueue(1)

    def write() -> None:
        double.enqueue(2)
        connections.close_all()

    with snapshot("default"):
        assert double.Input.objects.count() == 1
        thread = threading.Thread(target=write)
        thread.start()
        thread.join(10)
        assert double.Input.objects.count() == 1
    assert double.Input.objects.count() == 2
    if VENDOR == "sqlite":
        return  # it has no other isolation that it could be left in
    with connection.cursor() as cursor:
        statement = "SHOW transaction_isolation" if VENDOR == "postgresql" else "SELECT @@tx_isolation"
        cursor.execute(statement)
        assert cursor.fetchone()[0].replace("-", " ").lower() == "read committed"  # for the next, all is as it was


def test_rows_of_a_run_need_few_statements(django_assert_num_queries: Any) -> None:
    parent.enqueue(1, key="task")
    drain(parent, quad)
    with django_assert_num_queries(14):
        rows_of_run(parent, "default", "task")


# Another machine


@pytest.mark.django_db(transaction=True)
def test_another_machine(tmp_path: Path) -> None:
    """A database of its own, other processes: SQLite, whatever this one is."""
    parent.enqueue(3, key="task")
    drain(parent, quad)
    file = dump(parent, "task", tmp_path)
    forget()
    there = os.environ | {
        "DJANGO_SETTINGS_MODULE": "tests.settings", "TEST_DATABASE": "sqlite", "PIPETEER_TEST_WAKEUPS": "0",
        "PIPETEER_TEST_DATABASE_NAME": str(tmp_path / "there.sqlite3"), "PYTHONPATH": str(ROOT),
    }  # fmt: skip

    def manage(*arguments: str) -> str:
        command = [sys.executable, str(ROOT / "manage.py"), *arguments]
        done = subprocess.run(command, env=there, cwd=ROOT, capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stderr
        return done.stdout

    manage("migrate", "--run-syncdb", "-v", "0")
    manage("loaddata", file)
    manage("pipeteer_worker", "parent", "quad", "double", "--drain")
    dumped = json.loads(manage("pipeteer_dump", "parent", "task"))
    assert [row["fields"]["value"] for row in dumped if row["model"] == "testapp.parentoutput"] == [13]
    assert timezone.now().isoformat() > dumped[0]["fields"]["finished_at"]
