"""The dashboard: its numbers are right, it says what needs attention, and what it asks does not grow."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin import AdminSite
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from pipeteer_django.admin import register_queues
from pipeteer_django.admin.dashboard import charts, standing
from pipeteer_django.admin.dashboard import page as dashboard
from pipeteer_django.admin.dashboard.attention import MOST
from pipeteer_django.admin.states import STATES
from pipeteer_django.models import Queue, Worker
from pipeteer_django.pipelines.outcome import Done, Failed, Failure, Parked, Retry
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues import figures, paces
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.people import push
from pipeteer_django.worker.attempts import refuse, run_workflow
from tests.admin.conftest import PEOPLE, page_of, person, url
from tests.queues import by_hand
from tests.queues.test_plans import claim_index, explain
from tests.testapp.pipelines import approve, boom, double, double_sync, quad

pytestmark = pytest.mark.django_db

FAILURE = Failure("Boom", "no", "Traceback ...\nBoom: no")
HOSTILE = "<script>alert(1)</script>{{ 7|add:7 }}\"'><img src=x onerror=alert(1)>"


def address(query: str = "") -> str:
    return reverse("admin:pipeteer_django_queue_dashboard") + query


def show(client: Client, query: str = "") -> Any:
    response = client.get(address(query))
    assert response.status_code == 200
    return response


def row_of(response: Any, id: str) -> Any:
    (row,) = [row for row in response.context["rows"] if row.id == id]
    return row


def counts(response: Any, id: str) -> dict[str, str]:
    return {cell.state: cell.text for cell in row_of(response, id).cells if not cell.empty}


def sentences(response: Any) -> list[str]:
    return [item.said for item in response.context["items"]]


def worker(label: str = "host-1", ago: float = 0, ids: str = "double, quad", **columns: Any) -> Worker:
    seen = timezone.now() - timedelta(seconds=ago)
    return Worker.objects.create(
        label=label, pipelines=ids, doing="0 running", started_at=seen, heartbeat_at=seen, **columns
    )


def outputs(pipeline: Any, took: list[float], ended: float = 60, first: int = 0) -> None:
    """Results that took so many seconds and were finished so many seconds ago."""
    end = timezone.now() - timedelta(seconds=ended)
    pipeline.Output.everything.bulk_create(
        pipeline.Output(
            key=str(n), value=n, run_id=first + n, created_at=end - timedelta(seconds=seconds), finished_at=end
        )
        for n, seconds in enumerate(took)
    )


@pytest.fixture
def long_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs goes on running, however slow this machine is."""
    monkeypatch.setattr(double, "reserve", timedelta(minutes=5))


# Numbers


@pytest.mark.usefixtures("long_lease")
def test_the_states_are_counted(boss: Client) -> None:
    double.enqueue_many(range(9))
    double.enqueue(1, priority=7, key="urgent")
    double.enqueue(1, delay=timedelta(hours=1))
    _running, failing, retrying = by_hand.claim_all(double, 3)
    by_hand.turn([(failing, Failed(FAILURE)), (retrying, Retry(FAILURE, 300))])
    quad.enqueue(1)
    by_hand.settle(claim := by_hand.claim_one(quad), run_workflow(claim))
    page = show(boss)
    assert counts(page, "double") == {"ready": "8", "running": "1", "scheduled": "2", "failed": "1"}
    assert counts(page, "quad") == {"waiting": "1"}
    for pipeline in (double, quad):
        objects = pipeline.Input.objects
        expected = {state: str(n) for state in STATES if (n := getattr(objects, state)().count())}
        assert counts(page, pipeline.id) == expected
    assert row_of(page, "double").total == "12"


def test_each_number_leads_to_the_list_of_what_it_counts(boss: Client) -> None:
    double.enqueue_many(range(3))
    (cell,) = [cell for cell in row_of(show(boss), "double").cells if cell.state == "ready"]
    assert cell.url == url(double.Input) + "?state=ready"
    assert boss.get(cell.url).context["cl"].result_count == 3


