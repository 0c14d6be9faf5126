"""What the tests of a run's page read and post."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tests.testapp.pipelines import scripted

WRITES = re.compile(r"^(INSERT|UPDATE|DELETE|REPLACE|TRUNCATE|ALTER|CREATE|DROP)", re.IGNORECASE)


def address(run_id: int, verb: str = "", model: str = "scriptedinput") -> str:
    """Of a run's page, or of one of its verbs."""
    return f"/admin/testapp/{model}/run/{run_id}/" + (f"{verb}/" if verb else "")


def page(client: Client, run_id: int, query: str = "", model: str = "scriptedinput") -> str:
    """The HTML of a run's page."""
    response = client.get(address(run_id, model=model) + query)
    assert response.status_code == 200
    return response.content.decode()


def seen(run_id: int, **more: Any) -> dict[str, Any]:
    """What a form that was shown now would send."""
    entry = scripted.Input.objects.filter(pk=run_id).first()
    output = scripted.Output.everything.filter(run_id=run_id).first()
    shown = entry or output
    return {"branch": shown.branch, "epoch": entry.epoch if entry else "", **more}


def post(client: Client, run_id: int, verb: str, data: dict[str, Any]) -> tuple[int, str]:
    """Post a form; returns where it led and what was said."""
    response = client.post(address(run_id, verb), data, follow=True)
    said = " ".join(str(message) for message in response.context["messages"])
    return response.status_code, said


def statements(work: Callable[[], Any]) -> list[str]:
    """The SQL of some work."""
    with CaptureQueriesContext(connection) as captured:
        work()
    return [query["sql"] for query in captured.captured_queries]
