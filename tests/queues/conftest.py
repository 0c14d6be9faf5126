"""Fixtures of the engine's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.queues.clockwork import Clockwork


@pytest.fixture
def wakeups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The topics published on commit, in order."""
    published: list[str] = []
    monkeypatch.setattr("pipeteer_django.queues.hints.publish", published.append)
    return published


@pytest.fixture(params=["cold", "warm"])
def work(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clockwork]:
    """A small worker that replays every run at every wake-up, and one that keeps all of them in memory."""
    clockwork = Clockwork(0 if request.param == "cold" else 1000, monkeypatch)
    yield clockwork
    clockwork.warm.close()
