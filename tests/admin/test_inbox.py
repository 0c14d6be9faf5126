"""The inboxes of tasks: what waits, who may answer, and that an answer counts once, and for its question."""

from __future__ import annotations

import re
import threading
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin import AdminSite
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import OperationalError, connection, connections
from django.template import Context, Template
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from pipeteer_django.admin import InputAdmin
from pipeteer_django.admin.inbox import page as inbox
from pipeteer_django.admin.inbox import rows as inboxrows
from pipeteer_django.queues import people
from pipeteer_django.queues.claim import plain
from pipeteer_django.testing import drain
from tests.admin.conftest import page_of, person, said, url
from tests.admin_values.browser import Page
from tests.queues import by_hand
from tests.testapp.models import Item
from tests.testapp.pipelines import Customer, Verdict, approval, approve, double, judge, pick, review

pytestmark = [pytest.mark.django_db, pytest.mark.once]

ALL = "admin:pipeteer_django_queue_inbox"


def asked(task: Any = approve, value: Any = "ship it?", key: str = "a", **options: Any) -> Any:
    """An entry that waits."""
    return task.Input.objects.get(pk=task.enqueue(value, key=key, **options).id)


def form_of(client: Client, entry: Any) -> dict[str, str]:
    """What a browser would send back of the page that shows it now."""
    pairs = dict(Page(page_of(client.get(url(type(entry), "answer", entry.pk)))).pairs)
    return {name: text for name, text in pairs.items() if name != "csrfmiddlewaretoken"}


def answer(client: Client, entry: Any, follow: bool = True, **typed: Any) -> Any:
    """Look at it now, and answer."""
    return send(client, entry, form_of(client, entry) | typed, follow)


def send(client: Client, entry: Any, data: dict[str, Any], follow: bool = True) -> Any:
    return client.post(url(type(entry), "answer", entry.pk), data, follow=follow)


def rows() -> list[Any]:
    """Everything that an answer could change."""
    tables = [model for task in (approve, judge, pick, review, approval) for model in task.models.values()]
    return [list(plain(model, "default").order_by("pk").values()) for model in [*tables, LogEntry]]


# Looking


def test_the_oldest_comes_first_and_there_is_a_next_page(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "PAGE", 2)
    for number in range(5):
        asked(value=f"question {number}", key=f"k{number}")
    address, seen = url(approve.Input, "inbox"), []
    while address:
        page = page_of(boss.get(address))
        seen.append(re.findall(r"question \d", page))
        following = re.search(r'href="(\?after=\d+)" rel="next"', page)
        address = url(approve.Input, "inbox") + following[1] if following else ""
    assert seen == [["question 0", "question 1"], ["question 2", "question 3"], ["question 4"]]


def test_only_what_is_due_waits(boss: Client) -> None:
    asked(value="later?", delay=timedelta(hours=1))
    asked(value="now?", key="b")
    page = page_of(boss.get(url(approve.Input, "inbox")))
    assert ("now?" in page, "later?" in page) == (True, False)
    assert "Nothing waits" in page_of(boss.get(url(judge.Input, "inbox")))


def test_a_value_is_shown_without_brackets(boss: Client) -> None:
    entry = asked(judge, Customer(name="Ada", age=36))
    for page in (boss.get(url(judge.Input, "inbox")), boss.get(url(judge.Input, "answer", entry.pk))):
        html = page_of(page)
        assert "<dt>Name</dt>" in html
        assert "Ada" in html
        assert "{&quot;" not in html


def test_a_models_row_is_a_link(boss: Client) -> None:
    item = Item.objects.create(name="lamp")
    asked(review, item)
    assert "lamp" in page_of(boss.get(url(review.Input, "inbox")))


