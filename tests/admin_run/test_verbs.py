"""What the page's forms do, that it is what runs.py does, and that the second of two is told."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import OperationalError
from django.test import Client

from pipeteer_django.queues import unchanged
from tests.admin_run.pages import address, page, post, seen
from tests.admin_run.test_page import asks, start
from tests.admin_values.browser import Page
from tests.queues.clockwork import Clockwork
from tests.testapp.pipelines import add_one, approve, boom, double, echo_point, scripted

pytestmark = pytest.mark.django_db


SENSELESS: list[dict[str, str]] = [
    {},
    {"step": "x", "branch": "-1"},
    {"step": "9", "branch": "0", "value": "1"},
    {"step": str(10**30), "branch": str(10**30), "epoch": "9" * 19, "done_at": "never"},
]


def done_at(index: int) -> str:
    step = scripted.Step.objects.filter(index=index).order_by("-branch").first()
    return step.done_at.isoformat() if step.done_at else ""


def test_an_open_step_is_completed(boss: Client, work: Clockwork) -> None:
    run = start(work)
    status, said = post(boss, run.id, "correct", seen(run.id, step=1, value="true", done_at=""))
    assert (status, said) == (200, "The result of step 1 was corrected.")
    work.run()
    assert run.result(timeout=0) is True
    entry = LogEntry.objects.get()
    assert (entry.object_id, "step 1" in entry.change_message) == (str(run.id), True)


def test_a_done_step_gets_another_result(boss: Client, work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        first = await ctx.call(add_one, 1)
        return [first, await ctx.call(approve, "on?", key="on")]

    run = start(work, code)
    html = page(boss, run.id, "?step=0&do=correct")
    assert f'value="{done_at(0)}"' in html
    post(boss, run.id, "correct", seen(run.id, step=0, value="77", done_at=done_at(0)))
    work.run()
    approve.push("on", True)
    work.run()
    assert run.result(timeout=0) == [77, True]


@pytest.mark.parametrize("text", ["", "nonsense", '"x"', "NaN", "1.5", "[" * 100_000, "9" * 5000, "\x00", "null"])
def test_a_result_that_does_not_fit_is_said_and_kept_in_the_form(boss: Client, work: Clockwork, text: str) -> None:
    run = start(work)
    response = boss.post(address(run.id, "correct"), seen(run.id, step=0, value=text, done_at=done_at(0)))
    assert response.status_code == 200
    html = response.content.decode()
    assert "errorlist" in html
    assert 'id="pipeteer_value"' in html
    if text == "nonsense":
        assert 'value="nonsense"' in html
    assert scripted.Input.objects.get().branch == 0


def test_a_typed_result(boss: Client, work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        point = await ctx.call(echo_point, {"x": 1, "y": 2})
        return [point.x, await ctx.call(approve, "on?", key="on")]

    run = start(work, code)
    form = Page(page(boss, run.id, "?step=0&do=correct"))
    assert dict(form.pairs)["value-x"] == "1"
    typed = {"value-x": "5", "value-y": ""}
    _, said = post(boss, run.id, "correct", dict(form.pairs) | typed)
    assert "y: This field is required." in said
    post(boss, run.id, "correct", dict(form.pairs) | typed | {"value-y": "6"})
    work.run()
    approve.push("on", False)
    work.run()
    assert run.result(timeout=0) == [5, False]


def test_a_timer_ends_at_once(boss: Client, work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        await ctx.sleep(86_400)
        return "awake"

    run = start(work, code)
    assert "The timer ends now" in page(boss, run.id, "?step=0&do=correct")
    post(boss, run.id, "correct", seen(run.id, step=0, done_at=""))
    work.run()
    assert run.result(timeout=0) == "awake"


def test_of_two_corrections_the_second_is_told(boss: Client, work: Clockwork) -> None:
    run = start(work)
    form = seen(run.id, step=1, value="true", done_at="")
    post(boss, run.id, "correct", form)
    _, said = post(boss, run.id, "correct", {**form, "value": "false"})
    assert "has changed since you saw it" in said
    work.run()
    assert run.result(timeout=0) is True
    _, said = post(boss, run.id, "correct", form)
    assert "has left its queue" in said


def test_a_form_that_was_refused_stands_for_the_step_that_it_showed(boss: Client, work: Clockwork) -> None:
    run = start(work)
    form = seen(run.id, step=0, value="nonsense", done_at=done_at(0))
    post(boss, run.id, "correct", {**form, "value": "77"})  # somebody was faster
    work.run()
    refused = Page(boss.post(address(run.id, "correct"), form).content.decode())
    again = dict(refused.pairs) | {"value": "5"}
    assert (again["branch"], again["done_at"]) == ("0", form["done_at"])
    assert "has changed since you saw it" in post(boss, run.id, "correct", again)[1]
    assert scripted.Step.objects.get(branch=1, index=0).result == 77


def test_run_again_from_a_step(boss: Client, work: Clockwork) -> None:
    run = start(work)
    assert "Run again from step 1" in page(boss, run.id, "?step=1&do=rerun")
    form = seen(run.id, step=1)
    assert post(boss, run.id, "rerun", form) == (200, "It runs again from step 1.")
    assert "has changed since you saw it" in post(boss, run.id, "rerun", form)[1]
    work.run()
    entry = scripted.Input.objects.get()
    assert (entry.branch, approve.Input.objects.count()) == (1, 1)


def test_a_finished_run_goes_on_as_a_new_one_once(boss: Client, work: Clockwork) -> None:
    run = start(work)
    approve.push("task ready", True)
    work.run()
    form = seen(run.id, step=1)
    response = boss.post(address(run.id, "rerun"), form)
    again = scripted.Input.objects.get()
    assert response.headers["Location"] == address(again.pk)
    assert "has a newer run" in post(boss, run.id, "rerun", form)[1]
    work.run()
    approve.push("task ready", False)
    work.run()
    assert "has a newer run" in post(boss, run.id, "rerun", form)[1]
    assert scripted.Output.everything.count() == 2


def test_restart(boss: Client, work: Clockwork) -> None:
    run = start(work)
    form = seen(run.id)
    assert post(boss, run.id, "restart", form) == (200, "The run begins again.")
    assert "has changed" in post(boss, run.id, "restart", form)[1]
    work.run()
    assert scripted.Input.objects.get().branch == 1
    assert approve.Input.objects.count() == 1


def test_cancel(boss: Client, work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        ctx.compensate(double, 1)
        await ctx.call(approve, "on?")

    run = start(work, code)
    form = seen(run.id)
    assert post(boss, run.id, "cancel", form) == (200, "The run was cancelled.")
    html = page(boss, run.id)
    assert "it has been asked to end" in html
    assert "Cancel…" not in html
    assert "asked to end already" in post(boss, run.id, "cancel", form)[1]
    work.run()
    assert not scripted.Input.objects.exists()
    assert "left its queue" in post(boss, run.id, "cancel", form)[1]
    assert LogEntry.objects.count() == 1


def test_cancelling_what_has_not_begun_leaves_no_page_and_no_error(boss: Client) -> None:
    run = scripted.enqueue(1, key="task")
    response = boss.post(address(run.id, "cancel"), seen(run.id))
    assert response.status_code == 302
    assert boss.get(response.headers["Location"]).status_code == 200
    assert not scripted.Input.objects.exists()


def test_retry(boss: Client, work: Clockwork) -> None:
    async def fails(x: Any, ctx: Any) -> Any:
        await ctx.call(add_one, 1)
        raise RuntimeError("a mistake")

    run = start(work, fails)
    work.play((scripted, asks))
    form = seen(run.id)
    assert post(boss, run.id, "retry", form) == (200, "The run goes on.")
    assert "has changed" in post(boss, run.id, "retry", form)[1]
    work.run()
    assert approve.Input.objects.count() == 1
    assert "has changed" in post(boss, run.id, "retry", seen(run.id))[1]


@pytest.mark.parametrize("verb", ["correct", "rerun", "cancel", "restart", "retry"])
@pytest.mark.parametrize("data", SENSELESS)
def test_a_form_that_makes_no_sense_is_no_error(boss: Client, work: Clockwork, verb: str, data: dict[str, str]) -> None:
    run = start(work)
    status, said = post(boss, run.id, verb, data)
    assert (status, bool(said)) == (200, True)


def test_a_step_that_has_no_result(boss: Client, work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        ctx.random.random()
        return await ctx.call(approve, "on?")

    run = start(work, code)
    assert page(boss, run.id).count("Correct…") == 1
    _, said = post(boss, run.id, "correct", seen(run.id, step=0, value="1", done_at=done_at(0)))
    assert "no result that could be corrected" in said


def test_a_row_that_somebody_holds(boss: Client, work: Clockwork, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*args: Any) -> None:
        raise OperationalError("database is locked")

    run = start(work)
    monkeypatch.setattr(unchanged, "restart", locked)
    assert "Somebody holds this run's row" in post(boss, run.id, "restart", seen(run.id))[1]


def test_a_failed_step_is_corrected_and_the_run_goes_on(boss: Client, work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.call(boom, "no")

    run = start(work, code)
    post(boss, run.id, "correct", seen(run.id, step=0, value="5", done_at=done_at(0)))
    work.run()
    assert run.result(timeout=0) == 5
