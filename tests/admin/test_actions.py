"""Actions: what they announce, what they do, what they tell, and for whom."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from pipeteer_django.admin import InputAdmin, actions
from pipeteer_django.models import Queue
from pipeteer_django.queues import chunks
from pipeteer_django.queues.chunks import exactly, pages
from pipeteer_django.queues.claim import plain
from pipeteer_django.signals import run_finished
from pipeteer_django.worker.attempts import run_workflow
from tests.admin.conftest import PEOPLE, Act, page_of, person, said, url
from tests.admin_values.browser import Page
from tests.queues import by_hand
from tests.testapp.pipelines import Customer, Verdict, approve, double, judge, nothing, quad

pytestmark = pytest.mark.django_db


def entries(count: int = 3, pipeline: Any = double, **columns: Any) -> list[Any]:
    """So many, in the order of their ids, with these engine columns."""
    runs = pipeline.enqueue_many(range(count))
    rows = plain(pipeline.Input, "default").filter(pk__in=[run.id for run in runs])
    if columns:
        rows.update(**columns)
    return list(rows.order_by("pk"))


def failed(count: int = 3) -> list[Any]:
    return entries(count, failed_at=timezone.now(), available_at=None, error="no", attempt=4)


def running(count: int = 3) -> list[Any]:
    return entries(count, reserved_by="me", attempt=1, epoch=1, available_at=timezone.now() + timedelta(minutes=1))


def logged() -> list[tuple[str, int, str]]:
    return sorted(LogEntry.objects.values_list("object_id", "action_flag", "change_message"))


def asked(client: Client, model: Any, name: str, chosen: list[Any], **more: Any) -> Any:
    """The confirmation page."""
    data = {"action": name, "_selected_action": [entry.pk for entry in chosen], "index": "0", **more}
    return client.post(url(model), data)


@pytest.mark.parametrize("contended", [True, False])
def test_a_row_that_somebody_holds_is_said(
    boss: Client, act: Act, monkeypatch: pytest.MonkeyPatch, contended: bool
) -> None:
    def held(*arguments: Any) -> None:
        raise OperationalError("canceling statement due to lock timeout")

    chosen = failed()
    monkeypatch.setattr(actions, "exactly", held)
    monkeypatch.setattr(actions, "is_contention", lambda error: contended)
    if contended:
        page = act(double.Input, "retry", chosen)
        assert said(page) == [
            "0 entries will run again. It went no further than this: somebody holds a row that this needs. Try again."
        ]
    else:
        with pytest.raises(OperationalError):
            act(double.Input, "retry", chosen)
    assert not LogEntry.objects.exists()


# What each does


def test_retry(act: Act) -> None:
    page = act(double.Input, "retry", failed())
    assert said(page) == ["3 entries will run again."]
    assert double.Input.objects.filter(failed_at=None, attempt=0, epoch=1).count() == 3
    assert [row[1:] for row in logged()] == [(CHANGE, "Retry failed entries")] * 3


def scheduled(count: int = 3) -> list[Any]:
    return entries(count, attempt=2, available_at=timezone.now() + timedelta(hours=1))


def test_run_now(act: Act, boss: Client) -> None:
    chosen = [*scheduled(), *running(1), *failed(1), *entries(1)]
    page = page_of(asked(boss, double.Input, "run_now", chosen))
    assert "3 double inputs." in page
    assert "they stay as they are: 3" in page
    others = [by_hand.state(entry) for entry in chosen[3:]]
    assert said(act(double.Input, "run_now", chosen, counted="3")) == ["3 entries are due now."]
    assert double.Input.objects.ready().filter(attempt=2, epoch=1).count() == 3
    assert [by_hand.state(entry) for entry in chosen[3:]] == others
    assert [row[1:] for row in logged()] == [(CHANGE, "Run scheduled entries now")] * 3


def test_run_now_wakes_workers(
    act: Act, django_capture_on_commit_callbacks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[str] = []
    monkeypatch.setattr("pipeteer_django.queues.hints.publish", published.append)
    chosen = scheduled()
    with django_capture_on_commit_callbacks(execute=True):
        act(double.Input, "run_now", chosen)
        assert not published
    assert published == ["double"]


def test_release(act: Act) -> None:
    act(double.Input, "release", running())
    assert double.Input.objects.filter(reserved_by="", attempt=0, epoch=2).count() == 3


def test_reroute(act: Act) -> None:
    chosen = [*entries(), *entries(1, caller="quad", step_id=1)]
    assert "3 entries were rerouted." in said(act(double.Input, "reroute", chosen, output="there", counted="3"))
    assert list(double.Input.objects.order_by("pk").values_list("output", flat=True)) == ["there"] * 3 + ["output"]
    assert logged()[0][2] == "Route results to another output (there)"


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201])
def test_reroute_to_what_is_no_name(name: str, act: Act) -> None:
    page = act(double.Input, "reroute", entries(), output=name)
    assert page.context["form"].errors
    assert not double.Input.objects.exclude(output="output").exists()


def test_restart_and_cancel_are_for_workflows(act: Act, boss: Client) -> None:
    quad.enqueue(1)
    double.enqueue(1)
    names = [name for name, _ in boss.get(url(quad.Input)).context["action_form"].fields["action"].choices]
    assert {"restart", "cancel"} <= set(names)
    names = [name for name, _ in boss.get(url(double.Input)).context["action_form"].fields["action"].choices]
    assert not {"restart", "cancel"} & set(names)


def begun() -> Any:
    """A run of `quad` that waits for its first step."""
    quad.enqueue(1, key="task")
    by_hand.settle(claim := by_hand.claim_one(quad), run_workflow(claim))
    return quad.Input.objects.get()


def test_restart(act: Act, boss: Client) -> None:
    entry = begun()
    page = page_of(asked(boss, quad.Input, "restart", [entry]))
    assert "1 quad input" in page
    assert "1 double input" in page
    assert quad.Input.objects.get().branch == 0
    act(quad.Input, "restart", [entry])
    assert quad.Input.objects.get().branch == 1
    assert not double.Input.objects.exists()


def test_cancel(act: Act) -> None:
    act(quad.Input, "cancel", [begun(), *entries(1, quad)])
    by_hand.drain_anyway(quad)
    assert not quad.Input.objects.exists()
    assert not quad.Output.objects.exists()
    assert len(logged()) == 2


# Completing by hand


def test_complete(act: Act, boss: Client) -> None:
    chosen = [*entries(2, output="there"), *failed(1), *running(1)]
    page = page_of(asked(boss, double.Input, "complete", chosen))
    assert "4 double inputs." in page
    assert 'name="value"' in page
    assert double.Input.objects.count() == 4
    page = act(double.Input, "complete", chosen, value="42", counted="4")
    assert said(page) == ["4 entries were completed."]
    assert not double.Input.objects.exists()
    found = double.Output.objects.order_by("run_id").values_list("run_id", "key", "value", "output")
    assert list(found) == [(entry.pk, entry.key, 42, entry.output) for entry in chosen]
    assert [row[1:] for row in logged()] == [(CHANGE, "Complete by hand (42)")] * 4


@pytest.mark.parametrize("value", [{"value": "x"}, {"value": ""}, {}, {"value": str(2**63)}, {"value": "1\x00"}])
def test_complete_with_what_is_no_result(value: dict[str, str], act: Act) -> None:
    page = act(double.Input, "complete", entries(), **value)
    assert page.context["form"].errors
    assert 'type="submit" value="Yes' in page_of(page)
    assert double.Input.objects.count() == 3
    assert not logged()


def test_complete_with_a_form_of_many_parts(act: Act, boss: Client) -> None:
    judge.enqueue_many([Customer(name="Ada", age=36)] * 2)
    chosen = list(judge.Input.objects.all())
    fields = Page(page_of(asked(boss, judge.Input, "complete", chosen)))
    assert {"value-decision", "value--form"} <= {name for name, _ in fields.pairs}
    sent = dict(fields.submit(**{"value-decision": "refund"}).lists())
    assert said(boss.post(url(judge.Input), sent, follow=True)) == ["2 entries were completed."]
    assert list(judge.Output.objects.values_list("value", flat=True)) == [Verdict("refund", [])] * 2
    assert '"decision": "refund"' in logged()[0][2]


def test_complete_without_a_result(act: Act, boss: Client) -> None:
    runs = nothing.enqueue_many(range(2))
    sent = Page(page_of(asked(boss, nothing.Input, "complete", list(nothing.Input.objects.all())))).submit()
    boss.post(url(nothing.Input), dict(sent.lists()))
    assert [run.result(timeout=0) for run in runs] == [None, None]


def test_callers_go_on(act: Act) -> None:
    begun()
    act(double.Input, "complete", double.Input.objects.all(), value="5")
    by_hand.drain_anyway(quad, double)
    assert quad.Output.objects.get().value == 10
    assert not quad.Input.objects.exists()


def test_a_caller_that_nobody_knows(act: Act) -> None:
    chosen = [*entries(1), *entries(1, caller="gone", step_id=1)]
    page = act(double.Input, "complete", chosen, value="5")
    assert said(page)[0].startswith("0 entries were completed. It went no further than this: ")
    assert double.Input.objects.count() == 2
    assert not logged()


def test_completing_workflows(act: Act, boss: Client) -> None:
    entry = begun()
    page = page_of(asked(boss, quad.Input, "complete", [entry]))
    assert "1 double input" in page
    act(quad.Input, "complete", [entry], value="7")
    assert quad.Output.objects.get().value == 7
    by_hand.drain_anyway(double)
    assert not double.Input.objects.exists()


def test_complete_tells_the_world(
    act: Act, django_capture_on_commit_callbacks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[str] = []
    heard: list[Any] = []
    monkeypatch.setattr("pipeteer_django.queues.hints.publish", published.append)

    def hear(run_id: int, key: str, output: str, **kwargs: Any) -> None:
        heard.append((run_id, key, output))

    chosen = entries(output="there")
    run_finished.connect(hear)
    try:
        with django_capture_on_commit_callbacks(execute=True):
            act(double.Input, "complete", chosen, value="5")
            assert not published
            assert not heard
    finally:
        run_finished.disconnect(hear)
    assert published == ["there"]
    assert heard == [(entry.pk, entry.key, "there") for entry in chosen]


def test_what_left_meanwhile_is_counted(act: Act) -> None:
    chosen = entries(4)
    double.Input.objects.push(chosen[0].key, 1)
    page = act(double.Input, "complete", chosen, value="5", counted="4")
    assert said(page) == ["3 entries were completed. 1 had moved on by itself and was left alone."]
    assert double.Output.objects.get(run_id=chosen[0].pk).value == 1


def test_the_statements_of_a_chunk(act: Act) -> None:
    counts = []
    for count in (2, 400):
        chosen = entries(count)
        with CaptureQueriesContext(connection) as queries:
            act(double.Input, "complete", chosen, value="5")
        counts.append(len(queries))
    assert counts[1] - counts[0] < 400 / 20  # SQLite takes so many parameters in a statement and no more


def test_delete(act: Act) -> None:
    page = act(double.Input, "delete_selected", entries())
    assert said(page) == ["3 entries were deleted."]
    assert not double.Input.objects.exists()
    assert [row[1] for row in logged()] == [DELETION] * 3


def test_delete_tells_callers(act: Act) -> None:
    begun()
    act(double.Input, "delete_selected", double.Input.objects.all())
    by_hand.drain_anyway(quad)
    assert "StepFailed" in quad.Input.objects.get().error


def test_delete_results(act: Act) -> None:
    rows = [double.Output.objects.create(key=str(number), value=1, run_id=number) for number in range(3)]
    rows[0].consumed_at = timezone.now()
    rows[0].save()
    assert said(act(double.Output, "delete_selected", rows)) == ["3 results were deleted."]
    assert not double.Output.everything.exists()


def test_hold_and_go_on(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for held in (True, False):
        boss.post(url(double.Input, "hold"), {"held": "1" if held else "0"})
        assert Queue.objects.get().held is held
        assert Queue.objects.get().pipeline == "double"
    assert [row[2] for row in logged()] == ["Held", "Went on"]


def test_hold_in_the_table_of_queues(boss: Client) -> None:
    boss.post(url(Queue, "add"), {"pipeline": "double", "held": "on"})
    queue = Queue.objects.get()
    boss.post(url(Queue), {"action": "resume", "_selected_action": [queue.pk]})
    assert not Queue.objects.get().held
    boss.post(url(Queue, "change", queue.pk), {"held": "on", "pipeline": "quad"})
    assert Queue.objects.values_list("pipeline", "held").get() == ("double", True)


# What they announce


def test_the_page_between_changes_nothing_and_counts(boss: Client) -> None:
    chosen = [*failed(2), *entries(3)]
    page = asked(boss, double.Input, "retry", chosen)
    assert "2 double inputs." in page_of(page)
    assert "they stay as they are: 3" in page_of(page)
    assert double.Input.objects.failed().count() == 2


def test_a_button_is_red_where_something_is_lost(boss: Client) -> None:
    quad.enqueue(1)
    chosen = list(quad.Input.objects.all())
    harmless = {
        name
        for name in ("retry", "run_now", "release", "restart", "cancel", "reroute", "complete", "delete_selected")
        if "pipeteer-harmless" in page_of(asked(boss, quad.Input, name, chosen))
    }
    assert harmless == {"retry", "run_now", "release", "reroute", "complete"}


def test_nothing_to_do(boss: Client) -> None:
    page = page_of(asked(boss, double.Input, "retry", entries()))
    assert "There is nothing among the chosen" in page
    assert 'type="submit" value="Yes' not in page


def test_many_are_not_counted(boss: Client) -> None:
    chosen = entries(1200)[:2]
    page = asked(boss, double.Input, "delete_selected", chosen, select_across="1")
    assert "More than 1,000 double inputs" in page_of(page)
    assert page_of(page).count('name="_selected_action"') == 2
    assert "10000 are taken at once" in page_of(page).replace(",", "")


# All that match


def test_all_that_match_on_all_pages(act: Act) -> None:
    failed(1200)
    others = entries(5)
    some = double.Input.objects.failed()[:1]
    page = act(double.Input, "retry", some, query="?state=failed", select_across="1")
    assert said(page) == ["1200 entries will run again."]
    assert not double.Input.objects.failed().exists()
    assert LogEntry.objects.count() == 1200
    assert double.Input.objects.filter(pk__in=[e.pk for e in others], epoch=0).count() == 5


def test_a_page_that_has_gone_since_it_was_asked(act: Act) -> None:
    """The confirmation is posted to the page of the list that somebody came from."""
    page = act(double.Input, "retry", failed(), query="?p=2")
    assert said(page) == ["3 entries will run again."]


def test_an_action_has_an_end(act: Act, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InputAdmin, "most_per_action", 4)
    failed(6)
    page = act(double.Input, "retry", double.Input.objects.all()[:1], select_across="1")
    assert said(page) == ["4 entries will run again. One action takes no more than 4: repeat it for the rest."]
    assert double.Input.objects.failed().count() == 2


def test_pages_are_in_order_and_leave_what_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 3)
    ids = [entry.pk for entry in entries(8)]
    met = []
    for page in pages(double.Input.objects.order_by("key"), 100):
        entries(1)
        met.append(page)
    assert met == [ids[:3], ids[3:6], ids[6:]]
    assert [len(page) for page in pages(double.Input.objects.all(), 4)] == [3, 1]
    assert list(pages(double.Input.objects.none(), 4)) == []


# What has moved on


def test_what_moved_on_is_told(act: Act) -> None:
    chosen = failed(5)
    double.Input.objects.filter(pk__in=[entry.pk for entry in chosen[:2]]).retry()
    page = act(double.Input, "retry", chosen, counted="5")
    assert said(page) == ["3 entries will run again. 2 had moved on by themselves and were left alone."]
    assert double.Input.objects.filter(epoch=1).count() == 5
    assert len(logged()) == 3


def test_what_moves_on_between_look_and_deed(act: Act, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of which some have gone is taken one by one, so that the log has those that were really moved."""
    chosen = entries(4)
    gone = chosen[1].pk
    calls: list[int] = []

    def stolen(using: str, keys: Any, verb: Any, record: Any) -> list[int]:
        if not calls:
            plain(double.Input, "default").filter(pk=gone).delete()
        calls.append(len(keys))
        return exactly(using, keys, verb, record)

    monkeypatch.setattr("pipeteer_django.admin.actions.exactly", stolen)
    page = act(double.Input, "delete_selected", chosen)
    assert said(page) == ["3 entries were deleted. 1 had moved on by itself and was left alone."]
    assert {row[0] for row in logged()} == {str(entry.pk) for entry in chosen} - {str(gone)}