def test_the_oldest_entry_of_all_priorities(boss: Client) -> None:
    double.enqueue(1, key="young", priority=5)
    double.enqueue(1, key="old")
    double.enqueue(1, key="later", delay=timedelta(hours=1))
    old = plain(double.Input, "default").filter(key="old")
    old.update(available_at=timezone.now() - timedelta(minutes=7))
    row = row_of(show(boss), "double")
    assert row.oldest_key == "old"
    assert row.age.startswith("7 min")
    assert row.oldest_url == url(double.Input, "change", old.get().pk)


def test_rate_and_percentiles(boss: Client) -> None:
    outputs(double, [float(n) for n in range(1, 101)])
    outputs(double, [1000.0] * 50, ended=3600, first=1000)
    row = row_of(show(boss), "double")
    assert (row.median, row.most) == ("50 s", "1 min 35 s")
    assert row.rate == "6.7/min"
    assert row_of(show(boss), "double").bars.bars
    assert row.cut == ""
    long = row_of(show(boss, "?window=24h"), "double")
    assert (long.rate, long.most) == ("6.2/h", "16 min 40 s")
    assert row_of(show(boss, "?window=nonsense"), "double").rate == "6.7/min"


def test_work_for_workflows_counts_too(boss: Client) -> None:
    quad.enqueue(1)
    by_hand.drain_anyway(quad, double)
    assert not double.Output.everything.exists()
    standing_now = standing.read([double, quad], timedelta(minutes=15))
    assert [(queue.pipeline.id, len(queue.pace.finished)) for queue in standing_now.queues] == [
        ("double", 2),
        ("quad", 1),
    ]
    assert row_of(show(boss), "double").rate


def test_what_failed_is_not_finished() -> None:
    quad.enqueue(1)
    by_hand.settle(claim := by_hand.claim_one(quad), run_workflow(claim))
    by_hand.settle(by_hand.claim_one(double), Failed(FAILURE))
    (queue,) = standing.read([double], timedelta(minutes=15)).queues
    assert queue.pace.finished == []


@pytest.mark.usefixtures("long_lease")
def test_who_does_what(boss: Client) -> None:
    worker("by hand")
    double.enqueue_many(range(4))
    by_hand.claim_all(double, 3)
    (shown,) = show(boss).context["workers"]
    assert shown["running"] == [("double", "3", url(double.Input) + "?state=running")]
    assert shown["alive"]


# Caps


def test_a_count_that_was_cut_says_so(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "CAP", 5)
    double.enqueue_many(range(5))
    assert counts(show(boss), "double") == {"ready": "5"}
    double.enqueue_many(range(5))
    assert counts(show(boss), "double") == {"ready": "5+"}
    assert row_of(show(boss), "double").total == "5+"


def test_what_a_cut_may_have_left_out_is_not_said_to_be_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "CAP", 5)
    quad.enqueue_many(range(8))
    by_hand.turn([(claim, run_workflow(claim)) for claim in by_hand.claim_all(quad)])
    depth = figures.depths("default", [quad])["quad"]
    assert depth.waiting == figures.Count(5, more=True)
    assert depth.failed == figures.Count(0, more=True)
    assert depth.running == figures.Count()
    double.enqueue_many(range(8))
    by_hand.turn([(claim, Failed(FAILURE)) for claim in by_hand.claim_all(double, 8)])
    assert figures.depths("default", [double])["double"].waiting == figures.Count()


@pytest.mark.usefixtures("long_lease")
def test_running_entries_are_seen_beside_many_that_are_scheduled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "CAP", 5)
    double.enqueue_many(range(2))
    by_hand.claim_all(double)
    for number in range(8):
        double.enqueue(number, delay=timedelta(days=1))
    depth = figures.depths("default", [double])["double"]
    assert (depth.running, depth.scheduled) == (figures.Count(2), figures.Count(5, more=True))


def test_a_time_that_was_cut_says_so(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paces, "LATEST", 20)
    monkeypatch.setattr(dashboard, "LATEST", 20)
    outputs(double, [1.0] * 30, ended=600)
    outputs(double, [3.0] * 19, ended=60, first=100)
    row = row_of(show(boss), "double")
    assert row.cut.startswith("the last 20 only: 10 min")
    outputs(double, [3.0] * 20, ended=59, first=200)
    row = row_of(show(boss), "double")
    assert row.cut.startswith("the last 20 only: 1 min")
    assert "the last 20 only" in page_of(show(boss))
    outputs(double_sync, [1.0] * 20)
    assert row_of(show(boss), "double_sync").cut == ""