def test_a_value_of_another_type_is_shown_all_the_same(boss: Client) -> None:
    entry = asked(judge, Customer(name="Ada", age=36))
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {judge.Input._meta.db_table} SET value = %s", ['["no", "customer"]'])
    assert "customer" in page_of(boss.get(url(judge.Input, "answer", entry.pk)))
    assert "customer" in page_of(boss.get(url(judge.Input, "inbox")))


def test_a_list_reads_only_the_beginning_of_a_long_value(boss: Client) -> None:
    asked(value="x" * 3000 + "end")
    assert "end" not in page_of(boss.get(url(approve.Input, "inbox"))).partition("xxx")[2].partition("</pre>")[0]


@pytest.mark.parametrize(("start", "shown"), [(None, "no value"), ("", "empty text"), ("<b>", "&lt;b&gt;")])
def test_a_text_that_may_be_missing(rf: RequestFactory, start: str | None, shown: str) -> None:
    """Of a task whose question is `str | None`."""
    waiting = inboxrows.Inbox(admin.site.get_model_admin(approve.Input), rf.get("/"))
    assert shown in waiting._value(SimpleNamespace(value_start=start))


@pytest.mark.parametrize("address", ["?after=x", "?after=-1", "?after=" + "9" * 40, "?after=٣"])
def test_a_page_that_is_none(boss: Client, address: str) -> None:
    asked()
    assert boss.get(url(approve.Input, "inbox") + address).status_code == 200


def test_only_tasks_have_an_inbox(boss: Client) -> None:
    assert inbox.urls(InputAdmin(double.Input, AdminSite())) == []


# Answering


def test_a_workflow_goes_on_after_the_answer(boss: Client) -> None:
    run = approval.enqueue("ship it?", key="run")
    drain(approval)
    entry = approve.Input.objects.get()
    html = page_of(boss.get(url(approve.Input, "inbox")))
    assert f"/run/{run.id}/?step=0#step-0" in html
    assert "was answered" in said(answer(boss, entry, value="true"))[0]
    drain(approval)
    assert run.result(timeout=0) == "yes"
    (line,) = LogEntry.objects.all()
    assert (line.object_id, line.get_change_message()) == (str(entry.pk), "Added answer “true”.")


@pytest.mark.parametrize(("pressed", "value"), [("true", True), ("false", False)])
def test_approve_and_reject_on_the_list(boss: Client, pressed: str, value: bool) -> None:
    entry = asked()
    html = page_of(boss.get(url(approve.Input, "inbox")))
    assert f'action="{url(approve.Input, "answer", entry.pk)}"' in html
    assert {'value="true"', 'value="false"'} <= set(re.findall(r'value="\w+"', html))
    send(boss, entry, {"epoch": entry.epoch, "value": pressed})
    assert approve.Output.objects.get().value is value


@pytest.mark.parametrize("data", [{}, {"value": ""}, {"value": "yes"}, {"value": "on"}, {"value": "1"}])
def test_nothing_pressed_is_no_rejection(boss: Client, data: dict[str, str]) -> None:
    entry = asked()
    assert send(boss, entry, {"epoch": entry.epoch, **data}).context["form"].errors
    assert approve.Input.objects.exists()


def test_a_form_from_the_type(boss: Client) -> None:
    entry = asked(judge, Customer(name="Ada", age=36))
    page = boss.get(url(judge.Input, "answer", entry.pk))
    assert "pipeteer_django/values.js" in page_of(page)
    wrong = answer(boss, entry, **{"value-decision": "", "value-reasons-0-value": "broken"})
    assert "decision: This field is required." in page_of(wrong)
    assert "broken" in page_of(wrong)  # what was typed is not lost
    typed = {"value-decision": "refund", "value-reasons-0--keep": "1", "value-reasons-0-value": "broken"}
    answer(boss, entry, **typed)
    assert judge.Output.objects.get().value == Verdict("refund", ["broken"])


