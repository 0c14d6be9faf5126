"""Entries out of a queue and into one: the document, who may, what is refused, and that nothing is half done."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync
from django.contrib.admin.models import ADDITION, LogEntry
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import IntegrityError, connection
from django.test import AsyncClient, Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from pipeteer_django.admin import InputAdmin
from pipeteer_django.admin.exchange import page as exchange
from pipeteer_django.admin.exchange.document import read
from pipeteer_django.queues.chunks import add
from pipeteer_django.queues.claim import plain
from pipeteer_django.signals import entry_enqueued
from tests.admin.conftest import PEOPLE, page_of, person, said, url
from tests.testapp.models import Item
from tests.testapp.pipelines import (
    Colour,
    Customer,
    Point,
    approve,
    double,
    echo_colour,
    echo_customer,
    echo_date,
    echo_datetime,
    echo_float,
    echo_money,
    echo_nested,
    echo_optional,
    echo_point,
    echo_str,
    echo_timedelta,
    echo_uuid,
    no_input,
    process_item,
    quad,
    scripted,
)

pytestmark = pytest.mark.django_db

USER = ("key", "value", "output", "priority", "available_at")


def exported(client: Client, pipeline: Any, rows: Any = None, **more: Any) -> Any:
    """The response to the action."""
    chosen = pipeline.Input.objects.all() if rows is None else rows
    data = {"action": "export", "_selected_action": [entry.pk for entry in chosen], "index": "0", **more}
    return client.post(url(pipeline.Input), data)


def text_of(response: Any) -> str:
    return b"".join(response.streaming_content).decode()


def document(pipeline: Any, *entries: Any, **more: Any) -> str:
    return json.dumps({"version": 1, "pipeline": pipeline.id, "entries": list(entries), **more})


def entry(key: str = "a", value: Any = 1, **more: Any) -> dict[str, Any]:
    return {"key": key, "value": value, **more}


def put(client: Client, pipeline: Any, text: str, **more: Any) -> Any:
    """Press the button of the import's page, or with `post="yes"` that of its second step."""
    return client.post(url(pipeline.Input, "import"), {"text": text, **more}, follow=True)


def complaints(response: Any) -> list[str]:
    return [message for messages in response.context["form"].errors.values() for message in messages]


# Export


def test_the_document(boss: Client) -> None:
    due = datetime(2030, 12, 24, 18, 30, tzinfo=UTC)
    double.enqueue(1, key="Ä\u202e<b>", output="there", priority=5, run_after=due)
    double.enqueue(2, key="b")
    response = exported(boss, double)
    assert response["Content-Type"] == "application/json"
    assert response.streaming
    assert response["Content-Disposition"].startswith('attachment; filename="double-')
    found = json.loads(text_of(response))
    assert (found["version"], found["pipeline"], found["count"], found["truncated"]) == (1, "double", 2, False)
    first = entry("Ä\u202e<b>", 1, output="there", priority=5, available_at="2030-12-24T18:30:00+00:00")
    assert found["entries"][0] == first | {"state": "scheduled", "attempt": 0, "caller": ""}
    assert LogEntry.objects.count() == 0


def test_what_the_engine_wrote_is_no_wish(boss: Client) -> None:
    later = timezone.now() + timedelta(hours=1)
    moved = [{"reserved_by": "me", "available_at": later}, {"suspended": True, "available_at": later}]
    for columns in [*moved, {"failed_at": later, "available_at": None}]:
        run = quad.enqueue(1)
        plain(quad.Input, "default").filter(pk=run.id).update(**columns)
    found = json.loads(text_of(exported(boss, quad)))["entries"]
    assert [row["available_at"] for row in found] == [None] * 3
    assert [row["state"] for row in found] == ["running", "waiting", "failed"]


