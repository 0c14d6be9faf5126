"""Run by test_unfold.py, with settings of its own: each page answers, is unfold's around, and ours within."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.template.loader import get_template
from django.test import Client
from django.urls import reverse

from example_project.arithmetic.pipelines import double, quad
from example_project.shop.models import Order
from example_project.shop.ordering import open_shop, place
from example_project.shop.pipelines import Ending, approve, conclude, sell
from pipeteer_django.models import Queue, Worker
from pipeteer_django.testing import drain

pytestmark = pytest.mark.django_db


@pytest.fixture
def boss(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("boss"))
    return client


@pytest.fixture
def busy(db: None) -> dict[str, int]:
    """An order that waits for approval, a result, an entry with a typed value."""
    cup = open_shop(stock=100)[0]
    order = place("a@example.com", {cup: 12})
    quad.enqueue(1, key="four")
    drain(raise_failures=False)
    conclude.enqueue(Ending(order.pk, Order.State.CANCELLED), key="typed", delay=timedelta(hours=1))
    double.enqueue(5, key="five")
    rows = {"sell": sell.Input, "approve": approve.Input, "double": double.Input}
    return {name: model.objects.get().pk for name, model in rows.items()} | {
        "conclude": conclude.Input.objects.get(key="typed").pk
    }


def see(response: Any, *texts: str) -> str:
    """The page, which is unfold's with these texts in it."""
    html: str = response.content.decode()
    assert response.status_code == 200
    assert "unfold/css/styles.css" in html
    assert not [text for text in texts if text not in html]
    return html


def url(model: Any, page: str, *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def test_it_is_unfold() -> None:
    assert "/unfold/" in get_template("admin/base.html").origin.name
    assert "/pipeteer_django/" in get_template("admin/index.html").origin.name


def test_the_first_page(boss: Client, busy: dict[str, int]) -> None:
    see(boss.get(reverse("admin:index")), "pipeteer-panel", "Waiting for an answer", url(approve.Input, "inbox"))


def test_lists(boss: Client, busy: dict[str, int]) -> None:
    see(boss.get(url(double.Input, "changelist")), "five", "pipeteer-ready", 'id="pipeteer-results"', "Hold the queue")
    see(boss.get(url(quad.Output, "changelist")), "four")
    for model in (Queue, Worker, quad.Step, quad.Message):
        see(boss.get(url(model, "changelist")))


def test_forms(boss: Client, busy: dict[str, int]) -> None:
    html = see(boss.get(url(conclude.Input, "change", busy["conclude"])), 'name="value-order_id"', "pipeteer-scheduled")
    assert "pipeteer_django/values.js" in html
    assert 'name="loaded_epoch"' in html
    see(boss.get(url(conclude.Input, "add")), 'name="value-order_id"')
    see(boss.get(url(quad.Output, "change", quad.Output.everything.get().pk)), 'name="value"')
    see(boss.get(url(double.Input, "delete", busy["double"])), "five")
    see(boss.get(url(double.Input, "history", busy["double"])))


def test_an_edit(boss: Client, busy: dict[str, int]) -> None:
    address = url(double.Input, "change", busy["double"])
    data = {"key": "five", "value": "7", "output": "output", "priority": "0", "loaded_epoch": "0"}
    see(boss.post(address, data, follow=True), "was changed successfully")
    assert double.Input.objects.get().value == 7
    see(boss.post(address, data, follow=True), "It changed meanwhile")


def test_a_run(boss: Client, busy: dict[str, int]) -> None:
    address = url(sell.Input, "run", busy["sell"])
    see(boss.get(address), 'class="timeline"', "waiting for approval", "look_into")
    see(boss.get(address, {"step": "0", "do": "correct"}), "Correct the result and go on", 'name="value-pieces"')


def test_inboxes_and_an_answer(boss: Client, busy: dict[str, int]) -> None:
    see(boss.get(url(approve.Input, "inbox")), "Approve", "Reject", 'class="question"')
    see(boss.get(reverse("admin:pipeteer_django_queue_inbox")), 'class="question"')
    address = url(approve.Input, "answer", busy["approve"])
    see(boss.get(address), "Approve", "Reject")
    see(boss.post(address, {"epoch": "0", "value": "true"}, follow=True), "was answered")
    assert not approve.Input.objects.exists()


def test_the_dashboard(boss: Client, busy: dict[str, int]) -> None:
    address = reverse("admin:pipeteer_django_queue_dashboard")
    see(boss.get(address), "What needs attention", 'class="attention"', "1 entry of approve waits")


def test_import_and_export(boss: Client, busy: dict[str, int]) -> None:
    address = url(double.Input, "import")
    see(boss.get(address), 'name="file"')
    text = '{"version": 1, "pipeline": "double", "entries": [{"key": "six", "value": 6}]}'
    see(boss.post(address, {"text": text}), "1 entry will be added", "six")
    see(boss.post(address, {"text": text, "post": "yes"}, follow=True), "1 entry was added")


@pytest.mark.parametrize("act", ["reroute", "complete", "delete_selected"])
def test_a_confirmation(act: str, boss: Client, busy: dict[str, int]) -> None:
    data = {"action": act, "_selected_action": [busy["double"]], "index": "0"}
    see(boss.post(url(double.Input, "changelist"), data, follow=True), "Yes, I", 'name="post"')