def test_an_answer_that_is_a_row(boss: Client) -> None:
    item = Item.objects.create(name="lamp")
    entry = asked(pick)
    assert "lamp" not in page_of(boss.get(url(pick.Input, "answer", entry.pk)))  # asks for the id
    assert answer(boss, entry, value="999").context["form"].errors
    answer(boss, entry, value=str(item.pk))
    assert pick.Output.objects.get().value == item


def test_an_answer_may_be_none(boss: Client) -> None:
    entry = asked(review, Item.objects.create(name="lamp"))
    answer(boss, entry)
    assert review.Output.objects.get().value is None


def test_one_gets_back_to_where_one_came_from(boss: Client) -> None:
    entry, other = asked(), asked(key="b")
    to_list = send(boss, entry, {"epoch": 0, "value": "true"}, follow=False)
    to_all = send(boss, other, {"epoch": 0, "value": "true", "from": "all"}, follow=False)
    assert (to_list["Location"], to_all["Location"]) == (url(approve.Input, "inbox"), reverse(ALL))


# Twice, and at the same time


def test_the_second_click_is_told_who_answered(boss: Client) -> None:
    entry = asked()
    data = form_of(boss, entry) | {"value": "true"}
    send(boss, entry, data)
    before = rows()
    (told,) = said(send(boss, entry, data | {"value": "false"}))
    assert "already answered by boss" in told
    assert "changed nothing" in told
    assert rows() == before
    page = boss.get(url(approve.Input, "answer", entry.pk))
    assert (page.status_code, "already answered by boss" in page_of(page)) == (404, True)


def test_what_was_answered_elsewhere_is_told_too(boss: Client) -> None:
    entry = asked()
    data = form_of(boss, entry) | {"value": "true"}
    approve.push("a", False)
    (told,) = said(send(boss, entry, data))
    assert "answered already, or taken out of its queue" in told
    assert approve.Output.objects.get().value is False


def test_a_key_that_came_back_is_another_question(boss: Client) -> None:
    entry = asked()
    data = form_of(boss, entry) | {"value": "true"}
    approve.push("a", False)
    asked(value="sink it?")
    send(boss, entry, data)
    assert approve.Input.objects.get().value == "sink it?"


def an_answer_to_another_question(boss: Client) -> None:
    entry = asked()
    data = form_of(boss, entry) | {"value": "true"}
    approve.Input.objects.filter(pk=entry.pk).update(value="sink it?")
    page = send(boss, entry, data)
    assert "It was changed since you saw it" in said(page)[0]
    assert "sink it?" in page_of(page)
    assert approve.Input.objects.get().value == "sink it?"
    assert not LogEntry.objects.exists()
    answer(boss, entry, value="false")
    assert approve.Output.objects.get().value is False


def test_an_answer_to_another_question_is_not_taken(boss: Client) -> None:
    an_answer_to_another_question(boss)


def without_epoch(pipeline: Any, using: str, id: int, epoch: int, value: Any) -> Any:
    """The mutant: an answer to whatever the entry is now."""
    now = plain(pipeline.Input, using).values_list("epoch", flat=True).get(pk=id)
    return answer_of_people(pipeline, using, id, now, value)


answer_of_people = people.answer


def test_without_the_epoch_it_would_be_taken(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "answer", without_epoch)
    with pytest.raises(AssertionError):
        an_answer_to_another_question(boss)


