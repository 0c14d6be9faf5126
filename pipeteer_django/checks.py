"""System checks: what would break a promise, found before it does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router

from pipeteer_django.conf import read
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.database import refuse_unsupported
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


@register
def check_routing(**kwargs: Any) -> list[CheckMessage]:
    """All pipelines, and what they read and write, are on one database alias: exactly-once is one transaction."""
    aliases = {alias for pipeline in _attached() for alias in _aliases(pipeline)}
    if len(aliases) <= 1:
        return []
    return [
        Error(
            f"Pipelines are routed to several databases ({', '.join(sorted(aliases))}). Those that call each other, and "
            "each one's reads and writes, must share one.",
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


def _attached() -> list[Pipeline[Any, Any]]:
    return [pipeline for pipeline in registry if pipeline.attached]


def _aliases(pipeline: Pipeline[Any, Any]) -> set[str]:
    models = [pipeline.Input, pipeline.Output]
    return {router.db_for_write(model) for model in models} | {router.db_for_read(model) for model in models}


def _sqlite(alias: str) -> list[CheckMessage]:
    connection = connections[alias]
    if connection.vendor != "sqlite" or connection.is_in_memory_db():  # type: ignore[attr-defined]
        return []
    mode = connection.settings_dict["OPTIONS"].get("transaction_mode") or ""
    if mode.upper() in ("IMMEDIATE", "EXCLUSIVE"):
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
    connection: Any = connections[alias]
    try:
        refuse_unsupported(connection)
    except ImproperlyConfigured as error:
        return [Error(str(error), id="pipeteer.E003")]
    if connection.vendor == "mysql":
        return _mariadb(alias, connection)
    if connection.vendor == "sqlite" and connection.Database.sqlite_version_info < (3, 51, 3):
        return [
            Warning(
                f"SQLite {connection.Database.sqlite_version} has the WAL-reset bug, which can corrupt a database when "
                "two processes checkpoint at the wrong moment.",
                hint="Use SQLite 3.51.3 or newer in production, or PostgreSQL.",
                id="pipeteer.W101",
            )
        ]
    return []


def _mariadb(alias: str, connection: Any) -> list[CheckMessage]:
    problems: list[CheckMessage] = []
    if connection.mysql_version < (10, 6):
        problems.append(Error("MariaDB 10.6 or newer is needed, for SKIP LOCKED.", id="pipeteer.E003"))
    level = (connection.isolation_level or "read committed").lower()
    if level != "read committed":
        problems.append(
            Error(
                f"MariaDB database {alias!r} runs at {level.upper()}, where claims lock gaps and see old rows.",
                hint=f'Set "isolation_level": "read committed" in DATABASES[{alias!r}]["OPTIONS"], or leave it out.',
                id="pipeteer.E003",
            )
        )
    return problems
