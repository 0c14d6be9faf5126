"""The admin's socket: who may have it, what it says, and how much."""

from __future__ import annotations

import asyncio
import resource
import time

import pytest
from django.contrib.admin.sites import site
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.test import Client, override_settings

from pipeteer_django.live import watcher
from pipeteer_django.live.bridge import _bridges, bridge
from tests.admin.conftest import PEOPLE, person
from tests.testapp.pipelines import quad

from .tools import closed, orm, refused, say_changed, socket, told

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.asyncio, pytest.mark.usefixtures("wakeups_on")]

PATH = "/ws/pipeteer/?queues="


@pytest.fixture
def people(transactional_db: None) -> dict[str, Client]:
    return {name: person(name) for name in PEOPLE}


@pytest.fixture
def boss(transactional_db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("boss"))
    return client


@pytest.fixture
def viewer(transactional_db: None) -> Client:
    """May see one queue."""
    client = Client()
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_quadinput", content_type__app_label="testapp"))
    client.force_login(user)
    return client


async def test_who_may(people: dict[str, Client]) -> None:
    allowed = {name for name, client in people.items() if not await refused(f"{PATH}quad", client)}
    assert allowed == {"viewer", "changer", "deleter", "adder"}


async def test_permission_is_per_queue(viewer: Client) -> None:
    assert not await refused(f"{PATH}quad", viewer)
    assert await refused(f"{PATH}double", viewer)
    assert await refused(f"{PATH}quad,double", viewer)
    assert not await refused(f"{PATH}*", viewer)


@pytest.mark.parametrize("asked", ["", "nowhere", "quad,nowhere", ",", "quad,", "'", "%00", "q" * 5000])
async def test_what_there_is_not(boss: Client, asked: str) -> None:
    assert await refused(PATH + asked, boss)


@pytest.mark.parametrize("origin", ["http://evil.example", "http://testserver.evil.example", "null", None])
async def test_foreign_pages_are_refused(boss: Client, origin: str | None) -> None:
    assert await refused(f"{PATH}quad", boss, origin)


async def test_a_site_may_ask_for_more(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    model_admin = site.get_model_admin(quad.Input)
    monkeypatch.setattr(
        model_admin, "has_view_permission", lambda request: request.META["HTTP_HOST"] == "elsewhere", raising=False
    )
    assert await refused(f"{PATH}quad", boss)
    assert not await refused(f"{PATH}double", boss)


async def test_it_says_which_queues_changed_and_nothing_else(viewer: Client) -> None:
    async with socket(f"{PATH}*", viewer) as open_socket:
        say_changed("quad", "double", "nowhere")
        assert await told(open_socket) == {"changed": ["quad"]}
        say_changed("double")
        assert await open_socket.receive_nothing(0.5)


async def test_who_speaks_is_disconnected(boss: Client) -> None:
    for said in ({"text_data": "hello"}, {"bytes_data": b"\0" * 100_000}):
        async with socket(f"{PATH}quad", boss) as open_socket:
            await open_socket.send_to(**said)
            assert await closed(open_socket) == watcher.NOT_ASKED


@pytest.mark.parametrize("loss", ["permission", "staff", "active", "session", "logout", "password", "user"])
async def test_what_is_lost_is_noticed(viewer: Client, monkeypatch: pytest.MonkeyPatch, loss: str) -> None:
    monkeypatch.setattr(watcher, "RECHECK", 0.2)
    users = User.objects.filter(username="viewer")
    async with socket(f"{PATH}quad", viewer) as open_socket:
        await asyncio.sleep(0.5)
        say_changed("quad")
        assert await told(open_socket) == {"changed": ["quad"]}
        if loss == "permission":
            await orm(lambda: users.get().user_permissions.clear())
        elif loss == "session":
            await orm(Session.objects.all().delete)
        elif loss == "logout":
            await orm(viewer.logout)
        elif loss == "password":
            await orm(users.update, password="another")
        elif loss == "user":
            await orm(users.delete)
        else:
            await orm(users.update, **{f"is_{loss}": False})
        assert await closed(open_socket) == watcher.REFUSED
        say_changed("quad")
        assert await open_socket.receive_nothing(0.5)


async def test_what_cannot_be_asked_ends_it(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that is away: better no hints than hints for whoever may not have them any more."""
    monkeypatch.setattr(watcher, "RECHECK", 0.1)
    async with socket(f"{PATH}quad", boss) as open_socket:
        monkeypatch.setattr(watcher, "request_of", lambda scope: 1 / 0)
        assert await closed(open_socket) == 1011


async def test_sockets_per_user_are_limited(boss: Client, viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "MOST_PER_USER", 2)
    async with socket(f"{PATH}quad", boss), socket(f"{PATH}quad", boss):
        assert await refused(f"{PATH}quad", boss)
        assert not await refused(f"{PATH}quad", viewer)
    assert not await refused(f"{PATH}quad", boss)
    assert not watcher._open


async def test_nothing_stays_behind(boss: Client) -> None:
    async with socket(f"{PATH}quad", boss), socket(f"{PATH}*", boss):
        here = bridge()
        assert len(here._hearers) == 2
        assert here._subscription
    assert not here._hearers
    assert here._subscription is None
    assert await refused(f"{PATH}nowhere", boss)
    assert asyncio.get_running_loop() not in _bridges
    names = [task.get_coro().__name__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
    assert not any("_go_on" in name for name in names)


async def test_without_a_carrier_there_is_no_socket(boss: Client) -> None:
    """Then a page polls, and knows that it must."""
    with override_settings(PIPETEER={"WAKEUPS": False}):
        assert await refused(f"{PATH}quad", boss)


async def test_a_flood(boss: Client) -> None:
    """50,000 changes in five seconds: some twenty messages, and nothing piles up."""
    async with socket(f"{PATH}quad,double", boss) as open_socket:
        here = bridge()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        def flood() -> float:
            began = time.monotonic()
            for hundred in range(500):
                for number in range(100):
                    here._hear("quad" if number % 2 else f"forged-{number}-{hundred}")
                time.sleep(max(0.0, began + (hundred + 1) / 100 - time.monotonic()))
            return time.monotonic() - began

        took = await asyncio.to_thread(flood)
        here._hear("double")
        messages = []
        while not messages or "double" not in messages[-1]["changed"]:
            messages.append(await told(open_socket))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert 2 <= len(messages) <= took / watcher.Watcher.pause + 4
    assert len(here._heard) <= 2
    assert grown < 5_000  # kilobytes
