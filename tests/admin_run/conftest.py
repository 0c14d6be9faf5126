"""Fixtures of the tests of a run's page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from tests.queues.clockwork import Clockwork

WHO = ("anonymous", "nobody", "staff", "viewer", "changer")


@pytest.fixture(autouse=True)
def _own_site(settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.admin_run.urls"


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clockwork]:
    """A small worker that keeps runs in memory."""
    clockwork = Clockwork(1000, monkeypatch)
    yield clockwork
    clockwork.warm.close()


@pytest.fixture
def boss(db: None) -> Client:
    """A client who may do everything."""
    client = Client()
    client.force_login(User.objects.create_superuser("boss"))
    return client


@pytest.fixture
def client_of(db: None) -> Callable[[str], Client]:
    """`client_of("viewer")`: logged in as one of WHO, with permissions on `scripted` alone."""

    def make(who: str) -> Client:
        client = Client()
        if who == "anonymous":
            return client
        user = User.objects.create_user(who, is_staff=who != "nobody")
        wanted = {"viewer": ["view"], "changer": ["view", "change"], "nobody": ["view", "change"]}.get(who, [])
        names = [f"{verb}_scriptedinput" for verb in wanted]
        user.user_permissions.set(Permission.objects.filter(codename__in=names))
        client.force_login(user)
        return client

    return make
