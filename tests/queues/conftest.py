"""Fixtures of the engine's tests."""

from __future__ import annotations

import pytest


@pytest.fixture
def wakeups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The topics published on commit, in order."""
    published: list[str] = []
    monkeypatch.setattr("pipeteer_django.queues.hints.publish", published.append)
    return published
