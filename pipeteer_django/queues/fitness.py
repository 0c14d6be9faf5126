"""What keeps a database from the promises."""

from __future__ import annotations

from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

_VENDORS = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MariaDB"}


def unsupported(connection: BaseDatabaseWrapper) -> str | None:
    """Why the promises would not hold on such a database, or None."""
    if connection.vendor not in _VENDORS:
        return f"pipeteer_django works on SQLite, PostgreSQL and MariaDB, not on {connection.vendor}."
    if connection.vendor == "mysql" and not connection.mysql_is_mariadb:  # type: ignore[attr-defined]
        return (
            "pipeteer_django does not run on MySQL: it lacks INSERT ... RETURNING, which a turn needs. "
            "Use MariaDB 10.6 or newer."
        )
    return None


def shortcomings(using: str) -> list[tuple[str, str, str]]:
    """What keeps this database from its promises, as (check id, message, hint); E ids are errors, W ids warnings."""
    connection: Any = connections[using]
    if refusal := unsupported(connection):
        return [("pipeteer.E003", refusal, "")]
    if connection.vendor == "sqlite":
        return _shortcomings_of_sqlite(connection)
    return _shortcomings_of_mariadb(using, connection) if connection.vendor == "mysql" else []


def _shortcomings_of_sqlite(connection: Any) -> list[tuple[str, str, str]]:
    if connection.Database.sqlite_version_info >= (3, 51, 3):
        return []
    message = (
        f"SQLite {connection.Database.sqlite_version} has the WAL-reset bug, which can corrupt a database when two "
        "processes checkpoint at the wrong moment."
    )
    return [("pipeteer.W101", message, "Use SQLite 3.51.3 or newer in production, or PostgreSQL.")]


def _shortcomings_of_mariadb(using: str, connection: Any) -> list[tuple[str, str, str]]:
    found = []
    if connection.mysql_version < (10, 6):
        found.append(("pipeteer.E003", "MariaDB 10.6 or newer is needed, for SKIP LOCKED.", ""))
    level = (connection.isolation_level or "read committed").upper()
    if level != "READ COMMITTED":
        message = f"MariaDB database {using!r} runs at {level}, where claims lock gaps and see old rows."
        hint = f'Set "isolation_level": "read committed" in DATABASES[{using!r}]["OPTIONS"], or leave it out.'
        found.append(("pipeteer.E003", message, hint))
    return found


def begins_as_reader(using: str) -> bool:
    """Whether this is a SQLite file whose transactions begin as readers, which fail when they want to write."""
    connection: Any = connections[using]
    if connection.vendor != "sqlite" or connection.is_in_memory_db():
        return False
    mode = connection.settings_dict["OPTIONS"].get("transaction_mode") or ""
    return mode.upper() not in ("IMMEDIATE", "EXCLUSIVE")
