"""People with and without rights, and pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

PEOPLE = ["anonymous", "outsider", "nobody", "viewer", "changer", "deleter", "adder"]
"""Nobody's name, no staff, staff without a permission, and staff with one permission beside `view`."""


def url(model: Any, page: str = "changelist", *args: Any) -> str:
    """An admin page of a model."""
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def person(name: str) -> Client:
    """A client that is logged in as one of PEOPLE, and refuses forged requests."""
    client = Client()
    if name == "anonymous":
        return client
    user = User.objects.create_user(name, is_staff=name != "outsider")
    verbs = {"viewer": ["view"], "changer": ["view", "change"], "deleter": ["view", "delete"], "adder": ["view", "add"]}
    for verb in verbs.get(name, []):
        user.user_permissions.add(*Permission.objects.filter(codename__startswith=f"{verb}_"))
    client.force_login(user)
    return client


@pytest.fixture
def boss(db: None) -> Client:
    """Somebody who may do everything."""
    client = Client()
    client.force_login(User.objects.create_superuser("boss"))
    return client


Act = Callable[..., Any]


@pytest.fixture
def act(boss: Client) -> Act:
    """`act(model, "retry", entries)` presses "Go" and then "Yes"; returns the page that follows."""

    def press(model: Any, name: str, chosen: Any, *, query: str = "", client: Client = boss, **more: Any) -> Any:
        keys = [getattr(entry, "pk", entry) for entry in chosen]
        data = {"action": name, "_selected_action": keys, "post": "yes", **more}
        return client.post(url(model) + query, data, follow=True)

    return press


def page_of(response: Any) -> str:
    """Its HTML."""
    text: str = response.content.decode()
    return text


def said(response: Any) -> list[str]:
    """The messages on a page."""
    return [str(message) for message in response.context["messages"]]
