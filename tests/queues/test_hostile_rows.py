"""Whoever can write rows decides which registered pipeline runs with which JSON, and nothing more."""

from __future__ import annotations

import base64
import pickle
import sys
from typing import Any

import pytest
from django.utils.module_loading import import_string

from pipeteer_django.checking.gate import Gate
from pipeteer_django.models import Queue
from pipeteer_django.pipelines.registry import Registry
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.sweep import Sweeper
from tests.queues.by_hand import drain_anyway, engine
from tests.testapp.pipelines import double, quad

pytestmark = pytest.mark.django_db
LANDMINE = "tests.queues.landmine"


class Exploding:
    """Imports the landmine when it is unpickled."""

    def __reduce__(self) -> Any:
        return __import__, (LANDMINE,)


TEXTS = [
    f"{LANDMINE}.blow",
    LANDMINE,
    f"{LANDMINE}:blow",
    f"__import__('{LANDMINE}')",
    f"!!python/module:{LANDMINE}",
    base64.b64encode(pickle.dumps(Exploding())).decode(),
    "../../tests/queues/landmine.py",
]


@pytest.fixture(autouse=True)
def untouched() -> Any:
    """No test leaves it imported."""
    sys.modules.pop(LANDMINE, None)
    yield
    sys.modules.pop(LANDMINE, None)


def everything_looks() -> None:
    """All that reads rows: workers, sweeps, and the gate with its replays."""
    drain_anyway()
    Sweeper([double, quad], "default").sweep()
    list(Gate([double, quad], replay=True).findings())


@pytest.mark.parametrize("text", TEXTS)
def test_texts_of_an_entry(text: str) -> None:
    double.enqueue(1, key="called", output=text[:100])
    double.enqueue(2, key=text[:100])
    engine(double, output=text[:100])
    plain(double.Input, "default").filter(key="called").update(caller=text[:60], step_id=1)
    everything_looks()
    assert LANDMINE not in sys.modules
    assert plain(double.Output, "default").filter(output=text[:100], value=4).exists()


@pytest.mark.parametrize("text", TEXTS)
def test_texts_of_a_step(text: str) -> None:
    run = quad.enqueue(1, key="task")
    drain_anyway(quad)
    assert plain(quad.Step, "default").update(pipeline=text[:60], param={"__reduce__": text, "py/object": text}) == 1
    plain(quad.Message, "default").create(run_id=run.id, name=text[:60], value={"py/object": text})
    Queue(pipeline=text[:60]).save()
    everything_looks()
    assert LANDMINE not in sys.modules


@pytest.mark.parametrize("text", TEXTS)
def test_texts_of_a_result(text: str) -> None:
    """And of a value that fits no type: it parks."""
    quad.enqueue(1, key="task")
    drain_anyway(quad)
    plain(quad.Step, "default").update(result={"py/object": text}, done_at="2026-01-01T00:00:00Z")
    engine(quad, available_at="2026-01-01T00:00:00Z")
    everything_looks()
    assert LANDMINE not in sys.modules


def test_an_engine_that_imports_what_a_row_names_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above can fail."""
    real = Registry.get

    def get(self: Registry, id: str) -> Any:
        return real(self, id) or (import_string(id) if "." in id else None)

    monkeypatch.setattr(Registry, "get", get)
    double.enqueue(1)
    engine(double, caller=TEXTS[0], step_id=1)
    drain_anyway(double)
    assert LANDMINE in sys.modules
