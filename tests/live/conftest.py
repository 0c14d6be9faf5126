"""Hosts are checked as in a real project; no proxy is needed where the bridge is spoken to directly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.conf import settings
from django.test import override_settings

from pipeteer_django import wakeups


@pytest.fixture(autouse=True)
def real_hosts() -> Iterator[None]:
    with override_settings(ALLOWED_HOSTS=["testserver", "localhost", "127.0.0.1"]):
        yield


@pytest.fixture
def wakeups_on() -> Iterator[None]:
    """Also in the leg of the tests that has none."""
    with override_settings(PIPETEER=settings.PIPETEER | {"WAKEUPS": True}):
        yield
    wakeups.close()