def test_a_value_that_no_longer_fits_is_exported(boss: Client) -> None:
    run = echo_point.enqueue(Point(1, 2))
    table = connection.ops.quote_name(echo_point.Input._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET value = %s WHERE id = %s", ['{"x": "?"}', run.id])
    text = text_of(exported(boss, echo_point))
    assert json.loads(text)["entries"][0]["value"] == {"x": "?"}
    assert complaints(put(boss, echo_point, text))[0].startswith("Entry 1: value.x: Input should be a valid integer")


def test_an_empty_choice_and_a_cut_one(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InputAdmin, "most_per_action", 3)
    double.enqueue_many(range(3))
    assert json.loads(text_of(exported(boss, double)))["truncated"] is False
    double.enqueue(3)
    text = text_of(exported(boss, double, double.Input.objects.all()[:1], select_across="1"))
    assert [row["value"] for row in json.loads(text)["entries"]] == [0, 1, 2]
    assert json.loads(text)["truncated"] is True
    assert "This export was cut" in page_of(put(boss, double, text))


def test_an_export_reads_a_few_at_a_time(boss: Client) -> None:
    double.enqueue_many(range(1200))
    response = exported(boss, double, double.Input.objects.all()[:1], select_across="1")
    with CaptureQueriesContext(connection) as queries:
        parts = iter(response.streaming_content)
        next(parts), next(parts)
        assert len(queries) <= 4
        assert len(list(parts)) == 1200
    assert len(queries) <= 4 + 1200 / 50 + 3
    assert not [query for query in queries.captured_queries if "SELECT" not in query["sql"]]


def test_an_export_for_asgi(boss: Client) -> None:
    double.enqueue_many(range(120))

    async def download() -> str:
        client = AsyncClient()
        client.cookies = boss.cookies
        chosen = [entry.pk async for entry in double.Input.objects.all()]
        data = {"action": "export", "_selected_action": chosen, "index": "0"}
        response = await client.post(url(double.Input), data)
        assert response.is_async
        return b"".join([part async for part in response]).decode()

    found = json.loads(async_to_sync(download)())
    assert [row["value"] for row in found["entries"]] == list(range(120))


# There and back


VALUES: list[tuple[Any, list[Any]]] = [
    (double, [0, -(2**63), 2**63 - 1]),
    (echo_str, ["", '<b>\u2028"\\ä', "x" * 5000]),
    (echo_float, [0.1, 1e300, -0.0]),
    (echo_date, [date(1, 1, 1), date(9999, 12, 31)]),
    (echo_datetime, [datetime(2030, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)]),
    (echo_timedelta, [timedelta(days=-3, microseconds=1)]),
    (echo_uuid, [UUID("12345678-1234-4234-9234-123456789abc")]),
    (echo_colour, list(Colour)),
    (echo_money, [Decimal("12.34")]),
    (echo_optional, [None, 3]),
    (echo_point, [Point(1, 2, ["a"])]),
    (echo_customer, [Customer(name="Ada", age=36)]),
    (echo_nested, [{"a": [Point(1, 2)]}]),
    (scripted, [None, [1, {"a": 1e23}], "x", 10**40]),
    (no_input, [None]),
    (approve, ["really?"]),
]


@pytest.mark.parametrize(("pipeline", "values"), VALUES, ids=lambda item: getattr(item, "id", ""))
def test_there_and_back(pipeline: Any, values: list[Any], boss: Client) -> None:
    due = datetime(2030, 12, 24, 18, 30, 1, 234567, tzinfo=UTC)
    for number, value in enumerate(values):
        pipeline.enqueue(value, key=f" {number} ", output=f"to {number}", priority=number - 1, run_after=due)
    before = list(pipeline.Input.objects.order_by("pk").values_list(*USER))
    text = text_of(exported(boss, pipeline))
    pipeline.Input.objects.all().delete()
    page = put(boss, pipeline, text)
    assert not pipeline.Input.objects.exists()
    put(boss, pipeline, page.context["document"], post="yes")
    assert list(pipeline.Input.objects.order_by("pk").values_list(*USER)) == before


def test_a_file(boss: Client) -> None:
    text = document(double, entry())
    file = SimpleUploadedFile("x.json", b"\xef\xbb\xbf" + text.encode())
    page = boss.post(url(double.Input, "import"), {"file": file})
    assert "1 entry will be added" in page_of(page)
    assert page.context["document"] == text
    put(boss, double, page.context["document"], post="yes")
    assert double.Input.objects.get().key == "a"


def test_rows_are_named_by_their_ids(boss: Client) -> None:
    item = Item.objects.create(name="a thing")
    process_item.enqueue(item, key="a")
    text = text_of(exported(boss, process_item))
    assert json.loads(text)["entries"][0]["value"] == item.pk
    process_item.Input.objects.all().delete()
    put(boss, process_item, text, post="yes")
    assert process_item.Input.objects.get().value == item
    wrong = [entry(str(pk), pk) for pk in (item.pk, item.pk + 1, 10**30, "x", None, True, {})]
    found = complaints(put(boss, process_item, document(process_item, *wrong), post="yes"))
    assert f"Entry 2: value: there is no item with the primary key {item.pk + 1}" in found
    assert "Entry 3: value: there is no item with the primary key 1000000000000000000000000000000" in found
    assert len(found) == 6
    assert process_item.Input.objects.count() == 1


def test_what_workflows_called_is_left_out(boss: Client) -> None:
    run = double.enqueue(1)
    plain(double.Input, "default").filter(pk=run.id).update(caller="quad", step_id=1, key="quad:1:0:0")
    double.enqueue(2, key="b")
    text = text_of(exported(boss, double))
    assert json.loads(text)["entries"][0]["caller"] == "quad"
    double.Input.objects.filter(key="b").delete()
    page = put(boss, double, text)
    assert "1 was called by a workflow and is left out" in page_of(page)
    put(boss, double, text, post="yes")
    assert set(double.Input.objects.values_list("key", flat=True)) == {"quad:1:0:0", "b"}


# Two steps


def test_looking_writes_nothing(boss: Client) -> None:
    page = page_of(put(boss, double, document(double, *(entry(str(number)) for number in range(12)))))
    assert "12 entries will be added" in page
    assert "and 2 more" in page
    assert not double.Input.objects.exists()
    boss.get(url(double.Input, "import"), {"text": document(double, entry()), "post": "yes"})
    assert not double.Input.objects.exists()
    assert not LogEntry.objects.exists()


def test_adding(boss: Client, django_capture_on_commit_callbacks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[str] = []
    heard: list[Any] = []
    monkeypatch.setattr("pipeteer_django.queues.hints.publish", published.append)

    def hear(keys: list[str], **kwargs: Any) -> None:
        heard.extend(keys)

    entry_enqueued.connect(hear)
    try:
        with django_capture_on_commit_callbacks(execute=True):
            page = put(boss, double, document(double, entry("a"), entry("b")), post="yes")
            assert not published
    finally:
        entry_enqueued.disconnect(hear)
    assert (published, heard) == (["double"], ["a", "b"])
    assert said(page) == ["2 entries were added."]
    assert page.redirect_chain == [(url(double.Input), 302)]
    ids = {str(pk) for pk in double.Input.objects.values_list("pk", flat=True)}
    logged = LogEntry.objects.values_list("object_id", "action_flag", "change_message")
    assert set(logged) == {(id, ADDITION, "Imported") for id in ids}
    assert double.Input.objects.ready().count() == 2


def test_keys_that_are_there(boss: Client) -> None:
    double.enqueue(7, key="a")
    text = document(double, entry("a"), entry("b"))
    page = page_of(put(boss, double, text))
    assert "1 entry will be added" in page
    assert "1 of the keys is in the queue already" in page
    assert "(there already)" in page
    refused = put(boss, double, text, post="yes", taken="refuse")
    assert said(refused) == ["Nothing was written: 1 of the keys are there already, such as 'a'."]
    assert double.Input.objects.count() == 1
    assert said(put(boss, double, text, post="yes", taken="skip")) == ["1 entry was added. 1 was there already."]
    assert dict(double.Input.objects.values_list("key", "value")) == {"a": 7, "b": 1}
    assert "There is nothing to add" in page_of(put(boss, double, text))
    assert said(put(boss, double, text, post="yes")) == ["0 entries were added. 2 were there already."]
    assert double.Input.objects.count() == 2


def test_a_key_that_is_taken_in_between(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeteer_django.queues.chunks.taken", lambda *args: set())
    double.enqueue(7, key="b")
    page = put(boss, double, document(double, entry("a"), entry("b")), post="yes")
    assert "Nothing was written" in said(page)[0]
    assert double.Input.objects.values_list("key", "value").get() == ("b", 7)
    assert not LogEntry.objects.exists()
    with pytest.raises(IntegrityError):
        add("default", [double.Input(key="b", value=1)], True, print)


def test_the_number_of_statements(boss: Client) -> None:
    counts = []
    for count in (20, 1200):
        rows = [entry(f"{count}-{number}", number) for number in range(count)]
        with CaptureQueriesContext(connection) as queries:
            put(boss, double, document(double, *rows), post="yes")
        counts.append(len(queries))
    assert double.Input.objects.count() == LogEntry.objects.count() == 1220
    assert counts[1] - counts[0] < 1200 / 20  # SQLite takes so many parameters in a statement and no more


# What is refused


DEEP = '{"pipeline": "double", "entries": [{"key": "a", "value": ' + "[" * 90_000 + "]" * 90_000 + "}]}"
LONG = '{"pipeline": "double", "entries": [{"key": "a", "value": ' + "9" * 5000 + "}]}"
TEXTS: list[tuple[str, str]] = [
    ("", "Choose a file, or paste its text."),
    ("{", "This is no JSON"),
    ("[]", "no list of “entries”"),
    ("null", "no list of “entries”"),
    ('"entries"', "no list of “entries”"),
    ('{"pipeline": "double"}', "no list of “entries”"),
    ('{"pipeline": "double", "entries": {}}', "no list of “entries”"),
    ('{"pipeline": "quad", "entries": []}', "an export of the pipeline 'quad'; this queue is that of 'double'"),
    ('{"entries": []}', "an export of the pipeline None; this queue is that of 'double'"),
    ('{"pipeline": ["double"], "entries": []}', "an export of the pipeline ['double']"),
    ('{"pipeline": "double", "version": 2, "entries": []}', "the format 2; only 1 is known"),
    (DEEP, "nested too deeply"),
    (LONG, "This is no JSON"),
    ('{"pipeline": "double", "entries": [{"key": "a", "value": NaN}]}', "NaN is no number that JSON has"),
    ('{"pipeline": "double", "entries": [{"key": "\x00"}]}', "Null characters are not allowed"),
    ('{"pipeline": "double", "entries": [], "x": "\x1b"}', "This is no JSON"),
]


@pytest.mark.parametrize(("text", "complaint"), TEXTS, ids=range(len(TEXTS)))
@pytest.mark.parametrize("step", ["", "yes"])
def test_what_is_no_document(text: str, complaint: str, step: str, boss: Client) -> None:
    page = put(boss, double, text, post=step)
    assert page.status_code == 200
    assert complaint in complaints(page)[0]
    assert not double.Input.objects.exists()
    if text != TEXTS[0][0]:
        file = SimpleUploadedFile("x.json", text.encode())
        assert complaints(boss.post(url(double.Input, "import"), {"file": file, "post": step}))


ENTRIES: list[tuple[Any, str]] = [
    (1, "1 is no object"),
    (None, "None is no object"),
    ({"value": 1}, "key: is missing"),
    (entry(key=""), "key: '' must have 1 to 200 characters"),
    (entry(key="x" * 201), "must have 1 to 200 characters, this one has 201"),
    (entry(key=5), "key: 5 is no text"),  # type: ignore[arg-type]
    (entry(key=["a"]), "key: ['a'] is no text"),  # type: ignore[arg-type]
    (entry(key="a\x00"), "unprintable character U+0000"),
    (entry(key="a\ud800"), "unprintable character U+D800"),
    (entry(key="quad:1:0:2"), "looks like a workflow's child"),
    ({"key": "a"}, "value: is missing"),
    (entry(value="x"), "value: Input should be a valid integer"),
    (entry(value=None), "value: Input should be a valid integer"),
    (entry(value=1.5), "value: Input should be a valid integer"),
    (entry(value=2**63), "64 bits"),
    (entry(value={"__class__": "os.system"}), "value: Input should be a valid integer"),
    (entry(output=""), "output: '' must have 1 to 200 characters"),
    (entry(output="a\nb"), "output: 'a\\nb' holds the unprintable character"),
    (entry(output=None), "output: is missing"),
    (entry(priority=101), "priority: 101 is no whole number from -100 to 100"),
    (entry(priority=10**4000), "is no whole number from -100 to 100"),
    (entry(priority="5"), "priority: '5' is no whole number"),
    (entry(priority=True), "priority: True is no whole number"),
    (entry(priority=None), "priority: None is no whole number"),
    (entry(available_at=5), "available_at: 5 is no time such as"),
    (entry(available_at="5"), "available_at: '5' is no time such as"),
    (entry(available_at="2030-13-01T00:00:00Z"), "available_at: month must be in 1..12"),
    (entry(available_at="2030-01-01T00:00:00"), "no time zone"),
    (entry(available_at="0001-01-01T00:00:00+14:00"), "outside the calendar"),
    (entry(id=1), "'id' is no column of an entry"),
    (entry(epoch=9), "'epoch' is no column of an entry"),
]


@pytest.mark.parametrize(("row", "complaint"), ENTRIES, ids=range(len(ENTRIES)))
def test_entries_that_misfit(row: Any, complaint: str, boss: Client) -> None:
    page = put(boss, double, document(double, entry("fine"), row), post="yes")
    (found,) = complaints(page)
    assert found.startswith("Entry 2: ")
    assert complaint in found
    assert not double.Input.objects.exists()
    assert not LogEntry.objects.exists()


def test_a_key_twice_in_the_document(boss: Client) -> None:
    rows = [entry("a"), entry("b"), entry("a"), entry("b", "x")]
    found = complaints(put(boss, double, document(double, *rows), post="yes"))
    assert found[0] == "Entry 3: key: 'a' is the key of entry 1, too"
    assert found[2] == "Entry 4: key: 'b' is the key of entry 2, too"


def test_the_first_errors_are_told(boss: Client) -> None:
    found = complaints(put(boss, double, document(double, *(entry(str(n), "x") for n in range(1500)))))
    assert len(found) == 21
    assert found[-1] == "... and 1,480 more errors."


def test_strings_that_no_database_stores(boss: Client) -> None:
    for value in ("\x00", "\ud800"):
        (found,) = complaints(put(boss, echo_str, document(echo_str, entry(value=value)), post="yes"))
        assert "no database stores" in found or "Invalid JSON" in found


def test_too_many_and_too_large(boss: Client, monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    monkeypatch.setattr(InputAdmin, "most_per_action", 2)
    (found,) = complaints(put(boss, double, document(double, *(entry(str(n)) for n in range(3)))))
    assert found == "There are 3 entries in it; one import takes no more than 2."
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 60_000
    file = SimpleUploadedFile("x.json", b" " * 10_001)
    (found,) = complaints(boss.post(url(double.Input, "import"), {"file": file}))
    assert "Import it in parts" in found
    (found,) = complaints(put(boss, double, "\n" * 5_000 + document(double, entry())))
    assert "Import it in parts" in found
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = None
    assert exchange.most_bytes() == 10_000_000


def test_the_largest_document_gets_through_the_second_step(boss: Client, settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100_000
    rows = [entry(str(n), 'ä\n"' * 100) for n in range(30)]
    text = document(echo_str, *rows)
    text += "\n" * ((exchange.most_bytes() - len(text)) // 2)
    file = SimpleUploadedFile("x.json", text.encode())
    page = boss.post(url(echo_str.Input, "import"), {"file": file})
    carried = page.context["document"].replace("\n", "\r\n")  # as browsers do
    put(boss, echo_str, carried, post="yes")
    assert echo_str.Input.objects.count() == 30
    assert set(echo_str.Input.objects.values_list("value", flat=True)) == {'ä\n"' * 100}


def test_a_file_that_is_no_text_and_two_at_once(boss: Client) -> None:
    file = SimpleUploadedFile("x.json", b"\xff\xfe\x00")
    assert complaints(boss.post(url(double.Input, "import"), {"file": file})) == ["This file is no text in UTF-8."]
    both = {"file": SimpleUploadedFile("x.json", b"{}"), "text": "{}"}
    assert complaints(boss.post(url(double.Input, "import"), both)) == ["Give one of the two."]


def test_a_database_that_refuses(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise IntegrityError("no")

    monkeypatch.setattr(exchange, "log", broken)
    page = put(boss, double, document(double, entry()), post="yes")
    assert page.status_code == 200
    assert "Nothing was written" in said(page)[0]
    assert not double.Input.objects.exists()


def test_pages_are_inert(boss: Client) -> None:
    nasty = "</script><script>alert(1)</script>\"'><img src=x>"
    pages = [
        put(boss, echo_str, document(echo_str, entry(nasty, nasty, output=nasty))),
        put(boss, echo_str, document(echo_str, entry(nasty, 5, **{nasty: nasty}))),
        put(boss, echo_str, json.dumps({"pipeline": nasty, "entries": []})),
        put(boss, echo_str, nasty),
    ]
    for page in pages:
        assert "<script>alert" not in page_of(page)
        assert "<img" not in page_of(page)
    assert "&lt;/script&gt;" in page_of(pages[0])


# For whom


@pytest.mark.parametrize("who", PEOPLE)
def test_who_may_export(who: str) -> None:
    double.enqueue(1)
    response = exported(person(who), double)
    assert getattr(response, "streaming", False) == (who in ("viewer", "changer", "deleter", "adder"))


@pytest.mark.parametrize("who", PEOPLE)
def test_who_may_import(who: str) -> None:
    client = person(who)
    shown = client.get(url(double.Input, "import"))
    client.post(url(double.Input, "import"), {"text": document(double, entry()), "post": "yes"})
    assert (shown.status_code == 200) == double.Input.objects.exists() == (who == "adder")
    listed = client.get(url(double.Input))
    if listed.status_code == 200:
        assert (url(double.Input, "import") in page_of(listed)) == (who == "adder")


def test_forged_requests_are_refused(boss: Client) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = boss.cookies
    assert (
        strict.post(url(double.Input, "import"), {"text": document(double, entry()), "post": "yes"}).status_code == 403
    )
    assert not double.Input.objects.exists()


def test_a_plan_is_made_of_unsaved_entries() -> None:
    plan = read(document(double, entry()), double.Input, "default", 10)
    assert [(row.key, row.value, row.pk) for row in plan.entries] == [("a", 1, None)]
    assert not double.Input.objects.exists()
