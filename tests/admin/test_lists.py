"""Lists: which models are there, what they show, and what that costs where there are many rows."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin import AdminSite, site
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from pipeteer_django.admin import InputAdmin, OutputAdmin, register_queues
from pipeteer_django.admin.filters import first_since
from pipeteer_django.admin.states import STATES, state_of
from pipeteer_django.models import Queue, Worker
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.claim import plain
from pipeteer_django.worker.attempts import run_workflow
from tests.admin.conftest import page_of, url
from tests.queues import by_hand
from tests.queues.test_plans import explain
from tests.testapp.models import Item
from tests.testapp.pipelines import boom, double, process_item, quad

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).resolve().parents[2]


# Which models


def test_all_tables_of_all_pipelines_are_there() -> None:
    for pipeline in registry:
        assert all(site.is_registered(model) for model in pipeline.models.values())
    assert site.is_registered(Worker)
    assert site.is_registered(Queue)


def test_a_site_of_ones_own() -> None:
    mine = AdminSite("mine")
    mine.register(double.Input, OutputAdmin)
    register_queues(mine)
    register_queues(mine)
    assert type(mine.get_model_admin(double.Input)) is OutputAdmin
    assert type(mine.get_model_admin(quad.Input)) is InputAdmin


@pytest.mark.timeout(600)  # a page for each table and row
def test_every_page_opens(boss: Client) -> None:
    item = Item.objects.create(name="an item")
    process_item.enqueue(item)
    process_item.Output.objects.create(key="a", value=item, run_id=1)
    quad.enqueue(1)
    by_hand.drain_anyway(quad)
    quad.enqueue(2)
    by_hand.settle(claim := by_hand.claim_one(quad), run_workflow(claim))
    for pipeline in registry:
        for model in pipeline.models.values():
            assert boss.get(url(model)).status_code == 200, model
            for row in model._base_manager.all():
                for name in ("change", "history"):
                    assert boss.get(url(model, name, row.pk)).status_code == 200, (model, name)
        assert boss.get(url(pipeline.Input, "add")).status_code == 200
    for model in (Worker, Queue):
        assert boss.get(url(model)).status_code == 200


PROJECT = """
import sys
from django.conf import settings
settings.configure(
    INSTALLED_APPS={apps},
    DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}}},
    PIPETEER={pipeteer},
    USE_TZ=True,
)
import django
django.setup()
from pipeteer_django.pipelines.registry import registry
if any("admin" in name for name in settings.INSTALLED_APPS):
    from django.contrib.admin import site
    there = [type(site._registry[m]).__name__ for m in (registry.find("twice").Input, registry.find("twice").Output)
             if site.is_registered(m)]
    print(there)
else:
    print([name for name in sys.modules if "admin" in name and ("django.contrib" in name or "pipeteer" in name)])
"""
PIPELINES = """
import pipeteer_django as pipeteer
@pipeteer.activity()
def twice(x: int) -> int:
    return 2 * x
"""
ADMIN = """
from django.contrib import admin
from pipeteer_django.admin import InputAdmin
from mine.pipelines import twice
@admin.register(twice.Input)
class Mine(InputAdmin):
    pass
