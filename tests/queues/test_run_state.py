"""How far a run is, for whoever waits for it."""

from __future__ import annotations

import pytest

from pipeteer_django.queues.results import RunState
from pipeteer_django.testing import drain
from tests.testapp.pipelines import approval, approve

pytestmark = pytest.mark.django_db


def test_from_the_queue_to_the_output() -> None:
    run = approval.enqueue("really?", key="k")
    assert run.state() == RunState("ready")
    drain()
    assert run.state() == RunState("waiting")
    approval.Input.objects.model._base_manager.update(progress=0.5, progress_text="half")
    assert run.state() == RunState("waiting", 0.5, "half")
    assert not run.state().over
    assert approve.push(approve.Input.objects.get().key, True)
    drain()
    assert run.state() == RunState("finished", 1.0)
    approval.Output.objects.all().delete()
    assert run.state() == RunState("gone")
    assert run.state().over
