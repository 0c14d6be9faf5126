"""The one place where `settings.PIPETEER` is read."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from datetime import timedelta
from functools import cache
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What `PIPETEER = {...}` may contain; every key has a default that works on one machine."""

    PUB_URL: str = "tcp://127.0.0.1:5555"
    """Where publishers send wake-ups to (the proxy's XSUB side)."""
    SUB_URL: str = "tcp://127.0.0.1:5556"
    """Where subscribers hear wake-ups from (the proxy's XPUB side)."""
    WAKEUPS: bool = True
    """Use ZeroMQ at all. Without it everything works by polling."""
    HOST_PROXY: bool = True
    """Whether a worker hosts the proxy itself when nobody else does."""
    CURVE_KEYS: str | os.PathLike[str] | None = None
    """Folder with this host's keys, made by `manage.py pipeteer_keys`; without them wake-ups stay on this machine."""
    POLL_INTERVAL: float = 2.0
    """Seconds between two looks at the queues when no wake-up arrives."""
    RESERVE: timedelta = timedelta(seconds=30)
    """How long a claim lasts unless renewed: how long a dead worker delays its work."""
    CONCURRENCY: int = 200
    """Entries that one worker process runs at once; also how many can share one commit."""
    THREADS: int = 20
    """How many of these may be sync or atomic activities: each runs on a thread, with a database connection if used."""
    GRACE: float = 20.0
    """Seconds a worker that was asked to stop waits for running entries before it hands them back."""
    SWEEP_INTERVAL: float = 10.0
    """Seconds between two sweeps, which repair what no turn can see (a child deleted by raw SQL)."""
    RETENTION: timedelta | None = timedelta(days=30)
    """How long outputs, steps and messages are kept once they are history; None: for ever."""
    CACHE_SIZE: int = 10_000
    """Sleeping workflow runs that a worker process keeps in memory; others are replayed when they go on. 0: none."""
    MAX_CRASHES: int = 3
    """An entry that killed its process this many times is parked."""
    MAX_VALUE_BYTES: int = 1024 * 1024
    """Largest value, as UTF-8 encoded JSON."""
    ADMIN: bool = True
    """Whether all queues appear in Django's admin, where that is installed."""
    LIVE_PATH: str = "ws/pipeteer/"
    """Where the admin's pages look for their WebSocket, below the site's root; without one there they poll."""
    CONTEXT: str | None = None
    """Dotted path of a function; what it returns is `ctx.app`, built once per worker process."""
    AUDIT: str | None = None
    """A folder: every process appends to a file of its own there what it was told to be committed; None: none does."""


_MAY_BE_NONE = ("RETENTION", "CONTEXT", "AUDIT", "CURVE_KEYS")


def _difference(name: str, value: object, default: object) -> str | None:
    """Why `value` cannot stand where `default` does, or None."""
    if name in _MAY_BE_NONE and value is None:
        return None
    if name == "CURVE_KEYS":
        return None if isinstance(value, (str, os.PathLike)) and os.fspath(value) else "the path of a folder, or None"
    if isinstance(default, timedelta):
        wanted = "a positive timedelta, or None" if name in _MAY_BE_NONE else "a positive timedelta"
        return None if isinstance(value, timedelta) and value > timedelta(0) else wanted
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "True or False"
    if isinstance(default, int):
        least = 0 if name == "CACHE_SIZE" else 1
        return None if type(value) is int and value >= least else f"a whole number of at least {least}"
    if isinstance(default, float):
        return None if type(value) in (int, float) and 0 < value < math.inf else "a positive number"  # type: ignore[operator]
    return None if isinstance(value, str) else "a string"


def read(raw: Any) -> Settings:
    """Turn the raw dictionary into `Settings`; raises ImproperlyConfigured naming key, cause and remedy."""
    if not isinstance(raw, dict):
        raise ImproperlyConfigured(f"settings.PIPETEER must be a dictionary, not {type(raw).__name__}.")
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    for name, value in raw.items():
        if name not in defaults:
            near = difflib.get_close_matches(str(name), defaults, n=1)
            hint = f", did you mean {near[0]}?" if near else f". Known keys: {', '.join(sorted(defaults))}."
            raise ImproperlyConfigured(f"settings.PIPETEER: unknown key {name}{hint}")
        if wanted := _difference(name, value, defaults[name]):
            raise ImproperlyConfigured(f"settings.PIPETEER[{name!r}] must be {wanted}, not {value!r}.")
    return Settings(**raw)


@cache
def settings() -> Settings:
    """The project's settings, read once."""
    return read(getattr(django_settings, "PIPETEER", {}))


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "PIPETEER":
        settings.cache_clear()


setting_changed.connect(_forget)