# Charts


def test_percentiles_by_nearest_rank() -> None:
    values = [timedelta(seconds=n) for n in range(1, 21)]
    assert charts.rank(values, 0.5) == timedelta(seconds=10)
    assert charts.rank(values, 0.95) == timedelta(seconds=19)
    assert charts.rank(values[:1], 0.5) == charts.rank(values[:1], 0.95) == timedelta(seconds=1)


def test_charts() -> None:
    now = timezone.now()
    start, second = now - timedelta(seconds=40), timedelta(seconds=1)
    finished = [(start, second), (start, 3 * second), (now - 5 * second, 2 * second), (now, 2 * second)]
    found = charts.parts(finished, start, now, 4)
    assert [len(part) for part in found] == [2, 0, 0, 2]
    drawn = charts.bars(found, timedelta(seconds=10))
    assert [(bar.x, bar.height) for bar in drawn.bars] == [(3.0, 30), (93.0, 30)]
    assert drawn.said == "Finished in each 10 s: 2 in the last one, 2 at most."
    band = charts.band(found)
    assert len(band.stretches) == 2
    assert band.stretches[0].line == "0.00,19.67 30.00,19.67"
    assert "3 s" in band.said
    assert charts.bars(charts.parts([], now, now, 4), second).bars == []


@pytest.mark.parametrize(
    ("count", "seconds", "expected"),
    [(900, 60, "15/s"), (10, 60, "10/min"), (10, 36_000, "1/h"), (90, 60, "1.5/s"), (3, 900, "3 in 15 min")],
)
def test_rates(count: int, seconds: int, expected: str) -> None:
    assert dashboard.rate(count, timedelta(seconds=seconds)) == expected


# What needs attention


def test_calm(boss: Client) -> None:
    outputs(double, [1.0])
    page = show(boss)
    assert sentences(page) == []
    assert "Nothing needs attention." in page_of(page)


def test_the_order_of_what_needs_attention(boss: Client) -> None:
    worker("silent", ago=600)
    worker("alive", ids="boom")
    double.enqueue_many(range(3))
    by_hand.settle(by_hand.claim_one(double), Failed(FAILURE))
    boom.enqueue("x")
    plain(boom.Input, "default").update(available_at=timezone.now() - timedelta(minutes=6))
    double_sync.enqueue(1)
    Queue.objects.create(pipeline="double_sync", held=True)
    approve.enqueue("may I?")
    failed, idle, slow, held, silent, people = sentences(show(boss))
    assert failed == "1 entry of double has failed and waits for a person. The newest: Boom: no"
    assert idle == "2 entries of double are ready, and no live worker serves this queue: start one."
    assert slow.startswith("An entry of boom has been ready for 6 min")
    assert held.startswith("double_sync is held, and 1 entry waits in it")
    assert silent.startswith("Worker silent was last heard of 10 min ")
    assert people.startswith("1 entry of approve waits for a person's answer")


def test_what_was_parked_after_crashes(boss: Client) -> None:
    double.enqueue(1)
    by_hand.engine(double, reserved_by="dead", crashes=10)
    claim = by_hand.claim_one(double)
    outcome = refuse(claim)
    assert isinstance(outcome, Parked)
    by_hand.settle(claim, outcome)
    (said,) = sentences(show(boss))
    assert said.startswith("1 entry of double is parked, because its workers died")
    double.enqueue(1)
    by_hand.settle(by_hand.claim_one(double), Failed(FAILURE))
    assert [said.split(" ", 3)[:3] for said in sentences(show(boss))] == [["1", "entry", "of"]] * 2


def test_no_worker_at_all_is_one_sentence(boss: Client) -> None:
    double.enqueue(1)
    boom.enqueue("x")
    (item,) = show(boss).context["items"]
    assert item.said.startswith("Work waits in 2 queues, and no worker is running")
    assert item.command == "python manage.py pipeteer_worker"
    worker(ids="double, boom")
    assert sentences(show(boss)) == []


