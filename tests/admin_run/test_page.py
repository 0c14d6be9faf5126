"""The page of a run: what it shows, to whom, and that looking changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from pipeteer_django.admin.run import tree as runtree
from pipeteer_django.queues.claim import plain
from tests.admin_run.pages import WRITES, address, page, post, seen, statements
from tests.admin_run.urls import EntryAdmin
from tests.queues.clockwork import Clockwork
from tests.testapp.pipelines import (
    add_one,
    approve,
    boom,
    chain,
    double,
    flaky,
    quad,
    scripted,
    scripted_child,
    scripted_grandchild,
)  # fmt: skip

pytestmark = [pytest.mark.django_db, pytest.mark.once]

NASTY = [
    "<script>alert(1)</script>",
    "</pre></textarea><img src=x onerror=alert(1)>",
    "\"'><svg/onload=alert(1)>",
    "{{ 7|add:70000 }}{% debug %}",
    "]]></title><script>alert(1)</script>",
    "javascript:alert(1)",
    "\u202egnp.exe \U0001f600 Grüße",
]


async def asks(x: Any, ctx: Any) -> Any:
    """A call and a question."""
    ctx.progress(0.5, "half of it")
    await ctx.call(add_one, 1)
    return await ctx.call(approve, "Ship it?", key=f"{ctx.key} ready")


def start(work: Clockwork, code: Any = asks, value: Any = "x", key: str = "task") -> Any:
    work.play((scripted, code))
    run = scripted.enqueue(value, key=key)
    work.run()
    return run


def test_a_live_run(boss: Client, work: Clockwork) -> None:
    html = page(boss, start(work).id)
    for said in ("scripted", "task", "waiting", "half of it", "add_one", "Ship it?", "for a person", "<svg", "now"):
        assert said in html
    assert "Restart" in html
    assert "Cancel" in html
    assert "Retry" not in html


def test_a_run_that_has_not_begun(boss: Client) -> None:
    html = page(boss, scripted.enqueue(1, key="task").id)
    assert "None." in html
    assert "<svg class" not in html


def test_a_failed_run(boss: Client, work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.call(boom, "the gateway said no")

    html = page(boss, start(work, code).id)
    assert "Traceback (most recent call last)" in html
    assert "the gateway said no" in html
    assert "Retry" in html
    assert "it cannot clean up" in html


def test_a_finished_run(boss: Client, work: Clockwork) -> None:
    run = start(work)
    approve.push("task ready", True)
    work.run()
    html = page(boss, run.id)
    for said in ("done", "Finished", "Result", "Rerun from here"):
        assert said in html
    for not_said in ("Restart", "Correct…", 'class="now"'):
        assert not_said not in html


def test_a_run_that_is_gone_but_has_steps(boss: Client, work: Clockwork) -> None:
    run = start(work)
    scripted.delete("task")
    html = page(boss, run.id)
    assert "no longer in its queue" in html
    assert "add_one" in html
    assert "Rerun" not in html


def test_there_is_no_page_of_nothing(boss: Client) -> None:
    for number in (1, 2**31, 2**63, 10**30):
        assert boss.get(address(number)).status_code == 404


@pytest.mark.parametrize("query", [
    "?branch=x", "?branch=99", "?until=0", f"?until={10**30}", "?step=-1", "?step=77&do=correct", "?do=rerun",
    "?from=x", "?from=scripted:x", "?from=nobody:1", f"?from=scripted:{10**18}", f"?branch={10**18}", "?step=%00",
    "?from=%00:1",
])  # fmt: skip
def test_odd_questions_are_no_errors(boss: Client, work: Clockwork, query: str) -> None:
    run = start(work)
    page(boss, run.id, query)


def test_children_are_nested_and_lead_back(boss: Client, work: Clockwork) -> None:
    async def child(x: Any, ctx: Any) -> Any:
        return await ctx.call(scripted_grandchild, x)

    async def grandchild(x: Any, ctx: Any) -> Any:
        return await ctx.call(quad, x)

    async def code(x: Any, ctx: Any) -> Any:
        await ctx.call(scripted_child, 2)
        return await ctx.call(approve, "on?")

    work.play((scripted_child, child), (scripted_grandchild, grandchild))
    run = start(work, code)
    html = page(boss, run.id)
    assert re.findall(r'id="step-([\d.]+)"', html) == ["0", "0.0", "0.0.0", "1"]
    assert "has a run of its own" in html  # quad, three levels down
    (link,) = {link for link in re.findall(r'href="([^"]+)"', html) if "/scriptedchildinput/run/" in link}
    response = boss.get(link)  # it is over: its caller says what it came to
    html = response.content.decode()
    assert response.status_code == 200
    assert f"{address(run.id)}?step=0#step-0" in html
    assert "Result" in html


def test_a_live_child_leads_back(boss: Client, work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.call(scripted_child, 2)

    work.play((scripted_child, asks))
    run = start(work, code)
    child = scripted_child.Input.objects.get()
    html = page(boss, child.pk, model="scriptedchildinput")
    assert f"{address(run.id)}?step=0#step-0" in html
    assert "0.1" in page(boss, run.id)


def test_another_runs_step_is_no_caller(boss: Client, work: Clockwork) -> None:
    run = start(work)
    scripted.delete("task")
    step = plain(scripted.Step, "default").earliest("id")
    assert "Called by" not in page(boss, run.id, f"?from=scripted:{step.pk}")


def test_a_child_without_steps_has_a_page_and_only_its_own_caller(boss: Client, work: Clockwork) -> None:
    async def child(x: Any, ctx: Any) -> Any:
        return x

    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.call(scripted_child, 2)

    work.play((scripted_child, child))
    start(work, code)
    alone = scripted_child.enqueue(2, key="alone")
    work.run()
    step = plain(scripted.Step, "default").get()
    assert "Called by" in page(boss, step.child_id, f"?from=scripted:{step.pk}", model="scriptedchildinput")
    assert "Called by" not in page(boss, alone.id, f"?from=scripted:{step.pk}", model="scriptedchildinput")


def test_children_are_not_shown_to_who_may_not_see_them(work: Clockwork, client_of: Callable[[str], Client]) -> None:
    async def child(x: Any, ctx: Any) -> Any:
        await ctx.call(double, 33333)
        return await ctx.call(approve, "on?")

    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.call(scripted_child, 2)

    work.play((scripted_child, child))
    run = start(work, code)
    html = page(client_of("viewer"), run.id)
    assert "scripted_child" in html
    assert "33333" not in html
    assert "scriptedchildinput" not in html


def test_many_children_are_folded(boss: Client, work: Clockwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtree, "NESTED", 5)

    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.all(ctx.call(chain, 3), ctx.call(chain, 6), ctx.call(chain, 2))

    html = page(boss, start(work, code).id)
    assert re.findall(r'id="step-([\d.]+)"', html) == ["0", "0.0", "0.1", "0.2", "1", "2", "2.0", "2.1"]
    assert "6 steps in a run of its own" in html


def test_older_branches_are_behind_links(boss: Client, work: Clockwork) -> None:
    run = start(work)
    scripted.restart("task")
    work.run()
    html = page(boss, run.id)
    assert f"{address(run.id)}?branch=0" in html
    html = page(boss, run.id, "?branch=0&step=1&do=correct")
    assert "This is branch 0" in html
    assert "cancelled" in html
    for not_there in ("Restart…", "Correct…", "<textarea", 'class="now"'):
        assert not_there not in html


def test_messages_and_timers_and_retries(boss: Client, work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        await ctx.receive("word")
        await ctx.all(ctx.sleep(timedelta(days=40, hours=5, minutes=30)), ctx.call(flaky, 99), return_exceptions=True)

    work.play((scripted, code))
    run = scripted.enqueue(1, key="task")
    scripted.send("task", "word", {"said": "hello there"})
    scripted.send("task", "later", 1)
    work.run()
    plain(flaky.Input, "default").update(available_at=timezone.now() + timedelta(minutes=3))
    html = page(boss, run.id)
    for said in ("hello there", "as event 1", "40 d 5 h left", "End now…"):
        assert said in html
    for said in ("to be retried", "attempt 2 in", "try 1 of 100"):
        assert said in html


def test_a_value_that_no_longer_fits_and_a_pipeline_that_nobody_knows(boss: Client, work: Clockwork) -> None:
    run = start(work)
    plain(scripted.Step, "default").filter(index=1).update(pipeline="forgotten")
    assert "no pipeline of that name" in page(boss, run.id, "?step=1&do=correct")


def test_long_values_are_cut_and_whole_where_asked_for(boss: Client, work: Clockwork) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        return await ctx.call(approve, "ä" * 5000)

    run = start(work, code)
    html = page(boss, run.id)
    assert "ä" * 250 in html or "\\u00e4" in html
    assert "ä" * 400 not in html
    assert "ä" * 5000 in page(boss, run.id, "?step=0")


@pytest.mark.parametrize("nasty", NASTY)
def test_what_people_write_is_inert(boss: Client, work: Clockwork, nasty: str) -> None:
    async def code(x: Any, ctx: Any) -> Any:
        ctx.progress(0.5, nasty)
        if ctx.patched(nasty):
            await ctx.receive(nasty)
        try:
            await ctx.call(boom, nasty)
        except Exception:
            await ctx.call(approve, nasty)
        await ctx.call(boom, nasty)

    work.play((scripted, code))
    run = scripted.enqueue({nasty: nasty}, key=nasty)
    scripted.send(nasty, nasty, nasty)
    work.run()
    keys = list(approve.Input.objects.values_list("key", flat=True))
    assert keys
    for key in keys:
        htmls = [page(boss, run.id), page(boss, run.id, "?step=2"), page(boss, run.id, "?step=3&do=correct")]
        assert approve.push(key, True)
        work.run()
        htmls += [page(boss, run.id), page(boss, run.id, "?step=2&do=correct"), page(boss, run.id, f"?from={nasty}")]
        for html in htmls:
            assert_inert(html)


def assert_inert(html: str) -> None:
    """No element or attribute of ours came from a value: no inline script or style, no handlers, no foreign link."""
    for tag in re.findall(r"<[a-zA-Z][^>]*>", html):
        assert not re.match(r"<(img|iframe|object|embed|style)\b", tag)
        assert not re.search(r"\son\w+\s*=", tag)
        assert not re.search(r"\sstyle\s*=", tag)
        assert "javascript:" not in tag.lower() or "href" not in tag
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", html))
    assert "70007" not in html


def test_looking_changes_nothing(boss: Client, work: Clockwork) -> None:
    run = start(work)
    page(boss, run.id)  # the session
    for query in ("", "?step=1&do=correct", "?step=0&do=rerun", "?branch=0"):
        said = statements(lambda query=query: page(boss, run.id, query))  # type: ignore[misc]
        assert not [sql for sql in said if WRITES.match(sql)]


def fill(run_id: int, count: int) -> None:
    now = timezone.now()
    model = scripted.Step
    model.objects.bulk_create(
        model(run_id=run_id, index=n, pipeline="add_one", child_id=10_000 + n, param=n, result=n, order=n + 1,
              created_at=now + timedelta(seconds=n - count), done_at=now + timedelta(seconds=n + 1 - count))
        for n in range(2, count)
    )  # fmt: skip


def test_a_thousand_steps_cost_as_many_statements_as_three(boss: Client, work: Clockwork) -> None:
    run = start(work)
    page(boss, run.id)
    few = statements(lambda: page(boss, run.id))
    fill(run.id, 1000)
    plain(scripted.Step, "default").filter(index__gte=900).update(done_at=None)
    plain(scripted.Step, "default").filter(index=999).update(pipeline="approve")
    many = statements(lambda: page(boss, run.id))
    assert len(many) <= len(few) + 1  # the queue of one more pipeline
    html = page(boss, run.id)
    assert "500 of 1000 steps are shown, from step 500 on" in html
    assert len(re.findall(r'<tr id="step-', html)) == 500
    assert f"{address(run.id)}?until=500" in html
    assert len(html) < 2_000_000
    earlier = page(boss, run.id, "?until=500")
    assert 'id="step-0"' in earlier
    assert 'id="step-500"' not in earlier
    assert "The newest" in earlier


def test_numbers_are_not_written_as_people_write_them(boss: Client, work: Clockwork, settings: Any) -> None:
    settings.LANGUAGE_CODE, settings.USE_THOUSAND_SEPARATOR = "de", True
    run = start(work)
    fill(run.id, 30)
    html = page(boss, run.id)
    svg = html[html.index("<svg class") : html.index("</svg>", html.index("<svg class"))]
    numbers = re.findall(r'\b(?:x|y|x1|x2|width|height|cx|cy)="([^"]*)"', svg)
    assert numbers
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", number) for number in numbers)


@pytest.mark.parametrize("verb", ["", "correct", "rerun", "cancel", "restart", "retry"])
@pytest.mark.parametrize("who", ["anonymous", "nobody", "staff", "viewer", "changer"])
def test_who_may_do_what(verb: str, who: str, work: Clockwork, client_of: Callable[[str], Client]) -> None:
    run = start(work)
    client = client_of(who)
    before = rows()
    if verb:
        assert client.get(address(run.id, verb)).status_code in (302, 405)
        data = seen(run.id, step=1, value="true", done_at="")
        status = client.post(address(run.id, verb), data).status_code
    else:
        response = client.get(address(run.id))
        status = response.status_code
        assert ("Correct…" in response.content.decode()) == (who == "changer")
    logged_in = {"staff": 403, "viewer": 403 if verb else 200, "changer": 302 if verb else 200}
    assert status == logged_in.get(who, 302)
    # A run that did not fail cannot be retried, whoever wants it.
    assert (rows() != before) == (who == "changer" and verb not in ("", "retry"))


def test_what_its_admin_hides_has_no_page(boss: Client, work: Clockwork, monkeypatch: pytest.MonkeyPatch) -> None:
    run, before = start(work), rows()
    monkeypatch.setattr(EntryAdmin, "get_queryset", lambda self, request: self.model.objects.exclude(key="task"))
    assert boss.get(address(run.id)).status_code == 404
    for verb in ("correct", "rerun", "cancel", "restart", "retry"):
        data = seen(run.id, step=1, value="true", done_at="")
        assert boss.post(address(run.id, verb), data).status_code == 404
    assert rows() == before
    other = scripted.enqueue(1, key="other")
    assert post(boss, other.id, "restart", seen(other.id))[1] == "The run begins again."


def test_a_viewer_sees_no_forms(work: Clockwork, client_of: Callable[[str], Client]) -> None:
    run = start(work)
    html = page(client_of("viewer"), run.id, "?step=1&do=correct")
    assert "Ship it?" in html
    for not_there in ("<textarea", "Restart…", "run/1/correct"):
        assert not_there not in html


def test_a_form_without_the_token_is_refused(boss: Client, work: Clockwork) -> None:
    run = start(work)
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = boss.cookies
    assert strict.post(address(run.id, "restart"), seen(run.id)).status_code == 403
    assert scripted.Input.objects.get().branch == 0


def rows() -> list[Any]:
    """All of the run that a verb may change."""
    return [
        list(plain(model, "default").order_by("pk").values())
        for model in (scripted.Input, scripted.Output, scripted.Step, scripted.Message)
    ]
