"""People at the admin's pages beside three workers: whatever they press, no entry is lost and none is done twice."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Any

import pytest
from django.contrib.admin.models import DELETION, LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from tests.admin.conftest import url
from tests.admin_values.browser import Page
from tests.conftest import StartManage
from tests.testapp.models import Ledger
from tests.testapp.pipelines import record_even

from .tools import eventually, log, ready, stop

ENTRIES = 300
PEOPLE = 4
REQUESTS = 1000 if connection.vendor == "postgresql" else 200
MODEL = record_even.Input


class Person(threading.Thread):
    """Somebody who presses buttons at random, on what is in the queue at that moment."""

    def __init__(self, number: int) -> None:
        super().__init__(name=f"person-{number}")
        self.random = random.Random(number)
        self.client = Client()
        self.client.force_login(User.objects.create_superuser(self.name))
        self.pressed: Counter[str] = Counter()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for _ in range(REQUESTS // PEOPLE):
                self.press()
        except BaseException as error:
            self.error = error
        finally:
            connection.close()

    def press(self) -> None:
        ids = list(MODEL.objects.order_by("id").values_list("id", flat=True)[:40])
        (what,) = self.random.choices(["edit", "release", "retry", "delete_selected"], [8, 5, 6, 1])
        self.pressed[what] += 1
        chosen = self.random.sample(ids, 1 if what == "delete_selected" else 3)
        if what == "edit":
            self.edit(chosen[0])
        else:
            self.client.post(url(MODEL), {"action": what, "_selected_action": chosen, "post": "yes"})

    def edit(self, id: int) -> None:
        page = self.client.get(url(MODEL, "change", id))
        if page.status_code == 200:
            data = dict(Page(page.content.decode()).pairs) | {"value": self.random.choice("02111111")}
            self.client.post(url(MODEL, "change", id), data)


@pytest.mark.timeout(400)
def test_a_thousand_requests_lose_nothing_and_double_nothing(start_worker: StartManage) -> None:
    workers = [start_worker("record_even", "--concurrency", "5") for _ in range(3)]
    ready(*workers)
    record_even.enqueue_many([int(n % 5 > 0) for n in range(ENTRIES)])
    people = [Person(number) for number in range(PEOPLE)]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert [person.error for person in people] == [None] * PEOPLE
    eventually(lambda: not MODEL.objects.filter(failed_at=None).exists(), "the workers have come to the end")
    for worker in workers:
        stop(worker)
        assert "failed outside its body" not in log(worker)

    done = list(record_even.Output.everything.values_list("run_id", flat=True))
    failed = list(MODEL.objects.values_list("id", flat=True))
    deleted = [int(id) for id in LogEntry.objects.filter(action_flag=DELETION).values_list("object_id", flat=True)]
    assert len(done) + len(failed) + len(deleted) == ENTRIES
    assert len({*done, *failed, *deleted}) == ENTRIES
    ledger: Counter[Any] = Counter(Ledger.objects.values_list("run_id", flat=True))
    assert ledger == Counter(done)  # an atomic body's write is there once for each result, and for nothing else
    assert done
    assert deleted
    assert sum(person.pressed.total() for person in people) == REQUESTS
