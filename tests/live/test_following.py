"""The socket for the site's own users follows one run, as far as the application lets it."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.test import Client
from django.urls import path

from pipeteer_django.live import watcher
from pipeteer_django.live.following import FollowRun
from pipeteer_django.queues.results import Run
from tests.testapp.pipelines import double

from .tools import closed, orm, refused, say_changed, socket, told

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.asyncio, pytest.mark.usefixtures("wakeups_on")]


class FollowMine(FollowRun):
    """A run is followed by whose name it has."""

    pause = 0.1

    def may_follow(self, request: HttpRequest, **kwargs: Any) -> Run | None:
        if request.user.get_username() != kwargs["key"]:
            return None
        run: Run = double.Input.objects.run(kwargs["key"])
        return run


SOCKETS = [path("mine/<str:key>/", FollowMine.as_asgi())]


@pytest.fixture
def ann(transactional_db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_user("ann"))
    return client


async def test_its_whole_life(ann: Client) -> None:
    await orm(double.enqueue, 1, key="ann")
    async with socket("/mine/ann/", ann, SOCKETS) as open_socket:
        assert await told(open_socket) == {"state": "ready", "progress": None, "text": ""}
        say_changed("double")  # not by this run
        assert await open_socket.receive_nothing(0.5)
        await orm(double.Input.objects.push, "ann", 2)
        say_changed("double")
        assert await told(open_socket) == {"state": "finished", "progress": 1.0, "text": ""}
        assert await closed(open_socket) == watcher.OVER


async def test_one_that_is_over(ann: Client) -> None:
    await orm(double.enqueue, 1, key="ann")
    await orm(double.Input.objects.push, "ann", 2)
    async with socket("/mine/ann/", ann, SOCKETS) as open_socket:
        assert (await told(open_socket))["state"] == "finished"
        assert await closed(open_socket) == watcher.OVER


async def test_one_that_is_deleted(ann: Client) -> None:
    await orm(double.enqueue, 1, key="ann")
    async with socket("/mine/ann/", ann, SOCKETS) as open_socket:
        await told(open_socket)
        await orm(double.delete, "ann")
        say_changed("double")
        assert (await told(open_socket))["state"] == "gone"
        assert await closed(open_socket) == watcher.OVER


async def test_nobody_elses(ann: Client) -> None:
    await orm(double.enqueue, 1, key="bob")
    assert await refused("/mine/bob/", ann, sockets=SOCKETS)
    assert await refused("/mine/ann/", ann, sockets=SOCKETS)  # there is none
    await orm(double.enqueue, 1, key="ann")
    assert await refused("/mine/ann/", Client(), sockets=SOCKETS)
    assert await refused("/mine/ann/", ann, "http://evil.example", SOCKETS)
    assert not await refused("/mine/ann/", ann, sockets=SOCKETS)


async def test_permission_is_asked_again(ann: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "RECHECK", 0.2)
    await orm(double.enqueue, 1, key="ann")
    async with socket("/mine/ann/", ann, SOCKETS) as open_socket:
        await told(open_socket)
        await orm(ann.logout)
        assert await closed(open_socket) == watcher.REFUSED
