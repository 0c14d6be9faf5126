"""A row belongs to two worlds: what users' ORM code may do to it, and what it may not."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin import ModelAdmin, site
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection, models, transaction
from django.db.models import F, ProtectedError
from django.db.models.functions import Concat
from django.test import RequestFactory
from django.utils import timezone

from pipeteer_django.exceptions import EngineColumn, EntryChanged, InvalidValue
from pipeteer_django.pipelines.outcome import Done, Waiting
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.guards import USER_COLUMNS
from pipeteer_django.queues.sweep import Sweeper
from pipeteer_django.testing import drain
from tests.queues import by_hand
from tests.testapp.models import Item
from tests.testapp.pipelines import Point, boom, double, echo_point, process_item, quad
from tests.trouble.models import Parcel
from tests.trouble.pipelines import ask, deliver_parcel, shipping, waits, waits_anyway, waits_for_waits

pytestmark = pytest.mark.django_db

committed = pytest.mark.django_db(transaction=True)
needs_row_locks = pytest.mark.skipif("sqlite" in str(connection.vendor), reason="SQLite locks no rows")
ENGINE_COLUMNS = sorted({field.name for field in double.Input._meta.concrete_fields} - set(USER_COLUMNS))


def entry_of(pipeline: Pipeline[Any, Any], value: Any = 1, **options: Any) -> Any:
    run = pipeline.enqueue(value, **{"key": "task", **options})
    return pipeline.Input.objects.get(pk=run.id)


def sweep(*pipelines: Pipeline[Any, Any]) -> set[str]:
    return Sweeper(pipelines, "default").sweep()


# save()


def test_save_edits() -> None:
    entry = entry_of(double)
    entry.value, entry.priority, entry.output, entry.key = 5, 7, "other", "renamed"
    entry.save()
    claim = by_hand.claim_one(double, priority=7)
    assert (claim.value, claim.output, claim.key, claim.epoch) == (5, "other", "renamed", 2)


def test_save_may_be_repeated() -> None:
    entry = entry_of(double)
    for value in range(3):
        entry.value = value
        entry.save()
    assert (double.Input.objects.get().value, entry.epoch) == (2, 3)


def test_save_after_create() -> None:
    entry = double.Input.objects.create(key="task", value=1)
    entry.value = 2
    entry.save()
    assert double.Input.objects.get().value == 2


@pytest.mark.parametrize("meanwhile", ["claimed", "settled", "edited", "deleted", "released"])
def test_a_stale_save_changes_nothing(meanwhile: str) -> None:
    entry = entry_of(double)
    if meanwhile == "edited":
        double.Input.objects.update(value=2)
    elif meanwhile == "deleted":
        double.delete("task")
    else:
        claim = by_hand.claim_one(double)
        if meanwhile == "settled":
            by_hand.settle(claim, Done(2))
        elif meanwhile == "released":
            double.Input.objects.all().release()
    before = by_hand.state(entry)
    entry.value = 99
    with pytest.raises(EntryChanged, match="load it again"):
        entry.save()
    with pytest.raises(EntryChanged):
        entry.save(update_fields=["value"])
    with pytest.raises(EntryChanged):
        entry.save(force_insert=True)
    assert by_hand.state(entry) == before


def test_a_stale_save_of_what_has_gone_to_sleep_and_woken() -> None:
    entry = entry_of(quad)
    drain()
    quad.enqueue(5, key="task")
    with pytest.raises(EntryChanged):
        entry.save()
    assert quad.Input.objects.get().value == 5


def test_refreshing_gives_the_right_to_save_back() -> None:
    entry = entry_of(double)
    double.Input.objects.update(priority=3)
    entry.refresh_from_db()
    entry.value = 9
    entry.save()
    assert double.Input.objects.values_list("value", "priority").get() == (9, 3)


def test_save_writes_only_the_users_columns() -> None:
    entry = entry_of(double)
    for name in ENGINE_COLUMNS:
        if name not in ("id", "epoch"):
            text = "2020-01-01T00:00Z" if name.endswith("_at") else "1"
            setattr(entry, name, entry._meta.get_field(name).to_python(text))
    entry.value = 2
    before = dict(by_hand.state(entry))
    entry.save()
    assert dict(by_hand.state(entry)) == before | {"value": 2, "epoch": 1}


def test_changing_the_epoch_in_hand_does_not_help() -> None:
    entry = entry_of(double)
    by_hand.claim_one(double)
    entry.epoch = 1
    with pytest.raises(EntryChanged):
        entry.save()


@pytest.mark.parametrize("name", ENGINE_COLUMNS)
def test_save_refuses_engine_columns_by_name(name: str) -> None:
    with pytest.raises(EngineColumn, match=name):
        entry_of(double).save(update_fields=["value", name])


def test_save_of_a_running_entry_releases_it() -> None:
    entry_of(double)
    claim = by_hand.claim_one(double)
    entry = double.Input.objects.get()
    entry.value = 5
    entry.save()
    assert (entry.reserved_by, entry.attempt, entry.epoch) == ("", 0, claim.epoch + 1)
    assert len(by_hand.settle(claim, Done(2)).lost) == 1
    assert (by_hand.claim_one(double).value, double.Output.objects.count()) == (5, 0)


def test_save_of_one_column_leaves_the_others() -> None:
    entry = entry_of(double)
    entry.value, entry.priority = 5, 50
    entry.save(update_fields=["value"])
    assert double.Input.objects.values_list("value", "priority").get() == (5, 0)
    entry.save(update_fields=[])
    assert entry.epoch == 1


def test_save_leaves_the_due_time_alone_unless_it_was_changed() -> None:
    due = timezone.now() + timedelta(hours=1)
    entry = entry_of(double, run_after=due)
    entry.value = 2
    entry.save()
    assert double.Input.objects.get().available_at == due
    entry.available_at = due - timedelta(hours=2)
    entry.save()
    assert by_hand.claim_one(double).value == 2


def test_an_emptied_due_time_means_now() -> None:
    entry = entry_of(double, delay=timedelta(hours=1))
    entry.available_at = None
    entry.save()
    assert by_hand.claim_one(double).value == 1


def test_save_neither_wakes_a_sleeper_nor_revives_the_failed() -> None:
    sleeper, failed = entry_of(quad), entry_of(boom, "no")
    drain(quad, boom, raise_failures=False)
    for entry in (sleeper, failed):
        entry.refresh_from_db()
        entry.priority, entry.available_at = 5, timezone.now()
        entry.save()
        assert entry.available_at is None
    assert (quad.Input.objects.waiting().count(), boom.Input.objects.failed().count()) == (1, 1)


def test_save_checks() -> None:
    entry = entry_of(double)
    for name, value in {"value": "x", "key": "", "output": "", "priority": 101}.items():
        changed = double.Input.objects.get()
        setattr(changed, name, value)
        with pytest.raises(InvalidValue, match=name):
            changed.save()
    assert double.Input.objects.get().epoch == entry.epoch


def test_save_of_what_was_loaded_in_part() -> None:
    entry_of(double)
    part = double.Input.objects.defer("value", "output").get()
    part.priority = 5
    part.save()
    assert double.Input.objects.values_list("value", "priority").get() == (1, 5)
    with pytest.raises(EntryChanged, match="epoch"):
        double.Input.objects.only("key").get().save()


def test_save_of_a_foreign_key() -> None:
    first, second = (Item.objects.create(name=name) for name in "ab")
    entry = entry_of(process_item, first)
    entry.value = second
    entry.save()
    assert process_item.Input.objects.get().value == second
    entry.value_id = first.pk
    entry.save(update_fields=["value"])
    assert process_item.Input.objects.get().value == first


def test_a_fixture_loaded_over_an_entry_moves_it(tmp_path: Any) -> None:
    file = str(tmp_path / "entry.json")
    entry = entry_of(double)
    call_command("dumpdata", "testapp.doubleinput", output=file)
    claim = by_hand.claim_one(double)
    call_command("loaddata", file, verbosity=0)
    entry.refresh_from_db()
    assert entry.epoch > claim.epoch
    assert len(by_hand.settle(claim, Done(2)).lost) == 1


# QuerySet.update, bulk_update


@pytest.mark.parametrize("name", ENGINE_COLUMNS)
def test_update_refuses_engine_columns(name: str) -> None:
    entry = entry_of(double)
    before = by_hand.state(entry)
    with pytest.raises(EngineColumn, match=name):
        double.Input.objects.update(**{name: 1})
    assert by_hand.state(entry) == before


@pytest.mark.parametrize("columns", [{"pk": 5}, {"step": 5}, {"value": 2, "epoch": 0}], ids=str)
def test_update_refuses_engine_columns_under_other_names(columns: dict[str, Any]) -> None:
    entry_of(double)
    with pytest.raises(EngineColumn):
        double.Input.objects.update(**columns)


@pytest.mark.parametrize(
    "columns",
    [
        {"value": "x"},
        {"value": None},
        {"priority": 101},
        {"key": ""},
        {"key": "a\nb"},
        {"key": "double:1:0:0"},
        {"output": ""},
    ],
    ids=str,
)
def test_update_validates(columns: dict[str, Any]) -> None:
    entry_of(double)
    with pytest.raises(InvalidValue, match=next(iter(columns))):
        double.Input.objects.update(**columns)
    assert double.Input.objects.get().epoch == 0


def test_update_validates_json() -> None:
    entry_of(echo_point, Point(1, 2))
    with pytest.raises(InvalidValue, match=r"value\.y"):
        echo_point.Input.objects.update(value={"x": 1, "y": "?"})
    echo_point.Input.objects.update(value=Point(3, 4))
    assert echo_point.Input.objects.get().value == Point(3, 4)


def test_update_moves_the_entry() -> None:
    stale = entry_of(double)
    assert double.Input.objects.filter(value=1).update(value=F("value") + 1, priority=3) == 1
    assert double.Input.objects.values_list("value", "priority", "epoch").get() == (2, 3, 1)
    with pytest.raises(EntryChanged):
        stale.save()


def test_update_releases_a_running_entry() -> None:
    entry_of(double)
    claim = by_hand.claim_one(double)
    double.Input.objects.update(value=5)
    assert double.Input.objects.values_list("reserved_by", "attempt", "epoch").get() == ("", 0, 2)
    assert len(by_hand.settle(claim, Done(2)).lost) == 1
    assert by_hand.claim_one(double).value == 5


def test_update_can_put_a_running_entry_off() -> None:
    entry_of(double)
    by_hand.claim_one(double)
    due = timezone.now() + timedelta(hours=1)
    double.Input.objects.update(available_at=due)
    assert double.Input.objects.scheduled().get().available_at == due


def test_update_of_the_due_time() -> None:
    entry_of(double)
    double.Input.objects.update(available_at=F("available_at") + timedelta(hours=1))
    assert double.Input.objects.scheduled().count() == 1
    double.Input.objects.update(available_at=None)
    assert double.Input.objects.ready().count() == 1


def test_update_neither_wakes_a_sleeper_nor_revives_the_failed() -> None:
    entry_of(quad)
    entry_of(boom, "no")
    drain(quad, boom, raise_failures=False)
    for pipeline in (quad, boom):
        pipeline.Input.objects.update(available_at=timezone.now())
    assert (quad.Input.objects.waiting().count(), boom.Input.objects.failed().count()) == (1, 1)
    drain(double)
    drain(quad, double)
    assert quad.Output.objects.get().value == 4


def test_update_through_a_relation_and_with_an_expression() -> None:
    pen, ink = (Item.objects.create(name=name) for name in ("pen", "ink"))
    process_item.enqueue(pen, key="a")
    process_item.enqueue(ink, key="b")
    process_item.Input.objects.filter(value__name="pen").update(key=Concat(F("key"), models.Value("!")))
    assert sorted(process_item.Input.objects.values_list("key", flat=True)) == ["a!", "b"]
    pen.process_item_inputs.update(value=ink)  # type: ignore[attr-defined]
    assert ink.process_item_inputs.count() == 2  # type: ignore[attr-defined]


def test_bulk_update_is_refused() -> None:
    entry = entry_of(double)
    with pytest.raises(EngineColumn, match="Use update"):
        double.Input.objects.bulk_update([entry], ["value"])


# delete


def child_of_waits_anyway() -> Any:
    waits_anyway.enqueue("ready?", key="parent")
    drain(waits_anyway)
    return ask.Input.objects.get()


def parent_says() -> str:
    drain(waits_anyway)
    return str(waits_anyway.result("parent", timeout=0))


def test_deleting_a_child_fails_its_step() -> None:
    assert child_of_waits_anyway().delete() == (1, {"trouble.AskInput": 1})
    assert parent_says() == "ask: Deleted"


def test_deleting_a_queryset_of_children_fails_their_steps() -> None:
    child_of_waits_anyway()
    assert ask.Input.objects.filter(value__startswith="ready").delete() == (1, {"trouble.AskInput": 1})
    assert parent_says() == "ask: Deleted"
    assert ask.Input.objects.all().delete() == (0, {})


def test_the_admins_delete_selected_fails_the_step() -> None:
    child_of_waits_anyway()
    request = RequestFactory().post("/")
    request.user = User(is_superuser=True)
    ModelAdmin(ask.Input, site).delete_queryset(request, ask.Input.objects.all())
    assert parent_says() == "ask: Deleted"


def test_deleting_a_running_child_refuses_its_result() -> None:
    quad.enqueue(1, key="task")
    drain(quad)
    claim = by_hand.claim_one(double)
    double.Input.objects.get().delete()
    assert len(by_hand.settle(claim, Done(2)).lost) == 1
    drain(raise_failures=False)
    assert "Deleted" in quad.Input.objects.failed().get().error


def test_deleting_a_parent_takes_its_children_along() -> None:
    waits_for_waits.enqueue("ready?", key="task")
    drain(waits_for_waits, waits)
    assert (waits.Input.objects.count(), ask.Input.objects.count()) == (1, 2)
    assert waits_for_waits.delete("task")
    assert not waits.Input.objects.exists()
    assert not ask.Input.objects.exists()


def test_deleting_the_child_workflow_in_the_middle() -> None:
    waits_for_waits.enqueue("ready?", key="task")
    drain(waits_for_waits, waits)
    waits.Input.objects.get().delete()
    assert not ask.Input.objects.exists()
    drain(waits_for_waits, raise_failures=False)
    assert "waits: Deleted" in waits_for_waits.Input.objects.failed().get().error


def test_deleting_twice() -> None:
    entry = entry_of(double)
    entry.delete()
    assert entry.delete() == (0, {})


def test_deleting_a_slice() -> None:
    double.enqueue_many(range(5))
    assert double.Input.objects.order_by("value")[:2].delete()[0] == 2
    assert sorted(double.Input.objects.values_list("value", flat=True)) == [2, 3, 4]


def test_pending_work_protects_what_it_is_about() -> None:
    item = Item.objects.create(name="pen")
    process_item.enqueue(item)
    with pytest.raises(ProtectedError), transaction.atomic():
        item.delete()
    drain(process_item)
    item.delete()
    assert not process_item.Output.everything.exists()


def test_a_cascade_is_seen_by_the_sweep() -> None:
    parcel = Parcel.objects.create(name="p")
    shipping.enqueue(parcel.pk, key="task")
    drain(shipping)
    parcel.delete()
    assert not deliver_parcel.Input.objects.exists()
    assert sweep(shipping) == {"shipping"}
    drain(shipping)
    assert shipping.result("task", timeout=0) == "Vanished"


def test_a_raw_delete_of_a_child_is_seen_by_the_sweep() -> None:
    child_of_waits_anyway()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM trouble_askinput")
    assert sweep(ask, waits_anyway) == {"waits_anyway"}
    assert sweep(ask, waits_anyway) == set()
    assert parent_says() == "ask: Vanished"


def test_a_sweep_leaves_alone_what_is_well() -> None:
    child_of_waits_anyway()
    before = by_hand.state(waits_anyway.Input.objects.get())
    for _ in range(2):
        sweep(ask, waits_anyway)
    assert by_hand.state(waits_anyway.Input.objects.get()) == before
    assert ask.Input.objects.count() == 1


def test_a_done_step_that_nobody_was_told_of_is_seen_by_the_sweep() -> None:
    child_of_waits_anyway()
    plain(waits_anyway.Step, "default").update(done_at=timezone.now(), result="yes")
    plain(ask.Input, "default").delete()
    assert sweep(waits_anyway) == {"waits_anyway"}
    assert parent_says() == "yes"


def test_the_child_of_a_cancelled_step_is_deleted_by_the_sweep() -> None:
    child_of_waits_anyway()
    plain(waits_anyway.Step, "default").update(cancelled_at=timezone.now())
    sweep(ask)
    assert not ask.Input.objects.exists()


# People


def test_retry_only_moves_what_failed() -> None:
    running, waiting = entry_of(double), entry_of(quad)
    by_hand.claim_one(double)
    drain(quad)
    before = [by_hand.state(entry) for entry in (running, waiting)]
    assert (double.Input.objects.all().retry(), quad.Input.objects.all().retry()) == (0, 0)
    assert [by_hand.state(entry) for entry in (running, waiting)] == before


def test_retry_starts_afresh(wakeups: list[str], django_capture_on_commit_callbacks: Any) -> None:
    entry = entry_of(boom, "no")
    drain(boom, raise_failures=False)
    with django_capture_on_commit_callbacks(execute=True):
        assert boom.Input.objects.all().retry() == 1
    entry.refresh_from_db()
    assert (entry.attempt, entry.crashes, entry.failed_at, "Boom" in entry.error) == (0, 0, None, True)
    assert wakeups == ["boom"]
    assert boom.Input.objects.all().retry() == 0


def test_release_only_moves_what_is_reserved() -> None:
    entry = entry_of(double, delay=timedelta(hours=1))
    before = by_hand.state(entry)
    assert double.Input.objects.all().release() == 0
    assert by_hand.state(entry) == before


def test_release_refuses_the_late_result() -> None:
    entry_of(double)
    claim = by_hand.claim_one(double)
    assert double.Input.objects.all().release() == 1
    assert len(by_hand.settle(claim, Done(2)).lost) == 1
    again = by_hand.claim_one(double)
    assert (again.attempt, again.crashes) == (1, 0)


def test_a_claimed_run_that_is_edited_cannot_go_to_sleep() -> None:
    entry_of(quad)
    claim = by_hand.claim_one(quad)
    quad.Input.objects.update(priority=1)
    assert len(by_hand.settle(claim, Waiting()).lost) == 1
    assert not quad.Input.objects.waiting().exists()


def at_once(*work: Any) -> list[Any]:
    """Run all as nearly at the same time as can be."""
    together = threading.Barrier(len(work), timeout=10)

    def started(one: Any) -> Any:
        together.wait()
        return one()

    return by_hand.in_threads(*(lambda one=one: started(one) for one in work))


@committed
def test_two_people_retry_at_once() -> None:
    entry_of(boom, "no")
    drain(boom, raise_failures=False)
    retry = boom.Input.objects.all().retry
    assert sorted(at_once(retry, retry)) == [0, 1]


@committed
def test_two_people_release_at_once() -> None:
    entry_of(double)
    by_hand.claim_one(double)
    release = double.Input.objects.all().release
    assert sorted(at_once(release, release)) == [0, 1]
    assert double.Input.objects.get().attempt == 0


@committed
def test_two_people_save_at_once() -> None:
    entry_of(double)

    def edit(value: int) -> Any:
        entry = double.Input.objects.get()
        entry.value = value
        both_loaded.wait()
        return entry.save()

    both_loaded = threading.Barrier(2, timeout=10)
    results = by_hand.in_threads(lambda: edit(10), lambda: edit(20))
    assert sorted(type(result).__name__ for result in results) == ["EntryChanged", "NoneType"]


@committed
def test_two_people_push_at_once() -> None:
    ask.enqueue("ready?", key="task")
    results = at_once(lambda: ask.push("task", "a"), lambda: ask.push("task", "b"), lambda: ask.delete("task"))
    assert sorted(results) == [False, False, True]
    assert ask.Output.objects.count() + ask.Input.objects.count() <= 1


@committed
def test_two_people_delete_at_once() -> None:
    child_of_waits_anyway()
    delete = ask.Input.objects.all().delete
    assert sorted(count for count, _ in at_once(delete, delete)) == [0, 1]
    assert parent_says() == "ask: Deleted"


@committed
def test_two_people_restart_at_once() -> None:
    waits.enqueue("ready?", key="task")
    drain(waits)
    at_once(lambda: waits.restart("task"), lambda: waits.restart("task"))
    drain(waits)
    assert ask.Input.objects.count() == 2


@needs_row_locks
@committed
def test_a_retry_waits_for_the_worker_that_holds_the_row() -> None:
    entry_of(double)
    with transaction.atomic():
        plain(double.Input, "default").select_for_update().get()
        claims = by_hand.in_threads(lambda: by_hand.claim_all(double))
    assert claims == [[]]
    assert by_hand.claim_one(double).attempt == 1
