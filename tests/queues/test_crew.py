"""An attempt always ends, whatever breaks around its body: what never ended would keep its lease for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pipeteer_django.pipelines.activity import Activity
from pipeteer_django.pipelines.outcome import Parked
from pipeteer_django.worker.crew import Crew
from tests.queues import by_hand
from tests.testapp.pipelines import double


@pytest.mark.django_db
def test_what_cannot_even_be_judged_is_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(attempt: Any) -> Any:
        raise RuntimeError("outside the body")

    def clueless(*arguments: Any) -> Any:
        raise TypeError("no idea what follows")

    monkeypatch.setattr("pipeteer_django.worker.crew.run_on_loop", broken)
    monkeypatch.setattr(Activity, "after_error", clueless)
    double.enqueue(1)
    claim = by_hand.claim_one(double)

    async def run() -> Any:
        ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        crew = Crew(1, 1, "default", None, lambda claim: None, lambda claim, end: ended.set_result(end))
        crew.start(claim)
        try:
            return await asyncio.wait_for(ended, 10), len(crew)
        finally:
            crew.close()

    outcome, running = asyncio.run(run())
    assert isinstance(outcome, Parked)
    assert "no idea" in outcome.failure.message
    assert running == 0
