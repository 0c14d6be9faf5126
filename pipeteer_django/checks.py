"""System checks: what would break a promise, found before it does."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import router

from pipeteer_django.conf import read
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.purity import impurities
from pipeteer_django.queues.fitness import begins_as_reader, shortcomings
from pipeteer_django.wakeups import check_url

_SQLITE_HINT = """In settings.DATABASES[{alias!r}], paste:
    "OPTIONS": {{
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
    }},"""


@register
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """settings.PIPETEER can be read, and its addresses are safe to listen on."""
    try:
        settings = read(getattr(django_settings, "PIPETEER", {}))
        if settings.WAKEUPS:
            check_url(settings.PUB_URL)
            check_url(settings.SUB_URL)
    except ImproperlyConfigured as error:
        return [Error(str(error), id="pipeteer.E004")]
    if not django_settings.USE_TZ:
        return [
            Error(
                "pipeteer_django needs USE_TZ = True: leases and due times are moments, not wall clocks.",
                id="pipeteer.E007",
            )
        ]
    return []


@register(Tags.security, deploy=True)
def check_hosts(**kwargs: Any) -> list[CheckMessage]:
    """WebSockets are opened by this site's own pages only, as far as ALLOWED_HOSTS says which these are."""
    if "*" not in django_settings.ALLOWED_HOSTS or not getattr(django_settings, "ASGI_APPLICATION", None):
        return []
    return [
        Warning(
            "ALLOWED_HOSTS contains '*', so a page of any other site may open WebSockets here as whoever looks at it.",
            hint="Name the site's own hosts.",
            id="pipeteer.W202",
        )
    ]


@register
def check_routing(**kwargs: Any) -> list[CheckMessage]:
    """All pipelines, and what they read and write, are on one database alias: exactly-once is one transaction."""
    aliases = {alias for pipeline in _attached() for alias in _aliases(pipeline)}
    if len(aliases) <= 1:
        return []
    return [
        Error(
            f"Pipelines are routed to several databases ({', '.join(sorted(aliases))}). Those that call each other, "
            "and each one's reads and writes, must share one.",
            hint="Let the router answer the same alias for all models of an app with pipelines.",
            id="pipeteer.E005",
        )
    ]


@register(Tags.database)
def check_databases(databases: Iterable[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """The database in use keeps the promises."""
    used = {alias for pipeline in _attached() for alias in _aliases(pipeline)}
    return [problem for alias in sorted(used & set(databases or ())) for problem in _database(alias)]


@register
def check_sqlite(**kwargs: Any) -> list[CheckMessage]:
    """SQLite begins every transaction as a writer: a reader that turns writer fails at once, whatever the timeout."""
    used = sorted({alias for pipeline in _attached() for alias in _aliases(pipeline)})
    return [problem for alias in used for problem in _sqlite(alias)]


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
            id="pipeteer.W201",
        )
        for impurity in impurities(function)
    ]


def _attached() -> list[Pipeline[Any, Any]]:
    return [pipeline for pipeline in registry if pipeline.attached]


def _aliases(pipeline: Pipeline[Any, Any]) -> set[str]:
    models = [pipeline.Input, pipeline.Output]
    return {router.db_for_write(model) for model in models} | {router.db_for_read(model) for model in models}


def _sqlite(alias: str) -> list[CheckMessage]:
    if not begins_as_reader(alias):
        return []
    return [
        Error(
            f"SQLite database {alias!r} does not begin its transactions as IMMEDIATE, so concurrent workers would fail "
            'with "database is locked".',
            hint=_SQLITE_HINT.format(alias=alias),
            id="pipeteer.E001",
        )
    ]


def _database(alias: str) -> list[CheckMessage]:
    kinds = {"E": Error, "W": Warning}
    return [kinds[id.split(".")[1][0]](message, hint=hint or None, id=id) for id, message, hint in shortcomings(alias)]
