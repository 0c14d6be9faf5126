"""Hostile text in every column of every table, and in everything that is sent, makes no element and no attribute.

Each page is read twice, with harmless text and with hostile text: a browser must see the same elements.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import transaction
from django.db.models import JSONField, Value
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from pipeteer_django.admin.run import timeline
from pipeteer_django.models import Queue, Worker
from pipeteer_django.queues.claim import plain
from tests.admin.conftest import page_of, url
from tests.hostile import TOGETHER, XSS, Skeleton, skeleton
from tests.queues import by_hand
from tests.testapp.models import Item
from tests.testapp.pipelines import (
    Customer,
    Point,
    Verdict,
    approve,
    double,
    echo_customer,
    echo_nested,
    echo_point,
    echo_str,
    echo_union,
    judge,
    process_item,
    review,
    scripted,
)

pytestmark = [pytest.mark.django_db, pytest.mark.once]

HARMLESS = "a harmless text, and no more"
HOUR = timedelta(hours=1)
Pages = dict[str, Callable[[], Any]]


def printable(text: str) -> str:
    """A key: control characters are refused."""
    return "".join(letter for letter in text if letter.isprintable())


def fill(text: str) -> dict[str, Any]:
    """A row of every table with the text in each column that takes one. Returns some of the rows."""
    key = printable(text)
    now = timezone.now()
    names = {"key": key, "output": key}
    rows = {
        "str": echo_str.Input.objects.create(value=text, **names),
        "point": echo_point.Input.objects.create(value=Point(1, 2, [text, text]), **names),
        "nested": echo_nested.Input.objects.create(value={key: [Point(1, 2, [text])]}, **names),
        "customer": echo_customer.Input.objects.create(value=Customer(name=text, age=1), **names),
        "union": echo_union.Input.objects.create(value=[text], **names),
        "misfit": double.Input.objects.create(value=1, **names),
        "item": process_item.Input.objects.create(value=Item.objects.create(name=text[:100]), **names),
        "run": scripted.Input.objects.create(value={text: [text]}, **names),
        "approve": approve.Input.objects.create(value=text, **names),
        "judge": judge.Input.objects.create(value=Customer(name=text, age=1), **names),
        "review": review.Input.objects.create(value=Item.objects.create(name=text[:100]), **names),
    }
    for pipeline in (echo_str, echo_nested, double, scripted):
        by_hand.engine(pipeline, error=f"{text}\n{text}", failed_at=now, available_at=None)
    for pipeline in (echo_point, echo_union):
        by_hand.engine(pipeline, reserved_by=key[:100], available_at=now + HOUR)
    for pipeline in (echo_customer, approve, judge, review):
        by_hand.engine(pipeline, caller=text[:63], step_id=5)
    for pipeline in (echo_str, echo_point, scripted):
        by_hand.engine(pipeline, progress_text=text, progress=0.5)
    plain(echo_point.Input, "default").update(holder=key[:100])
    rows["misfit_point"] = echo_point.Input.objects.create(value=Point(1, 2), key="misfit", output=key)
    plain(echo_point.Input, "default").filter(key="misfit").update(value=Value({"x": text, text: text}, JSONField()))
    rows |= results(text, key) | record(rows["run"].pk, text, key) | record(9999, text, key)
    old = {"started_at": now - HOUR, "heartbeat_at": now}
    rows["worker"] = Worker.objects.create(label=key[:100], pipelines=f"{text} {text}", doing=text, **old)
    rows["queue"] = Queue.objects.create(pipeline=text[:63], held=True)
    return rows


def results(text: str, key: str) -> dict[str, Any]:
    """Results."""
    names = {"key": key, "output": key}
    values = {
        echo_str: text,
        echo_point: Point(1, 2, [text]),
        echo_nested: {key: []},
        judge: Verdict("refund", [text]),
    }
    made = {p.id: p.Output.objects.create(value=value, run_id=7, **names) for p, value in values.items()}
    over = {
        "run_id": 9999,
        "param": {text: text},
        "started_at": timezone.now() - HOUR,
        "created_at": timezone.now() - HOUR,
    }
    return {f"{name}_result": row for name, row in made.items()} | {
        "over": scripted.Output.objects.create(value={text: text}, **over, **names)
    }


def record(run_id: int, text: str, key: str) -> dict[str, Any]:
    """The steps and messages of a run: of a pipeline that nobody knows, done, failed, open, and the engine's own."""
    now = timezone.now() - HOUR / 2
    error = {"type": text, "message": text, "traceback": f"{text}\n{text}"}
    steps = [
        {"pipeline": text[:63], "param": {text: text}, "result": [text], "done_at": now, "order": 1},
        {"pipeline": "echo_str", "param": text, "error": error, "done_at": now, "order": 2, "child_id": 70},
        {"pipeline": "approve", "param": text, "child_id": 71},
        {"pipeline": "scripted_child", "param": text, "result": text, "done_at": now, "order": 3, "child_id": 72},
        {"pipeline": ":patch", "param": text, "result": True, "done_at": now, "order": 0},
        {"pipeline": ":send", "param": [text, text, text, text], "error": error, "done_at": now, "order": 0},
        {"pipeline": ":timer", "param": text, "cancelled_at": now},
    ]
    made = [
        scripted.Step.objects.create(run_id=run_id, index=n, created_at=now - HOUR / 2, **step)
        for n, step in enumerate(steps)
    ]
    sent = {"run_id": run_id, "name": key, "value": {text: text}, "sent_at": now}
    message = scripted.Message.objects.create(**sent, branch=0, order=4)
    scripted.Message.objects.create(**sent)
    return {"step": made[1], "message": message}


