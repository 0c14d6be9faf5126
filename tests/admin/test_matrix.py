"""Who may see and do what: every page of every kind of table, from the URLconf itself, for everybody."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.admin import site
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import get_resolver, reverse

from pipeteer_django.models import Queue, Worker
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.testing import drain
from tests.admin.conftest import PEOPLE, person
from tests.testapp.pipelines import approve, double, quad

pytestmark = [pytest.mark.django_db, pytest.mark.once]

WRITES = re.compile(r"^\s*(INSERT|UPDATE|DELETE|REPLACE)", re.IGNORECASE)
MODELS = [model for pipeline in (double, quad, approve) for model in pipeline.models.values()] + [Queue, Worker]
"""Every kind of table that there is."""

VIEW, ADD, CHANGE, DELETE = {"viewer", "changer", "deleter", "adder"}, {"adder"}, {"changer"}, {"deleter"}
NOBODY: set[str] = set()
PAGES: dict[str, tuple[set[str], set[str]]] = {
    "changelist": (VIEW, VIEW),
    "add": (ADD, ADD),
    "change": (VIEW, CHANGE),
    "delete": (DELETE, DELETE),
    "history": (VIEW, VIEW),
    "hold": (NOBODY, CHANGE),
    "import": (ADD, ADD),
    "run": (VIEW, NOBODY),
    "run_correct": (NOBODY, CHANGE),
    "run_rerun": (NOBODY, CHANGE),
    "run_cancel": (NOBODY, CHANGE),
    "run_restart": (NOBODY, CHANGE),
    "run_retry": (NOBODY, CHANGE),
    "inbox": (VIEW, NOBODY),
    "answer": (VIEW, CHANGE),
    "dashboard": (VIEW, NOBODY),
}
"""By page: whom a GET is answered, and whom a POST. A new page must be entered here."""
READ_ONLY = {
    "Output": {"add"},
    "Step": {"add", "change", "delete"},
    "Message": {"add", "change", "delete"},
    "Worker": {"add", "change", "delete"},
}
"""What nobody may do."""


def names() -> Iterator[tuple[str, str, str]]:
    """App, model and page of each URL in the admin that is about one of our tables."""
    ours = {(m._meta.app_label, m._meta.model_name) for p in registry for m in p.models.values()}
    ours |= {(m._meta.app_label, m._meta.model_name) for m in (Queue, Worker)}
    for pattern in get_resolver().url_patterns[0].url_patterns:
        for inner in getattr(pattern, "url_patterns", []):
            for app, model in ours if inner.name else ():
                if inner.name.startswith(f"{app}_{model}_"):
                    yield app, str(model), inner.name.removeprefix(f"{app}_{model}_")


def test_every_page_is_in_the_table() -> None:
    assert {page for _, _, page in names()} == PAGES.keys()


@pytest.fixture
def rows() -> dict[Any, int]:
    """A row of every table: a run that is over, one that waits for a person, and what belongs to them."""
    quad.enqueue(3, key="over")
    double.enqueue(5)
    drain(quad, double)
    quad.enqueue(4, key="waits")
    double.enqueue(6)
    approve.enqueue("over", key="over")
    approve.push("over", True)
    approve.enqueue("waits")
    quad.Message.objects.create(run_id=quad.Input.objects.get().pk, name="hello", value=1)
    Queue.objects.create(pipeline="double")
    Worker.objects.create(label="w", started_at="2026-01-01T00:00Z", heartbeat_at="2026-01-01T00:00Z")
    return {model: model._default_manager.values_list("pk", flat=True)[0] for model in MODELS}


def addresses(rows: dict[Any, int]) -> Iterator[tuple[Any, str, str]]:
    by_name = {(m._meta.app_label, m._meta.model_name): m for m in MODELS}
    for app, name, page in names():
        model = by_name.get((app, name))
        if model is not None:
            whole = f"admin:{app}_{name}_{page}"
            plain = page in ("changelist", "add", "hold", "import", "inbox", "dashboard")
            yield model, page, reverse(whole, args=[] if plain else [rows[model]])


def allowed(model: Any, page: str, post: bool) -> set[str]:
    closed = next((pages for role, pages in READ_ONLY.items() if model.__name__.endswith(role)), set())
    if page in closed and (page != "change" or post):
        return NOBODY
    if (model, page, post) == (Queue, "inbox", False):
        return VIEW | {"nobody"}  # all inboxes that one may see: perhaps none
    return PAGES[page][post]


def refused(response: Any) -> bool:
    """Sent to the login page, told that it is forbidden, or that there is no such way to ask."""
    return response.status_code in (403, 405) or "/login/" in response.headers.get("Location", "")


@pytest.mark.parametrize("who", PEOPLE)
def test_every_page_is_for_those_it_is_for(who: str, rows: dict[Any, int]) -> None:
    client = person(who)
    for model, page, address in addresses(rows):
        for post in (False, True):
            with CaptureQueriesContext(connection) as said, transaction.atomic():
                response = client.post(address, {}) if post else client.get(address)
                transaction.set_rollback(True)
            where = f"{'POST' if post else 'GET'} {address} by {who}: {response.status_code}"
            assert refused(response) is (who not in allowed(model, page, post)), where
            assert response.status_code < 500, where
            if refused(response) or not post:
                assert not [q["sql"] for q in said.captured_queries if WRITES.match(q["sql"])], where


def test_no_get_of_a_superuser_changes_anything(rows: dict[Any, int]) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("boss"))
    client.get(reverse("admin:index"))
    for _, _, address in [*addresses(rows), (None, None, reverse("admin:index"))]:
        with CaptureQueriesContext(connection) as said:
            client.get(address)
        assert not [q["sql"] for q in said.captured_queries if WRITES.match(q["sql"])], address


@pytest.mark.parametrize("who", PEOPLE)
def test_every_action_is_for_those_it_is_for(who: str, rows: dict[Any, int]) -> None:
    client = person(who)
    needs = {"delete_selected": "deleter", "export": "viewer"}
    for model in MODELS:
        address = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        for name in actions_of(model):
            data = {"action": name, "_selected_action": [rows[model]], "post": "yes", "output": "elsewhere"}
            with CaptureQueriesContext(connection) as said, transaction.atomic():
                client.post(address, data)
                transaction.set_rollback(True)
            wrote = [q["sql"] for q in said.captured_queries if WRITES.match(q["sql"]) and "session" not in q["sql"]]
            if who != needs.get(name, "changer"):
                assert not wrote, f"{name} of {address} by {who}: {wrote}"


def actions_of(model: Any) -> set[str]:
    actions = site.get_model_admin(model).actions or ()
    return {"delete_selected"} | {getattr(action, "__name__", action) for action in actions}