@pytest.mark.parametrize("epoch", ["", "-1", "x", "9" * 40, "٣", None])
def test_a_form_without_its_epoch_answers_nothing(boss: Client, epoch: str | None) -> None:
    entry = asked()
    send(boss, entry, {"value": "true"} | ({} if epoch is None else {"epoch": epoch}))
    assert approve.Input.objects.exists()
    assert not LogEntry.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_of_two_people_at_once_one_answers() -> None:
    entry = asked()
    clients = []
    for name in ("ada", "bob"):
        clients.append(client := Client())
        client.force_login(User.objects.create_superuser(name))
    together = threading.Barrier(2)

    def press(client: Client, value: str) -> None:
        together.wait(10)
        send(client, entry, {"epoch": entry.epoch, "value": value}, follow=False)
        connections.close_all()

    threads = [threading.Thread(target=press, args=pair) for pair in zip(clients, ("true", "false"), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    told = [said(client.get(url(approve.Input, "inbox")))[0] for client in clients]
    assert sorted("changed nothing" in text for text in told) == [False, True], told
    (line,) = LogEntry.objects.all()
    assert approve.Output.objects.get().value is (line.get_change_message() == "Added answer “true”.")


def test_the_log_and_the_answer_are_one(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = asked()
    data = form_of(boss, entry) | {"value": "true"}

    def fails(*arguments: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(InputAdmin, "log_change", fails)
    with pytest.raises(RuntimeError):
        send(boss, entry, data)
    assert approve.Input.objects.exists()


# When nobody can or wants to hear it


def test_nobody_waits_for_it_any_more(boss: Client) -> None:
    approval.enqueue("ship it?", key="run")
    drain(approval)
    entry = approve.Input.objects.get()
    plain(approval.Input, "default").all().delete()
    plain(approval.models["Step"], "default").all().delete()
    assert "nobody waits for it any more" in said(answer(boss, entry, value="true"))[0]
    assert not approve.Input.objects.exists()


def test_the_code_of_the_caller_is_gone(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = asked()
    by_hand.engine(approve, caller="vanished", step_id=1)
    before = rows()
    (told,) = said(answer(boss, entry, value="true"))
    assert "Nothing was written" in told
    assert "vanished" in told
    assert rows() == before


def test_a_row_that_somebody_holds(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = asked()
    data = form_of(boss, entry) | {"value": "true"}

    def locked(*arguments: Any) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr(people, "answer", locked)
    monkeypatch.setattr(inbox, "is_contention", lambda error: True)
    assert "Somebody holds" in said(send(boss, entry, data))[0]


# Who may


WHO = {
    "anonymous": (302, 302),
    "outsider": (302, 302),
    "nobody": (403, 403),
    "viewer": (200, 403),
    "changer": (200, 302),
}


@pytest.mark.parametrize("who", WHO)
def test_who_may_look_and_who_may_answer(who: str) -> None:
    entry, client = asked(), person(who)
    looks, answers = WHO[who]
    before = rows()
    for address in (url(approve.Input, "inbox"), url(approve.Input, "answer", entry.pk)):
        page = client.get(address)
        assert page.status_code == looks
        if looks == 200:
            assert ("Approve</button>" in page_of(page) or "Approve<span" in page_of(page)) == (who == "changer")
    assert client.get(url(approve.Input, "answer", 0)).status_code == (404 if looks == 200 else looks)
    assert rows() == before
    assert send(client, entry, {"epoch": entry.epoch, "value": "true"}, follow=False).status_code == answers
    assert approve.Output.objects.exists() == (who == "changer")


def test_permission_is_per_task(boss: Client) -> None:
    user = User.objects.create_user("clerk", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=["view_judgeinput", "change_judgeinput"]))
    clerk = Client()
    clerk.force_login(user)
    asked()
    asked(judge, Customer(name="Ada", age=36))
    html = page_of(clerk.get(reverse(ALL)))
    assert ("Ada" in html, "ship it?" in html) == (True, False)
    assert clerk.get(url(approve.Input, "inbox")).status_code == 403


def test_the_list_respects_the_admins_own_queryset(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = asked(value="secret?")
    real = InputAdmin.get_queryset
    monkeypatch.setattr(InputAdmin, "get_queryset", lambda self, request: real(self, request).none())
    assert "secret?" not in page_of(boss.get(url(approve.Input, "inbox")))
    send(boss, entry, {"epoch": entry.epoch, "value": "true"})
    assert plain(approve.Input, "default").exists()


def test_forged_requests_are_refused(boss: Client) -> None:
    entry = asked()
    forger = Client(enforce_csrf_checks=True)
    forger.cookies = boss.cookies
    assert send(forger, entry, {"epoch": entry.epoch, "value": "true"}).status_code == 403
    assert approve.Input.objects.exists()


@pytest.mark.parametrize("method", ["put", "delete", "patch"])
def test_other_methods_are_refused(boss: Client, method: str) -> None:
    entry = asked()
    assert getattr(boss, method)(url(approve.Input, "answer", entry.pk)).status_code == 405
    assert boss.post(url(approve.Input, "inbox")).status_code == 405
    assert boss.post(reverse(ALL)).status_code == 405


# All of them, and the panel of the first page


def index(client: Client) -> str:
    return page_of(client.get(reverse("admin:index")))


@pytest.fixture
def first(settings: Any) -> None:
    """The package's templates before the admin's, as where it stands before the admin in INSTALLED_APPS."""
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [Path(inbox.__file__).parents[2] / "templates"]}]


@pytest.mark.usefixtures("first")
def test_the_first_page_says_what_waits(boss: Client) -> None:
    assert "Nothing waits for an answer." in index(boss)
    for number in range(3):
        asked(key=f"k{number}")
    html = index(boss)
    assert re.search(r"Approve</a></th><td><span class=\"count\">3<", html)
    assert reverse(ALL) in html
    assert "pipeteer-panel" not in page_of(boss.get(reverse("admin:app_list", args=["testapp"])))


@pytest.mark.usefixtures("first")
def test_the_count_is_bounded(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inboxrows, "MOST", 2)
    for number in range(5):
        asked(key=f"k{number}")
    with CaptureQueriesContext(connection) as captured:
        assert ">2+<" in index(boss)
    counts = [query["sql"] for query in captured.captured_queries if "COUNT(" in query["sql"]]
    assert counts
    assert all("LIMIT 3" in sql for sql in counts)


@pytest.mark.usefixtures("first")
def test_who_may_see_no_inbox_sees_no_panel() -> None:
    asked()
    assert "Waiting for an answer" not in index(person("nobody"))
    assert "Waiting for an answer" in index(person("viewer"))


@pytest.mark.usefixtures("first")
def test_a_table_that_is_not_there_yet_spoils_no_page(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Any) -> int:
        raise OperationalError("no such table")

    monkeypatch.setattr(inboxrows.Inbox, "count", property(missing))
    assert "Site administration" in index(boss)


def test_without_the_template_the_first_page_is_djangos(boss: Client) -> None:
    assert "pipeteer-panel" not in index(boss)


def test_without_a_request_there_is_no_panel() -> None:
    """The admin works without that context processor."""
    assert "pipeteer-panel" not in Template("{% load pipeteer_admin %}{% pipeteer_panel %}").render(Context())


def test_another_site_has_its_own_inboxes(rf: RequestFactory) -> None:
    site = AdminSite("operations")
    request = rf.get("/")
    request.user = User(is_superuser=True, is_active=True, is_staff=True)
    assert list(inboxrows.inboxes(site, request)) == []


# The ways there


def test_forms_and_lists_lead_to_the_inbox_and_to_the_run(boss: Client) -> None:
    run = approval.enqueue("ship it?", key="run")
    drain(approval)
    entry = approve.Input.objects.get()
    way = url(approve.Input, "answer", entry.pk)
    assert way in page_of(boss.get(url(approve.Input, "change", entry.pk)))
    assert url(approve.Input, "inbox") in page_of(boss.get(url(approve.Input)))
    assert way in page_of(boss.get(url(approve.Input)))
    page = url(approval.Input, "run", run.id)
    for address in (url(approval.Input), url(approval.Input, "change", run.id), url(approve.Input, "change", entry.pk)):
        assert page in page_of(boss.get(address))
    html = page_of(boss.get(page))
    assert way in html
    assert url(approval.Input, "change", run.id) in html