def pages(client: Client, rows: dict[str, Any], text: str) -> Pages:
    """Every page, by name."""
    return {
        **dict(lists(client, text)),
        **dict(forms(client, rows)),
        **dict(runs(client, rows, text)),
        **dict(posts(client, rows, text)),
    }


def lists(client: Client, text: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Lists, with and without filters, and the pages about many tables."""
    pipelines = (echo_str, echo_point, scripted, approve)
    models = [model for pipeline in pipelines for model in pipeline.models.values()]
    for model in [*models, Worker, Queue]:
        yield f"list of {model.__name__}", lambda model=model: client.get(url(model))
    asked = (
        {"q": printable(text)},
        {"output": printable(text)},
        {"state": text, "since": text},
        {text: text},
        {"o": text, "p": text},
    )
    for data in asked:
        names = [name for name in data if name != text]
        yield f"list {names}", lambda data=data: client.get(url(echo_str.Input), data, follow=True)
    for name, query in (
        ("index", {}),
        ("pipeteer_django_queue_dashboard", {"window": text}),
        ("pipeteer_django_queue_inbox", {text: text}),
    ):
        yield name, lambda name=name, query=query: client.get(reverse(f"admin:{name}"), query)
    for task in (approve, judge, review):
        yield f"inbox of {task.id}", lambda task=task: client.get(url(task.Input, "inbox"), {"after": text})


def forms(client: Client, rows: dict[str, Any]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The forms of rows, for who may change them and who may not, and what hangs on them."""
    viewer = Client()
    viewer.force_login(User.objects.get(username="viewer"))
    for name, row in rows.items():
        address = url(type(row), "change", row.pk)
        yield f"form of {name}", lambda address=address: client.get(address)
        if name in ("point", "nested", "str", "judge_result", "item"):
            yield f"{name}, read only", lambda address=address: viewer.get(address)
    for name in ("str", "run", "queue", "str_result"):
        row = rows.get(name) or rows["echo_str_result"]
        for page in ("delete", "history"):
            yield f"{page} of {name}", lambda page=page, row=row: client.get(url(type(row), page, row.pk))
    for name in ("approve", "judge", "review"):
        yield f"answer {name}", lambda row=rows[name]: client.get(url(type(row), "answer", row.pk), {"from": "all"})


def runs(client: Client, rows: dict[str, Any], text: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The page of a run that is underway, and of one that is over."""
    queries: list[dict[str, Any]] = [{}, {"from": text, "branch": text, "until": text}, {"step": 1}, {"step": text}]
    queries += [{"step": 2, "do": "correct"}, {"step": 1, "do": "rerun"}, {"step": 1, "do": text}]
    for run_id, name in ((rows["run"].pk, "underway"), (9999, "over")):
        for data in queries:
            yield (
                f"run {name} {data if text not in data.values() else list(data)}",
                lambda run_id=run_id, data=data: client.get(url(scripted.Input, "run", run_id), data),
            )


def posts(client: Client, rows: dict[str, Any], text: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is typed comes back with an error, or is said in a message."""

    def post(name: str, address: str, data: Any) -> tuple[str, Callable[[], Any]]:
        return name, lambda: client.post(address, data, follow=True)

    chosen = {"_selected_action": [rows["str"].pk], "index": "0", "select_across": text}
    for act in ("retry", "complete", "reroute", "cancel", "delete_selected"):
        model, row = (scripted.Input, rows["run"]) if act == "cancel" else (echo_str.Input, rows["str"])
        yield post(f"asks {act}", url(model), chosen | {"action": act, "_selected_action": [row.pk]})
    yield post("done", url(echo_str.Input), chosen | {"action": "reroute", "post": "yes", "output": text})
    wrong = {"key": text, "value": text, "output": text, "priority": text, "loaded_epoch": text}
    yield post("entry with errors", url(double.Input, "change", rows["misfit"].pk), wrong)
    typed = {"value--form": "1", "value-x": text, "value-y": text, "value-tags--rows": "1", "value-tags-0--keep": "1"}
    yield post("typed with errors", url(echo_point.Input, "change", rows["point"].pk), wrong | typed)
    yield post("saved", url(echo_str.Input, "add"), wrong | {"key": text + "x", "priority": "0"})
    answer = {"epoch": text, "value-decision": text, "value-reasons-0-value": text, "value--form": "1"}
    yield post("answer with errors", url(judge.Input, "answer", rows["judge"].pk), answer)
    yield post("answered", url(approve.Input, "answer", rows["approve"].pk), {"epoch": "0", "value": "true"})
    yield post("answered again", url(approve.Input, "answer", rows["approve"].pk), {"epoch": "0", "value": text})
    at = url(scripted.Input, "run", rows["run"].pk)
    yield post("correction with errors", f"{at}correct/", {"branch": "0", "step": "2", "value": text, "done_at": text})
    entry = {"key": text + "x", "value": text, "output": text}
    for name, document in {
        "preview": {"version": 1, "pipeline": "echo_str", "entries": [entry]},
        "errors": {"version": 1, "pipeline": "echo_str", "entries": [{**entry, "value": 5, text: text}]},
        "foreign": {"version": 1, "pipeline": text, "entries": []},
    }.items():
        yield post(f"import {name}", url(echo_str.Input, "import"), {"text": json.dumps(document)})
    yield post("import no JSON", url(echo_str.Input, "import"), {"text": text})


def seen(text: str) -> dict[str, tuple[Skeleton, str]]:
    """What a browser sees of each page, in a world full of this text, which is gone afterwards."""
    found = {}
    with transaction.atomic():
        client = Client()
        client.force_login(User.objects.create_superuser("boss"))
        User.objects.create_user("viewer", is_staff=True).user_permissions.set(views())
        for name, ask in pages(client, fill(text), text).items():
            response = ask()
            assert response.status_code in (200, 404), (name, response.status_code)
            found[name] = (skeleton(page_of(response)), page_of(response))
        transaction.set_rollback(True)
    return found


def views() -> Any:
    return Permission.objects.filter(codename__startswith="view_")


@pytest.fixture(autouse=True)
def _small_site(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tables, and an axis whose number of ticks does not depend on the time of day."""
    settings.ROOT_URLCONF = "tests.admin.small_site"
    monkeypatch.setattr(timeline, "ticks", lambda scale, zone: [timeline.Tick(300, "noon")])


@functools.cache
def harmless() -> dict[str, tuple[Skeleton, str]]:
    """The same with harmless text."""
    return seen(HARMLESS)


@pytest.mark.parametrize("text", TOGETHER, ids=range(len(TOGETHER)))
def test_it_is_text_and_nothing_else(text: str) -> None:
    found = seen(text)
    assert found.keys() == harmless().keys()
    different = {name: page.differs(harmless()[name][0]) for name, (page, _) in found.items()}
    assert not {name: what for name, what in different.items() if what}


def test_the_text_is_there() -> None:
    """Else the other test would prove nothing."""
    without = {name for name, (_, html) in harmless().items() if HARMLESS[:20] not in html}
    assert without <= {"list of ApproveOutput", "index", "import foreign"}


@pytest.mark.parametrize("text", XSS[:16])
def test_what_would_be_noticed(text: str) -> None:
    """Had it been put into a page as it is."""
    holes = [
        *("<p>{}</p>", '<p title="{}">', "<p title='{}'>", "<textarea>{}</textarea>", '<a href="{}">'),
        *("<svg><text>{}</text></svg>", "<pre>{}</pre>", "<select><option>{}</option></select>"),
        *("<title>{}</title>", "<script>x='{}'</script>"),
    ]
    assert any(skeleton(hole.format(text)).differs(skeleton(hole.format(HARMLESS))) for hole in holes)
