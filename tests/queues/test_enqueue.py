"""Every way to put an entry into a queue, what it refuses, and the wake-up that leaves on commit."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.forms import modelform_factory
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks

from pipeteer_django.exceptions import DuplicateKey, EngineColumn, EntryChanged, InvalidValue, NotReady
from pipeteer_django.pipelines.registry import Registry
from pipeteer_django.queues.claim import plain
from pipeteer_django.signals import entry_enqueued
from pipeteer_django.testing import drain
from tests.queues import by_hand
from tests.testapp.models import Item
from tests.testapp.pipelines import (
    Colour,
    Point,
    double,
    echo_colour,
    echo_literal,
    echo_optional,
    echo_point,
    no_input,
    process_item,
    quad,
)

pytestmark = pytest.mark.django_db

Commit = DjangoCaptureOnCommitCallbacks
SOON = timedelta(minutes=5)


def keys(pipeline: Any = double) -> list[str]:
    return list(pipeline.Input.objects.order_by("id").values_list("key", flat=True))


# The ways in


def test_create() -> None:
    quad.Input.objects.create(key="task", value=1, output="my-output")
    drain(quad, double)
    assert list(quad.Output.objects.values_list("key", "value", "output")) == [("task", 4, "my-output")]


def test_save_of_a_new_instance() -> None:
    entry = double.Input(key="task", value=1)
    entry.save()
    assert (entry.output, entry.epoch, by_hand.claim_one(double).id) == ("output", 0, entry.pk)


def test_bulk_create() -> None:
    double.Input.objects.bulk_create([double.Input(key=str(n), value=n) for n in range(5)])
    assert [(claim.key, claim.value) for claim in by_hand.claim_all(double)] == [(str(n), n) for n in range(5)]


def test_bulk_create_ignoring_conflicts() -> None:
    double.enqueue(1, key="a")
    double.Input.objects.bulk_create([double.Input(key=key, value=2) for key in "ab"], ignore_conflicts=True)
    assert list(double.Input.objects.order_by("id").values_list("key", "value")) == [("a", 1), ("b", 2)]


def test_a_bulk_created_entry_can_be_saved() -> None:
    (entry,) = double.Input.objects.bulk_create([double.Input(key="a", value=1)])
    entry.value = 2
    entry.save()
    assert double.Input.objects.get().value == 2


@pytest.mark.parametrize("by_position", [True, False])
def test_bulk_create_never_overwrites(by_position: bool) -> None:
    options: dict[str, Any] = {"update_fields": ["value"], "unique_fields": ["key"]}
    with pytest.raises(EngineColumn, match="overwrite"):
        if by_position:
            double.Input.objects.bulk_create([], None, False, True, **options)
        else:
            double.Input.objects.bulk_create([], update_conflicts=True, **options)


def test_get_or_create() -> None:
    first, created = double.Input.objects.get_or_create(key="a", defaults={"value": 1})
    second, again = double.Input.objects.get_or_create(key="a", defaults={"value": 2})
    assert (first.pk, created, again, second.value) == (second.pk, True, False, 1)


def test_update_or_create() -> None:
    double.Input.objects.update_or_create(key="a", defaults={"value": 1})
    entry, created = double.Input.objects.update_or_create(key="a", defaults={"value": lambda: 2})
    assert (entry.value, entry.epoch, created, keys()) == (2, 1, False, ["a"])


def test_update_or_create_with_other_values_for_a_new_one() -> None:
    double.Input.objects.update_or_create(key="a", defaults={"value": 1}, create_defaults={"value": 5})
    assert double.Input.objects.get().value == 5


def test_form() -> None:
    form = modelform_factory(quad.Input, fields="__all__")(
        {"key": "task", "value": "1", "output": "o", "priority": "3"}
    )
    assert form.is_valid(), form.errors
    form.save()
    assert (by_hand.claim_one(quad, priority=3).value, set(form.fields)) == (
        1,
        {"key", "value", "output", "priority", "available_at"},
    )


def test_form_with_an_empty_due_time_means_now() -> None:
    fields = ["key", "value", "output", "priority", "available_at"]
    form = modelform_factory(double.Input, fields=fields)(
        {"key": "task", "value": "1", "output": "o", "priority": "0", "available_at": ""}
    )
    assert form.is_valid(), form.errors
    form.save()
    assert by_hand.claim_one(double).key == "task"


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("key", "", "required"),
        ("key", "double:1:0:0", "child"),
        ("key", "a\x07b", "U\\+0007"),
        ("key", "taken", "already exists"),
        ("value", "x", "whole number"),
        ("priority", "101", "100"),
        ("priority", "-101", "-100"),
    ],
)
def test_form_refuses(field: str, text: str, message: str) -> None:
    double.enqueue(1, key="taken")
    form = modelform_factory(double.Input, fields="__all__")(
        {"key": "task", "value": "1", "output": "o", "priority": "0"} | {field: text}
    )
    assert not form.is_valid()
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(str(form.errors))


def test_fixture(tmp_path: Path) -> None:
    file = tmp_path / "entries.json"
    fields = {"key": "task", "value": {"x": 1, "y": 2}}
    file.write_text(json.dumps([{"model": "testapp.echopointinput", "fields": fields}]))
    call_command("loaddata", str(file), verbosity=0)
    drain(echo_point)
    assert echo_point.Output.objects.get().value == Point(1, 2)


def test_fixture_with_a_value_that_does_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "entries.json"
    file.write_text(json.dumps([{"model": "testapp.echopointinput", "fields": {"key": "task", "value": {"x": "?"}}}]))
    with pytest.raises(Exception, match=r"value\.x"):
        call_command("loaddata", str(file), verbosity=0)


def test_a_dumped_run_loads_as_it_was(tmp_path: Path) -> None:
    quad.enqueue(1, key="task")
    drain(quad)
    file = tmp_path / "run.json"
    call_command("dumpdata", "testapp.quadinput", "testapp.quadstep", "testapp.doubleinput", output=str(file))
    was = _rows()
    quad.Step.objects.all().delete()
    for pipeline in (quad, double):
        plain(pipeline.Input, "default").delete()
    call_command("loaddata", str(file), verbosity=0)
    assert _rows() == was
    drain()
    assert quad.Output.objects.get().value == 4


def _rows() -> list[dict[str, Any]]:
    # Without the moments: JSON keeps milliseconds of them.
    rows = [row for pipeline in (quad, double) for row in plain(pipeline.Input, "default").values()]
    return [{name: value for name, value in row.items() if not isinstance(value, datetime)} for row in rows]


def test_enqueue() -> None:
    run = quad.enqueue(1, key="task", output="my-output")
    drain(quad, double)
    assert (run.key, run.output, run.result(timeout=0), str(run)) == ("task", "my-output", 4, "quad 'task'")


def test_aenqueue() -> None:
    run = async_to_sync(double.aenqueue)(1, key="task", priority=5)
    assert double.Input.objects.get(pk=run.id).priority == 5


def test_enqueue_many() -> None:
    runs = double.enqueue_many(range(2500), output="many", priority=1)
    assert [run.id for run in runs] == sorted(run.id for run in runs)
    assert len({run.key for run in runs}) == double.Input.objects.filter(output="many", priority=1).count() == 2500
    assert double.enqueue_many([]) == []


def test_enqueue_many_keeps_nothing_if_one_value_does_not_fit() -> None:
    with pytest.raises(InvalidValue):
        double.enqueue_many([*range(2000), "x"])  # type: ignore[list-item]
    assert not double.Input.objects.exists()


def test_a_key_is_made_up_where_there_is_none() -> None:
    assert len({double.enqueue(1).key for _ in range(10)}) == 10


def test_no_value_for_an_activity_without_parameter() -> None:
    no_input.enqueue(key="task")
    no_input.enqueue(None)
    drain(no_input)
    assert [row.value for row in no_input.Output.objects.all()] == ["done", "done"]


def test_a_model_is_a_foreign_key() -> None:
    item = Item.objects.create(name="pen")
    for value in (item, item.pk):
        process_item.enqueue(value)
    process_item.Input.objects.create(key="by hand", value=item)
    assert [entry.value for entry in item.process_item_inputs.all()] == [item] * 3  # type: ignore[attr-defined]


def test_an_enum_and_an_optional() -> None:
    echo_colour.enqueue(Colour.RED, key="a")
    echo_optional.enqueue(None, key="b")
    drain(echo_colour, echo_optional)
    assert (echo_colour.Output.objects.get().value, echo_optional.Output.objects.get().value) == (Colour.RED, None)


# When, and in which order


def test_delay() -> None:
    double.enqueue(1, delay=SOON)
    assert (by_hand.claim_all(double), double.Input.objects.scheduled().count()) == ([], 1)
    by_hand.overdue(double)
    assert by_hand.claim_one(double).value == 1


def test_run_after() -> None:
    double.enqueue(1, run_after=timezone.now() + SOON)
    double.enqueue(2, run_after=timezone.now() - SOON)
    assert by_hand.claim_one(double).value == 2
    assert by_hand.claim_all(double) == []


def test_priority() -> None:
    for priority in (0, 100, -100):
        double.enqueue(priority, priority=priority)
    targets = [(double, priority) for priority in (100, 0, -100)]
    assert [claim.value for claim in by_hand.turn((), *targets, slots=10).claims] == [100, 0, -100]


@pytest.mark.parametrize(
    "options",
    [
        {"delay": -SOON},
        {"delay": 5},
        {"delay": timedelta.max},
        {"run_after": "tomorrow"},
        {"run_after": datetime(2030, 1, 1)},
        {"delay": SOON, "run_after": datetime(2030, 1, 1, tzinfo=UTC)},
        {"priority": 101},
        {"priority": -101},
        {"priority": "high"},
        {"priority": None},
        {"priority": 0.5},
        {"key": ""},
        {"key": "x" * 201},
        {"key": "a\nb"},
        {"key": "a\x00b"},
        {"key": "\ud800"},
        {"key": "quad:1:0:0"},
        {"output": ""},
        {"output": "a\tb"},
    ],
    ids=str,
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    (name, *_) = options
    with pytest.raises(ValueError, match=name):
        double.enqueue(1, **options)
    assert not double.Input.objects.exists()


@pytest.mark.parametrize("value", ["x", 1.5, None, 2**63, [1], print], ids=repr)
def test_values_that_do_not_fit(value: Any) -> None:
    with pytest.raises(InvalidValue, match="value"):
        double.enqueue(value)
    with pytest.raises(InvalidValue, match="value"):
        double.Input.objects.create(key="task", value=value)
    with pytest.raises(InvalidValue, match="value"):
        double.Input.objects.bulk_create([double.Input(key="task", value=value)])
    assert not double.Input.objects.exists()


def test_the_message_names_the_place_inside_the_value() -> None:
    with pytest.raises(InvalidValue, match=r"value\.y"):
        echo_point.enqueue({"x": 1, "y": "?"})  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="sideways"):
        echo_literal.enqueue("sideways")  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["'; DROP TABLE x; --", "../..", "%s %(a)s {0}", "ключ 🔑", " spaced ", "\u202etxt"])
def test_a_key_is_only_a_name(key: str) -> None:
    double.enqueue(1, key=key)
    drain(double)
    assert double.Output.objects.get(key=key).key == key


# Keys


def test_duplicate_key() -> None:
    run = double.enqueue(1, key="task")
    with pytest.raises(DuplicateKey, match=rf"double already has an entry 'task' \(run {run.id}\)"):
        double.enqueue(2, key="task")
    assert keys() == ["task"]


def test_existing() -> None:
    run = double.enqueue(1, key="task", output="first")
    assert double.enqueue(2, key="task", output="second", existing=True) == run
    assert double.Input.objects.get().value == 1


def test_a_duplicate_leaves_the_outer_transaction_usable() -> None:
    with transaction.atomic():
        double.enqueue(1, key="a")
        with pytest.raises(DuplicateKey):
            double.enqueue(2, key="a")
        double.enqueue(3, key="a", existing=True)
        double.enqueue(4, key="b")
    assert keys() == ["a", "b"]


@pytest.mark.django_db(transaction=True)
def test_a_duplicate_outside_a_transaction() -> None:
    run = double.enqueue(1, key="a")
    with pytest.raises(DuplicateKey):
        double.enqueue(2, key="a")
    assert double.enqueue(2, key="a", existing=True) == run


def test_keys_differ_as_soon_as_one_character_does() -> None:
    for key in ("a", "A", "á", "a ", "a  "):
        double.enqueue(1, key=key)
    assert double.Input.objects.count() == 5


def test_a_key_may_come_back() -> None:
    first = double.enqueue(1, key="task")
    drain(double)
    second = double.enqueue(2, key="task")
    drain(double)
    assert second.id > first.id
    assert (first.result(timeout=0), second.result(timeout=0)) == (2, 4)


def test_the_holder_of_a_key_may_finish_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    double.enqueue(1, key="task")
    manager = double.Input.objects
    duplicate = type(manager)._duplicate

    def finish_first(self: Any, *arguments: Any) -> Any:
        monkeypatch.setattr(type(manager), "_duplicate", duplicate)
        drain(double)
        return duplicate(self, *arguments)

    monkeypatch.setattr(type(manager), "_duplicate", finish_first)
    run = double.enqueue(2, key="task")
    assert double.Input.objects.get(pk=run.id).value == 2


@pytest.mark.django_db(transaction=True)
def test_an_error_that_is_no_duplicate_key() -> None:
    with pytest.raises(IntegrityError):
        process_item.enqueue(12345)  # type: ignore[arg-type]


@pytest.mark.django_db(transaction=True)
def test_many_callers_and_one_key() -> None:
    outcomes = by_hand.in_threads(*(lambda: double.enqueue(1, key="task") for _ in range(6)))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["DuplicateKey"] * 5 + ["Run"]


# The transaction and the wake-up


@pytest.mark.django_db(transaction=True)
def test_a_rollback_leaves_no_row_and_no_wakeup(wakeups: list[str]) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        double.enqueue(1)
        double.enqueue_many([2, 3])
        _ = 1 / 0
    assert (keys(), wakeups) == ([], [])


@pytest.mark.django_db(transaction=True)
def test_the_wakeup_leaves_with_the_commit(wakeups: list[str]) -> None:
    with transaction.atomic():
        double.enqueue(1)
        assert wakeups == []
    assert wakeups == ["double"]


@pytest.mark.django_db(transaction=True)
def test_one_wakeup_per_topic_and_transaction(wakeups: list[str]) -> None:
    for _ in range(2):
        with transaction.atomic():
            for number in range(3):
                double.enqueue(number)
                quad.Input.objects.create(key=f"task {number} {len(wakeups)}", value=number)
            double.enqueue_many(range(3))
    assert wakeups == ["double", "quad"] * 2


@pytest.mark.django_db(transaction=True)
def test_outside_a_transaction_each_write_wakes(wakeups: list[str]) -> None:
    double.enqueue(1)
    double.Input.objects.bulk_create([double.Input(key="a", value=1)])
    double.Input.objects.filter(key="a").update(value=2)
    entry = double.Input.objects.get(key="a")
    entry.priority = 5
    entry.save()
    double.notify()
    assert wakeups == ["double"] * 5


def test_a_savepoint_that_rolls_back_does_not_swallow_the_hint(
    wakeups: list[str], django_capture_on_commit_callbacks: Commit
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            double.enqueue(1)
            _ = 1 / 0
        double.enqueue(2)
    assert (wakeups, double.Input.objects.get().value) == (["double"], 2)


def test_a_savepoint_that_rolls_back_takes_only_its_own_hint(
    wakeups: list[str], django_capture_on_commit_callbacks: Commit
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        double.enqueue(1)
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            double.enqueue(2)
            quad.enqueue(2)
            _ = 1 / 0
    assert wakeups == ["double"]


@pytest.mark.django_db(transaction=True)
def test_a_rolled_back_transaction_does_not_swallow_the_next_ones_hint(wakeups: list[str]) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        double.enqueue(1)
        _ = 1 / 0
    with transaction.atomic():
        double.enqueue(2)
    with transaction.atomic():
        double.enqueue(3)
    assert wakeups == ["double"] * 2


@pytest.mark.django_db(transaction=True)
def test_enqueue_within_an_on_commit_hook(wakeups: list[str]) -> None:
    with transaction.atomic():
        double.enqueue(1)
        transaction.on_commit(lambda: double.enqueue(2) and None)
    assert wakeups == ["double"] * 2


@pytest.mark.django_db(transaction=True)
def test_a_hook_that_raises_does_not_lose_the_wakeup(wakeups: list[str]) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with transaction.atomic():
        transaction.on_commit(fail, robust=True)
        double.enqueue(1)
    assert wakeups == ["double"]


@pytest.mark.django_db(transaction=True)
def test_a_wakeup_that_fails_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(topic: str) -> None:
        raise OSError("no network")

    monkeypatch.setattr("pipeteer_django.queues.hints.publish", fail)
    with transaction.atomic():
        double.enqueue(1, key="task")
    assert keys() == ["task"]


def test_the_signal_names_the_keys(django_capture_on_commit_callbacks: Commit) -> None:
    heard: list[Any] = []

    def hear(sender: Any, keys: list[str], **kwargs: Any) -> None:
        heard.append((sender.id, keys))

    entry_enqueued.connect(hear)
    try:
        with django_capture_on_commit_callbacks(execute=True):
            double.enqueue(1, key="a")
            double.Input.objects.bulk_create([double.Input(key=key, value=1) for key in "bc"])
            double.Input.objects.filter(key="a").update(value=2)
    finally:
        entry_enqueued.disconnect(hear)
    assert heard == [("double", ["a"]), ("double", ["b", "c"])]


# Copies


def test_a_copy_is_an_entry_of_its_own() -> None:
    double.enqueue(1, key="first", priority=3)
    by_hand.claim_one(double, priority=3)
    copy = double.Input.objects.get()
    copy.pk, copy.key, copy._state.adding = None, "second", True
    copy.save()
    assert by_hand.claim_one(double, priority=3).key == "second"
    assert plain(double.Input, "default").get(key="second").reserved_by == "by hand"


def test_a_finished_entry_cannot_be_put_back_under_its_id() -> None:
    run = double.enqueue(1, key="task")
    entries = list(double.Input.objects.all())
    drain(double)
    double.Input.objects.bulk_create(entries)
    assert double.Input.objects.get().pk > run.id


def test_a_copy_of_a_child_has_no_caller() -> None:
    quad.enqueue(1, key="task")
    drain(quad)
    child = double.Input.objects.get()
    child.pk, child.key, child._state.adding = None, "copy", True
    child.save()
    assert double.Input.objects.filter(key="copy").values_list("caller", "step_id").get() == ("", None)


def test_before_django_has_loaded() -> None:
    unattached = object.__new__(type(double))
    unattached.__dict__.update(double.__dict__, models={})
    with pytest.raises(NotReady, match="INSTALLED_APPS"):
        unattached.enqueue(1)
    assert list(Registry()) == []


@pytest.mark.django_db(transaction=True)
def test_a_stale_copy_in_hand_cannot_resurrect(wakeups: list[str]) -> None:
    run = double.enqueue(1, key="task")
    entry = double.Input.objects.get(pk=run.id)
    drain(double)
    with pytest.raises(EntryChanged):
        entry.save()
    assert (keys(), connection.in_atomic_block) == ([], False)