"""
BASICS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.messages", "django.contrib.sessions"]


def registered(folder: Path, apps: list[str], pipeteer: str = "{}") -> str:
    (folder / "mine").mkdir()
    for name, text in {"__init__": "", "pipelines": PIPELINES, "admin": ADMIN}.items():
        (folder / "mine" / f"{name}.py").write_text(text)
    code = PROJECT.format(apps=[*BASICS, *apps], pipeteer=pipeteer)
    path = f"{folder}:{ROOT}"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ORDERS = [
    ["django.contrib.admin", "pipeteer_django", "mine"],
    ["django.contrib.admin", "mine", "pipeteer_django"],
    ["pipeteer_django", "django.contrib.admin", "mine"],
    ["pipeteer_django", "mine", "django.contrib.admin"],
    ["mine", "pipeteer_django", "django.contrib.admin"],
    ["mine", "django.contrib.admin", "pipeteer_django"],
]


@pytest.mark.once
@pytest.mark.parametrize("apps", ORDERS, ids=" ".join)
def test_what_users_registered_wins_whatever_the_order(apps: list[str], tmp_path: Path) -> None:
    assert registered(tmp_path, apps) == "['Mine', 'OutputAdmin']"


@pytest.mark.once
def test_opting_out(tmp_path: Path) -> None:
    assert registered(tmp_path, ORDERS[0], "{'ADMIN': False}") == "['Mine']"


@pytest.mark.once
def test_without_discovery_nothing_is_registered(tmp_path: Path) -> None:
    apps = ["django.contrib.admin.apps.SimpleAdminConfig", "pipeteer_django", "mine"]
    assert registered(tmp_path, apps) == "[]"


@pytest.mark.once
def test_without_the_admin_nothing_of_it_is_imported(tmp_path: Path) -> None:
    assert registered(tmp_path, ["pipeteer_django", "mine"]) == "[]"


# What a list shows


def in_every_state() -> None:
    """Six entries of `double`: key is the state."""
    double.enqueue(1, key="running")
    by_hand.claim_one(double)
    by_hand.engine(double, available_at=timezone.now() + timedelta(minutes=5))  # however slow this machine is
    double.enqueue(1, key="ready")
    double.enqueue(1, key="scheduled", delay=timedelta(hours=1))
    double.enqueue(1, key="failed")
    error = "Traceback\n  File somewhere\nBoom: no\n"
    failed = {"available_at": None, "failed_at": timezone.now(), "error": error}
    plain(double.Input, "default").filter(key="failed").update(**failed)
    double.enqueue(1, key="waiting")
    plain(double.Input, "default").filter(key="waiting").update(available_at=None, suspended=True)


@pytest.mark.parametrize("state", STATES)
def test_labels_and_filters_agree(state: str, boss: Client) -> None:
    in_every_state()
    for entry in double.Input.objects.all():
        assert state_of(entry) == entry.key
    page = boss.get(url(double.Input), {"state": state})
    assert [entry.key for entry in page.context["cl"].result_list] == [state]
    assert f'<span class="pipeteer-state pipeteer-{state}">{state}</span>' in page_of(page)


def test_columns(boss: Client) -> None:
    in_every_state()
    page = page_of(boss.get(url(double.Input)))
    assert "by hand" in page
    assert "Boom: no" in page
    assert "File somewhere" not in page


def test_a_held_queue_says_so(boss: Client) -> None:
    assert "is held" not in page_of(boss.get(url(double.Input)))
    Queue.objects.create(pipeline="double", held=True)
    assert "is held" in page_of(boss.get(url(double.Input)))


def keys(page: Any) -> list[str]:
    return [row.key for row in page.context["cl"].result_list]


@pytest.mark.parametrize("model", [double.Input, double.Output])
def test_search(boss: Client, model: Any) -> None:
    for number, key in enumerate(["order-1", "order-10", "Order-1", "order-2", "orde", "order-1%", "order_1"]):
        columns = {"run_id": number} if model is double.Output else {}
        model.objects.create(key=key, value=1, **columns)
    assert keys(boss.get(url(model), {"q": "order-1"})) == ["order-1", "order-1%", "order-10"]
    assert keys(boss.get(url(model), {"q": "order-1%"})) == ["order-1%"]
    assert set(keys(boss.get(url(model), {"q": "order_"}))) == {"order_1"}
    assert keys(boss.get(url(model), {"q": "x"})) == []
    assert "how it begins" in page_of(boss.get(url(model)))


def test_search_for_a_models_row(boss: Client) -> None:
    one, other = Item.objects.create(name="one"), Item.objects.create(name="other")
    for key, item in (("a", one), ("b", other), ("c", one), (f"{one.pk}0", other)):
        process_item.enqueue(item, key=key)
    assert set(keys(boss.get(url(process_item.Input), {"q": str(one.pk)}))) == {"a", "c"}
    assert keys(boss.get(url(process_item.Input), {"q": "b"})) == ["b"]
    assert keys(boss.get(url(process_item.Input), {"q": "9" * 30})) == []
    process_item.enqueue(other, key=str(one.pk))
    assert set(keys(boss.get(url(process_item.Input), {"q": str(one.pk)}))) == {"a", "c", str(one.pk)}


def test_filters(boss: Client) -> None:
    double.enqueue(1, key="a", output="one")
    double.enqueue(1, key="b", output="two")
    plain(double.Input, "default").filter(key="a").update(created_at=timezone.now() - timedelta(days=2))
    assert keys(boss.get(url(double.Input), {"output": "one"})) == ["a"]
    assert keys(boss.get(url(double.Input), {"output": "three"})) == []
    for since, expected in {"1": "b", "24": "b", "168": "ba", "-24": "a", "-168": ""}.items():
        assert "".join(keys(boss.get(url(double.Input), {"since": since}))) == expected, since
    assert keys(boss.get(url(double.Input), {"since": "nonsense", "state": "nonsense"})) == ["b", "a"]


def test_the_first_row_since() -> None:
    now = timezone.now()
    double.enqueue_many(range(20))
    ids = list(double.Input.objects.order_by("id").values_list("id", flat=True))
    for number, id in enumerate(ids):
        plain(double.Input, "default").filter(id=id).update(created_at=now + timedelta(minutes=number))
    double.Input.objects.filter(id__in=ids[3:6]).delete()
    left = sorted(set(ids) - set(ids[3:6]))
    for number in range(-1, 21):
        first = first_since(double.Input.objects.all(), "created_at", now + timedelta(minutes=number))
        assert first is not None
        young = [id for id in left if ids.index(id) >= number]
        assert [id for id in left if id >= first] == young
    double.Input.objects.all().delete()
    assert first_since(double.Input.objects.all(), "created_at", now) is None


# What it costs


@pytest.fixture
def many() -> None:
    """Three thousand entries, as many results."""
    double.enqueue_many(range(3000))
    rows = [double.Output(key=str(number), value=number, run_id=number) for number in range(3000)]
    double.Output.objects.bulk_create(rows)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            for model in (double.Input, double.Output):
                cursor.execute(f"ANALYZE {connection.ops.quote_name(model._meta.db_table)}")


def statements(client: Client, model: Any, **query: Any) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        assert client.get(url(model), query).status_code == 200
    return [row["sql"] for row in captured.captured_queries]


def the_page(said: list[str]) -> str:
    (page,) = (sql for sql in said if sql.startswith("SELECT") and "LIMIT 101" in sql)
    return page


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("model", [double.Input, double.Output])
def test_a_list_counts_nothing_and_asks_as_much_for_many_rows_as_for_one(boss: Client, model: Any) -> None:
    boss.get(url(model))
    said = statements(boss, model)
    assert not any("COUNT(" in sql for sql in said)
    assert not any("DISTINCT" in sql for sql in said)
    model._base_manager.filter(pk__gt=model._base_manager.order_by("pk").first().pk).delete()
    assert len(statements(boss, model)) == len(said) <= 9


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("model", [double.Input, double.Output])
@pytest.mark.parametrize(
    "query", [{}, {"p": 7}, {"q": "1"}, {"o": "1"}, {"o": "4"}, {"o": "-4"}, {"since": "24"}, {"output": "output"}]
)
def test_a_page_walks_an_index(boss: Client, model: Any, query: dict[str, Any]) -> None:
    if model is double.Output and "output" in query:
        pytest.skip("results of one output are the planner's to sort or to skip")
    page = the_page(statements(boss, model, **query))
    plan = explain(page)
    for sorting in ("filesort", "TEMP B-TREE", "Sort"):
        assert sorting not in plan, plan
    if query:
        return
    assert "OFFSET" not in page
    columns = page.split(" FROM ")[0]
    if model is double.Input:
        assert '"value"' not in columns and "`value`" not in columns  # noqa: PT018


@pytest.mark.parametrize("state", STATES)
def test_a_state_is_asked_for_without_a_sort(state: str, boss: Client, many: None) -> None:
    plan = explain(the_page(statements(boss, double.Input, state=state)))
    assert not re.search("TEMP B-TREE|filesort", plan)


def test_long_values_stay_in_the_database(boss: Client) -> None:
    boom.enqueue("m" * 100_000)
    plain(boom.Input, "default").update(error="e" * 100_000)
    page = boss.get(url(boom.Input))
    (entry,) = page.context["cl"].result_list
    assert "e" * 600 not in page_of(page)
    assert "m" * 600 not in page_of(page)
    assert {"value", "error"} <= entry.get_deferred_fields()


def test_a_list_of_models_rows_joins_them(boss: Client) -> None:
    for number in range(5):
        item = Item.objects.create(name=f"item {number}")
        process_item.Output.objects.create(key=str(number), value=item, run_id=number)
    boss.get(url(process_item.Output))
    five = statements(boss, process_item.Output)
    assert "item 4" in page_of(boss.get(url(process_item.Output)))
    process_item.Output.objects.exclude(key="0").delete()
    assert len(statements(boss, process_item.Output)) == len(five)


# Pages


@pytest.mark.usefixtures("many")
def test_leafing(boss: Client) -> None:
    seen: list[str] = []
    address = url(double.Input) + "?output=output"
    pages = 0
    while address:
        page = boss.get(address)
        seen += [
            row.value for row in double.Input.objects.filter(pk__in=[r.pk for r in page.context["cl"].result_list])
        ]
        following = re.search(r'<a href="([^"]+)" rel="next">', page_of(page))
        address = url(double.Input) + following[1].replace("&amp;", "&") if following else ""
        assert ('rel="prev"' in page_of(page)) == (pages > 0)
        pages += 1
    assert pages == 30
    assert sorted(map(int, seen)) == list(range(3000))


@pytest.mark.parametrize("page", ["0", "-1", "2", "10001", "9" * 30, "x"])
def test_pages_that_are_not_there(boss: Client, page: str) -> None:
    double.enqueue(1)
    assert boss.get(url(double.Input), {"p": page}, follow=True).status_code == 200


def test_a_page_whose_rows_have_gone(boss: Client) -> None:
    """It is empty, so that it goes on looking, and leads back."""
    double.enqueue(1)
    page = boss.get(url(double.Input), {"p": 2})
    assert page.status_code == 200
    assert keys(page) == []
    assert 'href="?p=1" rel="prev"' in page_of(page)


def test_an_empty_list(boss: Client) -> None:
    page = page_of(boss.get(url(double.Input)))
    assert 'rel="next"' not in page
    assert "Hold the queue" in page


def test_no_inline_style_or_script(boss: Client) -> None:
    """Pages work under a strict Content-Security-Policy: ours add nothing inline."""
    in_every_state()
    entry = double.Input.objects.get(key="failed")
    action = {"action": "retry", "_selected_action": [entry.pk], "index": "0"}
    pages = [
        boss.get(url(double.Input)),
        boss.get(url(double.Input, "change", entry.pk)),
        boss.post(url(double.Input), action),
    ]
    for page in map(page_of, pages):
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)[^>]*>", page), page
        assert "pipeteer_django/admin.css" in page
