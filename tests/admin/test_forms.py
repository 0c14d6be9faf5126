"""The form of an entry: compare and set, and who may do what."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin import site
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.core.exceptions import ImproperlyConfigured
from django.forms import ModelForm
from django.test import Client
from django.utils import timezone

from pipeteer_django.admin import InputAdmin
from pipeteer_django.models import Queue, Worker
from pipeteer_django.pipelines.outcome import Done
from pipeteer_django.queues.claim import plain
from pipeteer_django.worker.attempts import run_workflow
from tests.admin.conftest import PEOPLE, page_of, person, said, url
from tests.admin_values.browser import Page
from tests.queues import by_hand
from tests.testapp.models import Item
from tests.testapp.pipelines import (
    Point,
    double,
    echo_colour,
    echo_literal,
    echo_point,
    nothing,
    process_item,
    quad,
)

pytestmark = pytest.mark.django_db


def entry_of(pipeline: Any = double, value: Any = 1, **options: Any) -> Any:
    run = pipeline.enqueue(value, **{"key": "task", **options})
    return pipeline.Input.objects.get(pk=run.id)


def shown(client: Client, entry: Any) -> dict[str, str]:
    """The data that a browser would post back for the page as it is now."""
    pairs = dict(Page(page_of(client.get(url(type(entry), "change", entry.pk)))).pairs)
    return {name: text for name, text in pairs.items() if name != "csrfmiddlewaretoken"}


def save(client: Client, entry: Any, data: dict[str, Any]) -> Any:
    return client.post(url(type(entry), "change", entry.pk), data, follow=True)


# Editing


def test_an_edit_writes_what_was_changed(boss: Client) -> None:
    entry = entry_of(delay=timedelta(hours=1))
    page = save(boss, entry, shown(boss, entry) | {"value": "5", "output": "other", "key": "renamed"})
    assert "was changed successfully" in said(page)[0]
    now = double.Input.objects.get()
    assert (now.value, now.output, now.key, now.epoch) == (5, "other", "renamed", 1)
    assert now.available_at == entry.available_at  # to the microsecond
    assert LogEntry.objects.get().action_flag == CHANGE


def test_saving_without_a_change_moves_nothing(boss: Client) -> None:
    entry = entry_of()
    claim = by_hand.claim_one(double)
    entry.refresh_from_db()
    before = by_hand.state(entry)
    save(boss, entry, shown(boss, entry))
    assert by_hand.state(entry) == before
    assert by_hand.settle(claim, Done(2)).done


def test_an_edit_of_a_running_entry_releases_it(boss: Client) -> None:
    entry = entry_of()
    claim = by_hand.claim_one(double)
    by_hand.engine(double, available_at=timezone.now() + timedelta(minutes=1))  # however slow this machine is
    assert "A worker is running this entry" in page_of(boss.get(url(double.Input, "change", entry.pk)))
    data = shown(boss, entry)
    by_hand.engine(double, available_at=timezone.now() + timedelta(minutes=2))  # renewed
    save(boss, entry, data | {"value": "5"})
    assert len(by_hand.settle(claim, Done(2)).lost) == 1
    assert by_hand.claim_one(double).value == 5


def claimed(entry: Any) -> None:
    by_hand.claim_one(double)


def settled(entry: Any) -> None:
    by_hand.settle(by_hand.claim_one(double), Done(2))


def edited(entry: Any) -> None:
    double.Input.objects.update(value=7)


def failed(entry: Any) -> None:
    by_hand.engine(double, epoch=entry.epoch + 1, failed_at=timezone.now(), available_at=None)


def deleted(entry: Any) -> None:
    entry.delete()


def released(entry: Any) -> None:
    claimed(entry)
    double.Input.objects.all().release()


def used_again(entry: Any) -> None:
    settled(entry)
    double.enqueue(3, key="task")


MEANWHILE = [claimed, settled, edited, failed, deleted, released, used_again]


def everything() -> list[Any]:
    return [list(plain(model, "default").order_by("pk").values()) for model in (double.Input, double.Output)]


@pytest.mark.parametrize("meanwhile", MEANWHILE)
def test_a_stale_page_changes_nothing(meanwhile: Callable[[Any], None], boss: Client) -> None:
    entry = entry_of()
    data = shown(boss, entry) | {"value": "99", "available_at_0": "", "available_at_1": ""}
    meanwhile(entry)
    before = everything()
    page = save(boss, entry, data)
    assert page.status_code == 200
    assert everything() == before
    assert not LogEntry.objects.exists()
    if double.Input.objects.filter(pk=entry.pk).exists():
        assert "It changed meanwhile" in page_of(page)
        assert 'value="99"' in page_of(page)  # what was typed is not lost
    else:
        assert "Perhaps it was deleted?" in said(page)[0]


@pytest.mark.parametrize("meanwhile", MEANWHILE)
def test_what_moves_between_the_check_and_the_save(
    meanwhile: Callable[[Any], None], boss: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_of()
    data = shown(boss, entry) | {"value": "99"}
    after: list[Any] = []
    save_model = InputAdmin.save_model

    def late(self: Any, *arguments: Any) -> None:
        if not after:
            meanwhile(double.Input.objects.get(pk=entry.pk))
            after.append(everything())
        save_model(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(InputAdmin, "save_model", late)
        page = boss.post(url(double.Input, "change", entry.pk), data)
    assert page.status_code == 302
    assert "It changed meanwhile" in said(boss.get(url(double.Input)))[0]
    # Here the other one's change is part of the request's own transaction, and is rolled back with it.
    assert double.Input.objects.get().value == 1
    assert not LogEntry.objects.exists()


def test_a_page_without_its_epoch_saves_nothing(boss: Client) -> None:
    entry = entry_of()
    for epoch in ("", "-1", "x", "9" * 40, None):
        data = shown(boss, entry) | {"value": "99", "loaded_epoch": epoch}
        if epoch is None:
            del data["loaded_epoch"]
        assert save(boss, entry, data).status_code == 200
        assert double.Input.objects.get().value == 1


def test_engine_columns_cannot_be_posted(boss: Client) -> None:
    entry = entry_of(quad)
    forged = {
        "epoch": 9,
        "reserved_by": "me",
        "attempt": 7,
        "step_id": 1,
        "caller": "quad",
        "failed_at_0": "2020-01-01",
    }
    save(boss, entry, shown(boss, entry) | {"value": "5"} | forged)
    now = quad.Input.objects.get()
    assert (now.value, now.epoch, now.reserved_by, now.attempt, now.caller) == (5, 1, "", 0, "")


def test_a_lease_is_no_due_time_to_edit(boss: Client) -> None:
    entry = entry_of()
    by_hand.claim_one(double)
    form = boss.get(url(double.Input, "change", entry.pk)).context["adminform"].form
    assert "available_at" not in form.fields


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("value", "x"),
        ("value", ""),
        ("key", ""),
        ("key", "quad:1:0:1"),
        ("priority", "101"),
        ("key", "a\nb"),
        ("key", "b"),
    ],
)
def test_what_does_not_fit_is_a_form_error(name: str, text: str, boss: Client) -> None:
    entry = entry_of()
    double.enqueue(1, key="b")
    before = by_hand.state(entry)
    page = save(boss, entry, shown(boss, entry) | {name: text})
    assert page.context["errors"]
    assert by_hand.state(entry) == before


def test_a_key_that_is_taken_at_the_last_moment(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(double.Input, "validate_constraints", lambda *args, **options: None)
    double.enqueue(1, key="b")
    page = boss.post(url(double.Input, "add"), {"key": "b", "value": "1", "output": "o", "priority": "0"}, follow=True)
    assert page.status_code == 200
    assert "Nothing was written" in said(page)[0]
    entry = entry_of()
    assert "Nothing was written" in said(save(boss, entry, shown(boss, entry) | {"key": "b"}))[0]


def test_a_form_that_knows_no_epoch_is_refused() -> None:
    class Careless(InputAdmin):
        form = type("Loose", (ModelForm,), {})

    with pytest.raises(ImproperlyConfigured, match="InputForm"):
        Careless(double.Input, site).get_form(None)


# Typed values


def test_a_value_is_a_form_of_its_type(boss: Client) -> None:
    entry = entry_of(echo_point, Point(1, 2, ["a"]))
    html = page_of(boss.get(url(echo_point.Input, "change", entry.pk)))
    assert "pipeteer_django/values.js" in html
    assert "pipeteer_django/values.css" in html
    data = shown(boss, entry)
    assert (data["value-x"], data["value-tags-0-value"]) == ("1", "a")
    assert "value-x" in page_of(save(boss, entry, data | {"value-x": "no number"}))
    assert echo_point.Input.objects.get().epoch == 0
    save(boss, entry, data | {"value-x": "5", "value-tags-1-value": "b"})
    assert echo_point.Input.objects.get().value == Point(5, 2, ["a", "b"])


def test_a_value_that_nobody_touched_is_not_written(boss: Client) -> None:
    entry = entry_of(echo_point, Point(1, 2, ["a"]))
    save(boss, entry, shown(boss, entry))
    assert echo_point.Input.objects.get().epoch == 0


@pytest.mark.parametrize("pipeline", [echo_colour, echo_literal])
def test_an_enum_is_a_choice(pipeline: Any, boss: Client) -> None:
    assert '<select name="value"' in page_of(boss.get(url(pipeline.Input, "add")))


def test_who_may_not_change_a_value_can_read_it() -> None:
    entry = entry_of(echo_point, Point(1, 2, ["<b>"]))
    html = page_of(person("viewer").get(url(echo_point.Input, "change", entry.pk)))
    assert "<dt>X</dt><dd>" in html
    assert "&lt;b&gt;" in html
    assert 'name="value' not in html


def test_who_may_not_change_a_row_can_read_it() -> None:
    item = Item.objects.create(name="lamp")
    entry = entry_of(process_item, item)
    output = process_item.Output.objects.create(key="a", value=item, run_id=1)
    viewer = person("viewer")
    for model, row in ((process_item.Input, entry), (process_item.Output, output)):
        assert "lamp" in page_of(viewer.get(url(model, "change", row.pk)))


# Adding


def test_adding_is_enqueueing(
    boss: Client, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    published: list[str] = []
    monkeypatch.setattr("pipeteer_django.queues.hints.publish", published.append)
    form = boss.get(url(double.Input, "add")).context["adminform"].form
    with django_capture_on_commit_callbacks(execute=True):
        data = {"key": form["key"].value(), "value": "21", "output": "o", "priority": "0"}
        assert "was added successfully" in said(boss.post(url(double.Input, "add"), data, follow=True))[0]
    assert published == ["double"]
    by_hand.drain_anyway(double)
    assert double.Output.objects.get().value == 42
    assert LogEntry.objects.get().action_flag == ADDITION


def test_adding_about_a_models_row_asks_for_its_id(boss: Client) -> None:
    items = Item.objects.bulk_create(Item(name=f"item {number}") for number in range(50))
    assert "item 49" not in page_of(boss.get(url(process_item.Input, "add")))
    boss.post(url(process_item.Input, "add"), {"key": "a", "value": items[3].pk, "output": "o", "priority": "0"})
    assert process_item.Input.objects.get().value == items[3]


def test_a_pipeline_without_an_argument(boss: Client) -> None:
    from tests.testapp.pipelines import no_input

    boss.post(url(no_input.Input, "add"), {"key": "a", "output": "o", "priority": "0"})
    assert no_input.Input.objects.count() == 1


# Deleting


def test_deleting_a_run_counts_what_goes_with_it(boss: Client) -> None:
    quad.enqueue(1, key="task")
    entry = quad.Input.objects.get()
    by_hand.settle(claim := by_hand.claim_one(quad), run_workflow(claim))
    page = boss.get(url(quad.Input, "delete", entry.pk))
    assert dict(page.context["model_count"]) == {"quad inputs": 1, "double inputs": 1}
    boss.post(url(quad.Input, "delete", entry.pk), {"post": "yes"})
    assert (quad.Input.objects.count(), double.Input.objects.count()) == (0, 0)
    assert LogEntry.objects.get().action_flag == DELETION


def test_deleting_a_child_tells_its_caller(boss: Client) -> None:
    quad.enqueue(1, key="task")
    by_hand.settle(claim := by_hand.claim_one(quad), run_workflow(claim))
    child = double.Input.objects.get()
    assert "quad, run" in page_of(boss.get(url(double.Input, "change", child.pk)))
    boss.post(url(double.Input, "delete", child.pk), {"post": "yes"})
    by_hand.drain_anyway(quad)
    assert "StepFailed" in quad.Input.objects.get().error


def test_what_has_gone_by_itself_was_not_deleted_by_anybody(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = entry_of()
    monkeypatch.setattr(double.Input, "delete", lambda self: (0, {}))
    page = boss.post(url(double.Input, "delete", entry.pk), {"post": "yes"}, follow=True)
    assert page.status_code == 200
    assert not LogEntry.objects.exists()


# Results


def test_a_result_can_be_corrected_and_nothing_else(boss: Client) -> None:
    row = double.Output.objects.create(key="a", value=1, run_id=5)
    data = {
        "value": "2",
        "output": "other",
        "run_id": "9",
        "key": "b",
        "consumed_at_0": "2020-01-01",
        "consumed_at_1": "0:0",
    }
    boss.post(url(double.Output, "change", row.pk), data)
    row = double.Output.objects.get()
    assert (row.value, row.output, row.run_id, row.key, row.consumed_at) == (2, "other", 5, "a", None)


def test_a_correction_does_not_bring_back_what_was_consumed(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    row = double.Output.objects.create(key="a", value=1, run_id=5)
    form_valid = double.Output.full_clean

    def late(self: Any, *args: Any, **options: Any) -> None:
        double.Output.everything.update(consumed_at=timezone.now())
        form_valid(self, *args, **options)

    monkeypatch.setattr(double.Output, "full_clean", late)
    boss.post(url(double.Output, "change", row.pk), {"value": "2", "output": "output"})
    row = double.Output.everything.get()
    assert row.value == 2
    assert row.consumed_at is not None


# Who may


GETS = ["changelist", "add", "change", "delete", "history"]
MAY_GET = {
    "viewer": {"changelist", "change", "history"},
    "changer": {"changelist", "change", "history"},
    "deleter": {"changelist", "change", "delete", "history"},
    "adder": {"changelist", "change", "add", "history"},
}


@pytest.mark.parametrize("who", PEOPLE)
def test_who_sees_which_page_and_that_seeing_changes_nothing(who: str) -> None:
    entry = entry_of()
    client = person(who)
    before = everything()
    for name in GETS:
        arguments = [entry.pk] if name in ("change", "delete", "history") else []
        page = client.get(url(double.Input, name, *arguments))
        assert (page.status_code == 200) == (name in MAY_GET.get(who, ())), (who, name)
        assert page.status_code in (200, 302, 403)
    assert client.get(url(double.Input, "hold")).status_code in (302, 405)
    assert everything() == before
    assert not Queue.objects.exists()


@pytest.mark.parametrize("who", PEOPLE)
def test_who_may_change_what(who: str, boss: Client) -> None:
    entry = entry_of()
    data = shown(boss, entry) | {"value": "5"}
    client = person(who)
    client.post(url(double.Input, "change", entry.pk), data)
    assert (double.Input.objects.get().value == 5) == (who == "changer")
    client.post(url(double.Input, "add"), {"key": "new", "value": "1", "output": "o", "priority": "0"})
    assert double.Input.objects.filter(key="new").exists() == (who == "adder")
    client.post(url(double.Input, "hold"), {"held": "1"})
    assert Queue.objects.filter(held=True).exists() == (who == "changer")
    client.post(url(double.Input, "delete", entry.pk), {"post": "yes"})
    assert double.Input.objects.filter(pk=entry.pk).exists() == (who != "deleter")
    row = double.Output.objects.create(key="a", value=1, run_id=500)
    client.post(url(double.Output, "change", row.pk), {"value": "2", "output": "o"})
    assert (double.Output.objects.get(pk=row.pk).value == 2) == (who == "changer")


@pytest.mark.parametrize("model", [quad.Step, quad.Message, Worker])
def test_records_are_for_looking_at(model: Any, boss: Client) -> None:
    if model is Worker:
        now = timezone.now()
        row = Worker.objects.create(label="w", started_at=now, heartbeat_at=now)
    else:
        row = model.objects.create(
            run_id=1, **({"index": 0, "pipeline": "double"} if model is quad.Step else {"name": "m"})
        )
    before = model.objects.values().get()
    assert boss.get(url(model, "change", row.pk)).status_code == 200
    assert boss.get(url(model, "add")).status_code == 403
    for page in ("change", "delete"):
        assert boss.post(url(model, page, row.pk), {"post": "yes", "pipeline": "x"}).status_code == 403
    assert model.objects.values().get() == before


def test_forged_requests_are_refused(boss: Client) -> None:
    entry = entry_of()
    data = shown(boss, entry) | {"value": "5"}
    forger = Client(enforce_csrf_checks=True)
    forger.cookies = boss.cookies
    for page, arguments in (
        ("change", [entry.pk]),
        ("delete", [entry.pk]),
        ("hold", []),
        ("changelist", []),
        ("add", []),
    ):
        posted = {**data, "post": "yes", "held": "1", "action": "release", "_selected_action": entry.pk}
        assert forger.post(url(double.Input, page, *arguments), posted).status_code == 403
    assert double.Input.objects.get().value == 1
    assert not Queue.objects.exists()


def test_the_value_none(boss: Client) -> None:
    row = nothing.Output.objects.create(key="a", value=None, run_id=1)
    assert boss.get(url(nothing.Output, "change", row.pk)).status_code == 200
    assert boss.get(url(nothing.Output)).status_code == 200