def test_exactly_rolls_back_what_it_cannot_name() -> None:
    rows = entries(3)
    recorded: list[int] = []

    def verb(keys: Any) -> int:
        return double.Input.objects.filter(pk__in=[key for key in keys if key != rows[0].pk]).update(priority=5)

    moved = exactly("default", [entry.pk for entry in rows], verb, recorded.extend)
    assert moved == recorded == [entry.pk for entry in rows[1:]]
    assert list(double.Input.objects.order_by("pk").values_list("epoch", flat=True)) == [0, 1, 1]


# For whom


def retriable() -> list[Any]:
    return failed(2)


ACTIONS: list[tuple[str, Callable[[], Any], str]] = [
    ("retry", retriable, "changer"),
    ("release", running, "changer"),
    ("reroute", entries, "changer"),
    ("run_now", scheduled, "changer"),
    ("complete", entries, "changer"),
    ("delete_selected", entries, "deleter"),
]


@pytest.mark.parametrize("who", PEOPLE)
@pytest.mark.parametrize(("name", "make", "may"), ACTIONS)
def test_who_may_do_what(name: str, make: Callable[[], Any], may: str, who: str) -> None:
    chosen = make()
    client = person(who)
    before = [by_hand.state(entry) for entry in chosen]
    data = {"action": name, "_selected_action": [entry.pk for entry in chosen], "post": "yes", "output": "there"}
    data["value"] = "5"
    client.post(url(double.Input), data)
    client.post(url(double.Input), data | {"index": "0", "select_across": "1"})
    assert ([by_hand.state(entry) for entry in chosen] == before) == (who != may)
    assert LogEntry.objects.exists() == (who == may)


@pytest.mark.parametrize("who", PEOPLE)
@pytest.mark.parametrize("name", ["restart", "cancel"])
def test_who_may_move_runs(name: str, who: str) -> None:
    entry = begun()
    before = by_hand.state(entry)
    person(who).post(url(quad.Input), {"action": name, "_selected_action": [entry.pk], "post": "yes"})
    assert (by_hand.state(entry) == before) == (who != "changer")


def test_no_get_does_anything(boss: Client) -> None:
    chosen = failed(1)
    before = by_hand.state(chosen[0])
    for name in ("retry", "delete_selected", "reroute", "release", "complete"):
        query = {"action": name, "_selected_action": chosen[0].pk, "post": "yes", "index": "0", "output": "x"}
        query["value"] = "5"
        boss.get(url(double.Input), query, follow=True)
    assert boss.get(url(double.Input, "hold"), {"held": "1"}).status_code == 405
    assert by_hand.state(chosen[0]) == before
    assert not LogEntry.objects.exists()


def test_tasks_have_the_actions_of_entries(act: Act) -> None:
    approve.enqueue("really?")
    act(approve.Input, "delete_selected", approve.Input.objects.all())
    assert not approve.Input.objects.exists()
