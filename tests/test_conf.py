"""settings.PIPETEER: what may be in it, and what is said about the rest."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from pipeteer_django.conf import Settings, read, settings

pytestmark = pytest.mark.once


def test_nothing_is_fine() -> None:
    assert read({}) == Settings()


@pytest.mark.parametrize(
    "given",
    [
        {"POLL_INTERVAL": 5, "GRACE": 0.5},
        {"RESERVE": timedelta(hours=1)},
        {"RETENTION": timedelta(hours=1)},
        {"RETENTION": None},
        {"CONTEXT": "shop.context.make"},
        {"CONTEXT": None},
        {"AUDIT": "/var/lib/shop/audit"},
        {"CURVE_KEYS": "/etc/pipeteer/keys"},
        {"CURVE_KEYS": Path("/etc/pipeteer/keys")},
        {"CURVE_KEYS": None},
        {"WAKEUPS": False},
    ],
    ids=str,
)
def test_what_may_be(given: dict[str, Any]) -> None:
    assert {name: getattr(read(given), name) for name in given} == given


def test_a_misspelt_key() -> None:
    with pytest.raises(ImproperlyConfigured, match="unknown key POL_INTERVAL, did you mean POLL_INTERVAL\\?"):
        read({"POL_INTERVAL": 1})


def test_a_key_like_no_other() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"unknown key Z\. Known keys: ADMIN, .*CACHE_SIZE, CONCURRENCY"):
        read({"Z": 1})


@pytest.mark.parametrize("given", [None, [], "PUB_URL", {5: 5}], ids=str)
def test_not_even_a_dictionary(given: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"settings\.PIPETEER"):
        read(given)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("RESERVE", 30, "a positive timedelta"),
        ("RESERVE", timedelta(0), "a positive timedelta"),
        ("RESERVE", None, "a positive timedelta"),
        ("RETENTION", 30, "a positive timedelta, or None"),
        ("RETENTION", timedelta(0), "a positive timedelta, or None"),
        ("POLL_INTERVAL", "2", "a positive number"),
        ("POLL_INTERVAL", 0, "a positive number"),
        ("POLL_INTERVAL", True, "a positive number"),
        ("POLL_INTERVAL", math.inf, "a positive number"),
        ("POLL_INTERVAL", math.nan, "a positive number"),
        ("CONCURRENCY", 1.5, "a whole number of at least 1"),
        ("CONCURRENCY", -1, "a whole number of at least 1"),
        ("MAX_CRASHES", True, "a whole number of at least 1"),
        ("WAKEUPS", 1, "True or False"),
        ("PUB_URL", 5555, "a string"),
        ("PUB_URL", None, "a string"),
        ("CONTEXT", dict, "a string"),
        ("CURVE_KEYS", True, "the path of a folder, or None"),
        ("CURVE_KEYS", "", "the path of a folder, or None"),
    ],
)
def test_a_value_of_the_wrong_kind(name: str, value: Any, wanted: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=rf"settings\.PIPETEER\['{name}'\] must be {wanted}, not"):
        read({name: value})


def test_settings_are_read_once_and_follow_a_test() -> None:
    assert settings() is settings()
    with override_settings(PIPETEER={"GRACE": 7}):
        assert settings().GRACE == 7
    assert settings().GRACE != 7
