"""System checks: what would break a promise, found before it does."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import router

from pipeteer_django.conf import settings
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.pipelines.storable import unstorable
from pipeteer_django.purity import impurities
from pipeteer_django.queues.fitness import Found, begins_as_reader, manners, on_network, shortcomings
from pipeteer_django.wakeups import check_keys, check_url

SHORTEST_LEASE = timedelta(seconds=1.5)
"""Three times the half second of the thread that renews leases."""
_SQLITE_HINT = """In settings.DATABASES[{alias!r}], paste:
    "OPTIONS": {{
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA journal_size_limit=67108864;",
    }},"""


@register
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """settings.PIPETEER can be read."""
    return [Error(problem, id="pipeteer.E008")] if (problem := _unreadable()) else []


@register
def check_wakeups(**kwargs: Any) -> list[CheckMessage]:
    """Wake-ups stay on this machine, or have the keys with which they may leave it."""
    if _unreadable() or not settings().WAKEUPS:
        return []
    try:
        check_url(settings().PUB_URL)
        check_url(settings().SUB_URL)
        check_keys()
    except ImproperlyConfigured as error:
        return [Error(str(error), id="pipeteer.E004")]
    return []


@register
def check_time(**kwargs: Any) -> list[CheckMessage]:
    """Leases and due times are moments, not wall clocks."""
    if django_settings.USE_TZ:
        return []
    message = "pipeteer_django needs USE_TZ = True: leases and due times are moments, not wall clocks."
    return [Error(message, id="pipeteer.E007")]


@register
def check_leases(**kwargs: Any) -> list[CheckMessage]:
    """A lease is long enough to be renewed: three times in each, by a thread that looks twice a second."""
    if _unreadable():
        return []
    return [
        Warning(
            f"{whose} is {lease.total_seconds():g} s, and a lease is renewed every half second at best: a short pause "
            "of the worker or of the database loses what it runs.",
            hint=f"Make it {SHORTEST_LEASE.total_seconds():g} s or more: how long a dead worker delays work.",
            id="pipeteer.W103",
        )
        for whose, lease in _leases()
        if lease < SHORTEST_LEASE
    ]


@register
def check_routing(**kwargs: Any) -> list[CheckMessage]:
    """All pipelines, and what they read and write, are on one database alias: exactly-once is one transaction."""
    aliases = aliases_in_use()
    if len(aliases) <= 1:
        return []
    return [
        Error(
            f"Pipelines are routed to several databases ({', '.join(aliases)}). Those that call each other, "
            "and each one's reads and writes, must share one.",
            hint="Let the router answer the same alias for all models of an app with pipelines.",
            id="pipeteer.E005",
        )
    ]


@register
def check_types(**kwargs: Any) -> list[CheckMessage]:
    """What a pipeline takes and returns can be read back from JSON. (Two of one id or table are a DefinitionError.)"""
    return [
        Error(
            f"{pipeline.id}: its {role} ({of!r}) cannot be kept as JSON: {reason}.",
            hint="Take and return data: a dataclass, a pydantic model, a dict, a list.",
            id="pipeteer.E006",
        )
        for pipeline in _attached()
        for role, of in (("input", pipeline.input), ("output", pipeline.output))
        if (reason := unstorable(of))
    ]


@register(Tags.database)
def check_databases(databases: Iterable[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """The database in use keeps the promises."""
    asked = sorted(set(aliases_in_use()) & set(databases or ()))
    return [problem for alias in asked for problem in messages(shortcomings(alias))]


@register
def check_sqlite(**kwargs: Any) -> list[CheckMessage]:
    """SQLite begins every transaction as a writer: a reader that turns writer fails at once, whatever the timeout.

    And its file is on a disk of this host, where locks hold.
    """
    return [problem for alias in aliases_in_use() for problem in _sqlite(alias)]


@register
def check_connections(**kwargs: Any) -> list[CheckMessage]:
    """Connections that are kept are tested, and a pool has enough of them."""
    return [] if _unreadable() else [problem for alias in aliases_in_use() for problem in messages(manners(alias))]


@register
def check_workflows(**kwargs: Any) -> list[CheckMessage]:
    """No workflow calls what no replay repeats, as far as its source shows."""
    return [problem for pipeline in registry if pipeline.kind == "workflow" for problem in _impure(pipeline)]


def _impure(workflow: Pipeline[Any, Any]) -> list[CheckMessage]:
    function = inspect.unwrap(workflow.function)
    name, file = f"{function.__module__}.{function.__qualname__}", function.__code__.co_filename
    return [
        Warning(
            f"{name} ({file}:{impurity.line}) calls {impurity.construct}(), which gives something else when the "
            "workflow is replayed, or happens again.",
            hint=impurity.hint,
            id="pipeteer.W301",
        )
        for impurity in impurities(function)
    ]


def _attached() -> list[Pipeline[Any, Any]]:
    return [pipeline for pipeline in registry if pipeline.attached]


def _unreadable() -> str:
    """Why settings.PIPETEER cannot be read, or ""."""
    try:
        settings()
    except ImproperlyConfigured as error:
        return str(error)
    return ""


def _leases() -> Iterator[tuple[str, timedelta]]:
    yield 'PIPETEER["RESERVE"]', settings().RESERVE
    for pipeline in _attached():
        if pipeline.reserve is not None:
            yield f"The reserve of {pipeline.id}", pipeline.reserve


def aliases_in_use() -> list[str]:
    """All databases that pipelines are routed to."""
    return sorted({alias for pipeline in _attached() for alias in _aliases(pipeline)})


def _aliases(pipeline: Pipeline[Any, Any]) -> set[str]:
    models = pipeline.models.values()
    return {router.db_for_write(model) for model in models} | {router.db_for_read(model) for model in models}


def _sqlite(alias: str) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if begins_as_reader(alias):
        message = (
            f"SQLite database {alias!r} does not begin its transactions as IMMEDIATE, so concurrent workers would fail "
            'with "database is locked".'
        )
        found.append(Error(message, hint=_SQLITE_HINT.format(alias=alias), id="pipeteer.E001"))
    if filesystem := on_network(alias):
        message = (
            f"SQLite database {alias!r} is on a network filesystem ({filesystem}), where its locks do not hold and "
            "WAL cannot work: two hosts would corrupt it."
        )
        found.append(Error(message, hint="Keep it on a disk of this host, or use PostgreSQL.", id="pipeteer.E002"))
    return found


def messages(found: Iterable[Found]) -> list[CheckMessage]:
    """Findings of `queues/fitness.py` as Django reports them."""
    kinds = {"E": Error, "W": Warning}
    return [kinds[id.split(".")[1][0]](message, hint=hint or None, id=id) for id, message, hint in found]