def test_of_one_kind_only_some_are_told(boss: Client) -> None:
    worker(ids="elsewhere")
    idle = [p for p in registry if p.kind == "activity" and p.input.annotation is int][: MOST + 2]
    for pipeline in idle:
        pipeline.enqueue(1)
    said = sentences(show(boss))
    assert len(said) == MOST
    assert said[-1] == f"And {len(idle) - MOST + 1} more like these."


def test_a_held_queue_is_said_in_the_table(boss: Client) -> None:
    Queue.objects.create(pipeline="double", held=True)
    outputs(double_sync, [1.0])
    assert row_of(show(boss), "double").held
    assert not row_of(show(boss), "double_sync").held


def test_a_worker_with_long_leases_may_be_silent_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = worker(ago=45, ids="double")
    assert not figures.is_alive(quiet, timezone.now())
    monkeypatch.setattr(double, "reserve", timedelta(minutes=5))
    assert figures.is_alive(quiet, timezone.now())


def test_people_are_answered_in_the_inbox_where_there_is_one(boss: Client) -> None:
    approve.enqueue("may I?")
    (item,) = show(boss).context["items"]
    assert boss.get(item.url).status_code == 200


# First steps


def test_nothing_was_ever_enqueued(boss: Client) -> None:
    page = show(boss)
    assert [step.done for step in page.context["steps"]] == [True, True, False, False]
    assert "python manage.py pipeteer_worker" in page_of(page)
    assert "from tests.testapp.pipelines import " in page_of(page)
    worker()
    assert [step.done for step in show(boss).context["steps"]] == [True, True, True, False]
    double.enqueue(1)
    assert show(boss).context["steps"] == []


def test_no_pipelines(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "registry", [])
    text = page_of(show(boss))
    assert "@pipeteer.activity()" in text
    assert "makemigrations" in text
    assert person("nobody").get(address()).status_code == 403


