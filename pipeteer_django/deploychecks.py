"""System checks of `manage.py check --deploy`: what is fine on a developer's machine only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any

import django
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from pipeteer_django.checks import aliases_in_use, messages
from pipeteer_django.queues.fitness import durability
from pipeteer_django.wakeups import exposed, library_version

_SAFE_DJANGO = {(5, 2): 17, (6, 0): 8}
"""The patch releases in which the admin shows a stored URL without running it (CVE-2026-15920)."""
_SAFE_DAPHNE = (4, 2, 2)
_SAFE_ZEROMQ = (4, 3, 3)


@register(Tags.security, deploy=True)
def check_sockets(**kwargs: Any) -> list[CheckMessage]:
    """WebSockets are opened by this site's own pages only, and tracebacks stay here."""
    found = []
    if getattr(django_settings, "ASGI_APPLICATION", None):
        if "*" in django_settings.ALLOWED_HOSTS:
            found.append((
                "ALLOWED_HOSTS contains '*', so a page of any other site may open WebSockets here as whoever looks at "
                "it.",
                "Name the site's own hosts.",
            ))  # fmt: skip
        if _open_to_all_origins(django_settings.ASGI_APPLICATION):
            found.append((
                f"The WebSockets of {django_settings.ASGI_APPLICATION} do not look at the Origin, so a page of any "
                "other site may open them as whoever looks at it.",
                "Wrap them in channels.security.websocket.AllowedHostsOriginValidator, or take "
                "pipeteer_django.live.routing.application, which does.",
            ))  # fmt: skip
    if django_settings.DEBUG:
        found.append((
            "DEBUG is on: error pages show settings and values of entries, and a worker keeps its last 9,000 "
            "statements in memory.",
            "Set DEBUG = False.",
        ))  # fmt: skip
    return [Warning(message, hint=hint, id="pipeteer.W201") for message, hint in found]


@register(Tags.security, deploy=True)
def check_versions(**kwargs: Any) -> list[CheckMessage]:
    """Libraries have no holes that would be open here."""
    return [Warning(message, hint="Update it.", id="pipeteer.W202") for message in _outdated()]


@register(Tags.security, deploy=True)
def check_secrets(**kwargs: Any) -> list[CheckMessage]:
    """Secret keys are secret."""
    try:
        readable = exposed()
    except ImproperlyConfigured:
        return []  # what is wrong there is said by E004 or E008
    return [
        Warning(
            f"Every user of this machine may read {path}, and with it publish and hear wake-ups.",
            hint=f"chmod o-rwx {path}, and make new keys if somebody may have read them.",
            id="pipeteer.W204",
        )
        for path in readable
    ]


@register(Tags.database, deploy=True)
def check_servers(databases: Iterable[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """The database server keeps what it committed, and lets go of what nobody holds any more."""
    asked = sorted(set(aliases_in_use()) & set(databases or ()))
    return [problem for alias in asked for problem in messages(durability(alias))]


def _open_to_all_origins(path: str) -> bool:
    """Whether this ASGI application takes WebSockets without a look at their Origin, as far as it shows."""
    try:
        application = import_string(path)
    except Exception:
        return False  # the server that is to run it will say so
    layer = getattr(application, "application_mapping", {}).get("websocket")
    return layer is not None and not any(_looks_at_origin(each) for each in _layers(layer))


def _layers(application: Any) -> Iterator[Any]:
    """A middleware, and what it wraps: Channels keeps that in `inner` or `application`."""
    seen: list[Any] = []
    while application is not None and not any(application is each for each in seen):
        seen.append(application)
        yield application
        application = getattr(application, "inner", None) or getattr(application, "application", None)


def _looks_at_origin(application: Any) -> bool:
    # By name: Channels is imported in live/ only, and need not be installed.
    names = {f"{each.__module__}.{each.__qualname__}" for each in type(application).__mro__}
    return "channels.security.websocket.OriginValidator" in names


def _outdated() -> Iterator[str]:
    needed = _SAFE_DJANGO.get(django.VERSION[:2])
    if needed is not None and django.VERSION[2] < needed:
        series = ".".join(map(str, django.VERSION[:2]))
        yield f"Django {django.get_version()} can be made to run scripts in the admin; {series}.{needed} cannot."
    daphne = _installed("daphne")
    if daphne is not None and daphne < _SAFE_DAPHNE:
        yield f"daphne {_dotted(daphne)} takes WebSocket messages of any size; {_dotted(_SAFE_DAPHNE)} does not."
    if library_version() < _SAFE_ZEROMQ:
        yield (
            f"libzmq {_dotted(library_version())} can be stopped by anybody who reaches the proxy, with or without "
            f"keys; {_dotted(_SAFE_ZEROMQ)} cannot. It comes with pyzmq."
        )


def _installed(package: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(number) for number in re.findall(r"\d+", metadata.version(package))[:3])
    except metadata.PackageNotFoundError:
        return None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