def test_tables_that_are_not_there(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs(double_sync, [1.0])
    monkeypatch.setattr(figures, "without_tables", lambda using, pipelines: [double, quad])
    page = show(boss)
    (item,) = page.context["items"]
    assert "double, quad" in item.said
    assert item.command == "python manage.py makemigrations testapp && python manage.py migrate"


def test_tables_are_looked_for() -> None:
    pipelines = list(registry)
    assert figures.without_tables("default", pipelines) == []


# Who may see it


@pytest.mark.parametrize("name", PEOPLE)
def test_who_may_see_it(name: str) -> None:
    worker("host-1")
    double.enqueue(1)
    expected = {"anonymous": 302, "outsider": 302, "nobody": 403}.get(name, 200)
    response = person(name).get(address())
    assert response.status_code == expected


def test_only_what_one_may_view(client: Client) -> None:
    user = User.objects.create_user("some", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_doubleinput"))
    client.force_login(user)
    worker("silent-one", ago=600)
    double.enqueue(1)
    boom.enqueue("x")
    by_hand.settle(by_hand.claim_one(boom), Failed(FAILURE))
    page = show(client)
    assert [row.id for row in page.context["rows"]] == ["double"]
    assert page.context["quiet"] == []
    text = page_of(page)
    for hidden in ("boom", "silent-one", "Workers"):
        assert hidden not in text
    user.user_permissions.add(Permission.objects.get(codename="view_worker"))
    assert "silent-one" in page_of(show(client))


def test_a_site_shows_what_is_registered_in_it() -> None:
    site = AdminSite("operations")
    site.register(double.Input)
    site.register(Queue, type(register_and_get()))
    request = RequestFactory().get("/")
    request.user = User.objects.create_superuser("root")
    double.enqueue(1)
    boom.enqueue("x")
    response: Any = dashboard.dashboard_view(request, site.get_model_admin(Queue))
    assert [row.id for row in response.context_data["rows"]] == ["double"]


def register_and_get() -> Any:
    site = AdminSite("all")
    register_queues(site)
    return site.get_model_admin(Queue)


def test_it_only_looks(boss: Client) -> None:
    double.enqueue(1)
    worker(ago=600)
    assert boss.post(address()).status_code == 405
    with CaptureQueriesContext(connection) as captured:
        show(boss)
    writing = re.compile("^(INSERT|UPDATE|DELETE|REPLACE)")
    assert [row["sql"] for row in captured.captured_queries if writing.match(row["sql"])] == []


# The page


def test_hostile_text_is_inert(boss: Client) -> None:
    boom.enqueue(HOSTILE, key=HOSTILE)
    double.enqueue(1, key=HOSTILE)
    worker("<b>host</b>", ids="<i>evil</i>")
    failure = Failure("Boom", HOSTILE, f"Traceback\nBoom: {HOSTILE}")
    by_hand.settle(by_hand.claim_one(boom), Failed(failure))
    text = page_of(show(boss))
    assert "&lt;script&gt;alert(1)" in text
    for raw in ("<script>alert", "<img src=x", "<b>host", "<i>evil"):
        assert raw not in text
    assert not re.search(r"<style|<[^>]*\sstyle=|<script(?![^>]*\ssrc=)[^>]*>", text)


def test_charts_say_what_they_show(boss: Client) -> None:
    outputs(double, [1.0, 2.0])
    text = page_of(show(boss))
    titles = dict(re.findall(r'<title id="([^"]+)">([^<]+)</title>', text))
    assert set(titles) == {"rate-double", "took-double"}
    assert all(f'role="img" aria-labelledby="{id}"' in text for id in titles)
    assert len(re.findall(r'id="pipeteer-dashboard" data-pipeteer-live="\*" data-pipeteer-least="5"', text)) == 1


def test_lists_lead_to_it(boss: Client) -> None:
    for model in (Queue, double.Input):
        assert f'href="{address()}"' in page_of(boss.get(url(model)))


# What it costs


@pytest.fixture
def many() -> None:
    """Three thousand entries and as many results, in three priorities, some due, some later, some failed."""
    now = timezone.now()
    entries = [
        double.Input(key=str(n), value=n, priority=(-5, 0, 5)[n % 3], available_at=now + timedelta(seconds=n - 1500))
        for n in range(3000)
    ]
    double.Input.objects.bulk_create(entries)
    plain(double.Input, "default").filter(value__gte=2900).update(available_at=None, failed_at=now, error="x")
    outputs(double, [1.0] * 3000)
    if connection.vendor != "mysql":  # there it commits, and is not needed
        with connection.cursor() as cursor:
            for model in (double.Input, double.Output):
                cursor.execute(f"ANALYZE {connection.ops.quote_name(model._meta.db_table)}")


def statements(client: Client) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        show(client)
    return [row["sql"] for row in captured.captured_queries]


@pytest.mark.usefixtures("many")
def test_the_number_of_statements_does_not_grow(boss: Client) -> None:
    many = statements(boss)
    assert len(list(registry)) > 50
    assert len(many) <= 30
    plain(double.Input, "default").filter(value__gt=5).delete()
    few = statements(boss)
    assert len(few) <= len(many) <= len(few) + 3  # a round for each priority


@pytest.mark.usefixtures("many")
def test_entries_are_counted_along_the_claim_index() -> None:
    with CaptureQueriesContext(connection) as captured:
        figures.depths("default", [double])
    said = [row["sql"] for row in captured.captured_queries]
    about_entries = [sql for sql in said if double.Input._meta.db_table in sql]
    assert len(about_entries) >= 3
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            # Three thousand rows may be read whole as fast; it is about whether the index would do.
            cursor.execute("SET LOCAL enable_seqscan = off")
    for sql in about_entries:
        plan = explain(sql)
        assert claim_index() in plan or re.search("optimized away|No matching min/max row", plan), plan
        assert not re.search(rf"SCAN {double.Input._meta.db_table}(?! USING)|Seq Scan on testapp", plan), plan


@pytest.mark.usefixtures("many")
def test_results_are_walked_from_the_newest_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paces, "LATEST", 20)
    with CaptureQueriesContext(connection) as captured:
        paces.paces("default", [double], [], timezone.now() - timedelta(minutes=15))
    for row in captured.captured_queries:
        plan = explain(row["sql"])
        assert not re.search("TEMP B-TREE|filesort|Sort|Seq Scan on testapp", plan), plan


def test_what_is_pushed_is_finished(boss: Client) -> None:
    approve.enqueue("may I?", key="q")
    assert push(approve, "default", "q", True)
    assert row_of(show(boss), "approve").rate
    double.enqueue(1)
    by_hand.settle(by_hand.claim_one(double), Done(2))
    assert row_of(show(boss), "double").last is not None
