"""What keeps a database from the promises.

Findings are (check id, message, hint); E ids are errors, W ids warnings. What `shortcomings` says is asked of the
database before work begins; `manners` is known from settings alone; `durability` is how a server is run.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from pipeteer_django.conf import settings
from pipeteer_django.queues.database import fetch, time_of
from pipeteer_django.queues.mounts import network_filesystem

Found = tuple[str, str, str]
_SKEW = 1.0
"""Seconds by which the clocks of this host and of the database may differ."""
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


def shortcomings(using: str) -> list[Found]:
    """What keeps this database from its promises. Asks it."""
    connection: Any = connections[using]
    if refusal := unsupported(connection):
        return [("pipeteer.E003", refusal, "")]
    if connection.vendor == "sqlite":
        return _shortcomings_of_sqlite(using, connection)
    return _shortcomings_of_mariadb(using, connection) if connection.vendor == "mysql" else []


def _shortcomings_of_sqlite(using: str, connection: Any) -> list[Found]:
    found = []
    if connection.Database.sqlite_version_info < (3, 51, 3):
        message = (
            f"SQLite {connection.Database.sqlite_version} has the WAL-reset bug, which can corrupt a database when two "
            "processes checkpoint at the wrong moment."
        )
        found.append(("pipeteer.W101", message, "Use SQLite 3.51.3 or newer in production, or PostgreSQL."))
    if not connection.is_in_memory_db():
        found += [("pipeteer.W102", f"SQLite database {using!r} {what}.", hint) for what, hint in _pragmas(using)]
    return found


def _pragmas(using: str) -> list[tuple[str, str]]:
    journal, synchronous, mapped = (
        fetch(using, f"PRAGMA {name}") for name in ("journal_mode", "synchronous", "mmap_size")
    )
    init = f'in the "init_command" of DATABASES[{using!r}]["OPTIONS"].'
    found = []
    if journal[0][0].lower() != "wal":
        found.append((f"has journal_mode {journal[0][0]}, so readers and writers wait for each other",
                      f"Say PRAGMA journal_mode=WAL; {init}"))  # fmt: skip
    if synchronous[0][0] < 2:
        found.append(("is not synchronous=FULL, so a power cut may take back what was committed",
                      f"Say PRAGMA synchronous=FULL; {init}"))  # fmt: skip
    if mapped and mapped[0][0] > 0:
        found.append((f"has mmap_size {mapped[0][0]}, so a stray write in memory may reach the file",
                      f"Say PRAGMA mmap_size=0; {init}"))  # fmt: skip
    return found


def _shortcomings_of_mariadb(using: str, connection: Any) -> list[Found]:
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


def on_network(using: str) -> str | None:
    """The network filesystem that this SQLite file is on, where locks and shared memory cannot be relied upon."""
    connection: Any = connections[using]
    if connection.vendor != "sqlite" or connection.is_in_memory_db():
        return None
    return network_filesystem(str(connection.settings_dict["NAME"]))


def manners(using: str) -> list[Found]:
    """How connections to this database are kept, by the settings: nothing is asked."""
    connection: Any = connections[using]
    if connection.vendor == "sqlite":
        return []
    found, given = [], connection.settings_dict
    if given["CONN_MAX_AGE"] != 0 and not given["CONN_HEALTH_CHECKS"]:
        message = f"Connections to {using!r} are kept (CONN_MAX_AGE) but not tested before they are used again."
        hint = f'Set "CONN_HEALTH_CHECKS": True in DATABASES[{using!r}]; else a restart of the server fails requests.'
        found.append(("pipeteer.W104", message, hint))
    needed, size = settings().THREADS + 2, _pool_size(given["OPTIONS"].get("pool"))
    if size is not None and size < needed:
        message = (
            f"The pool of {using!r} has {size} connections, and a worker process uses up to {needed} (THREADS + 2): "
            "the renewal of leases would wait for bodies that run."
        )
        hint = f'Set "pool": {{"max_size": {needed}}} or more in the OPTIONS, set THREADS lower, or use no pool.'
        found.append(("pipeteer.W104", message, hint))
    return found


def _pool_size(pool: Any) -> int | None:
    if not pool:
        return None
    options: dict[str, Any] = pool if isinstance(pool, dict) else {}
    return int(options.get("max_size") or options.get("min_size", 4))  # psycopg_pool's own default


def durability(using: str) -> list[Found]:
    """How the server is run, where that takes promises away. Asks it; raises DatabaseError if it does not answer."""
    connection: Any = connections[using]
    ask = {"postgresql": _of_postgres, "mysql": _of_mariadb}.get(connection.vendor)
    if ask is None or unsupported(connection):
        return []
    found = [f"{what} ({using!r})." for what in ask(using)]
    if (skew := _skew(using)) > _SKEW:
        found.append(
            f"The clocks of this host and of the database {using!r} differ by {skew:.1f} s: leases go by the "
            "database's, logs and due times made here by this host's."
        )
    return [("pipeteer.W105", message, "") for message in found]


def _of_postgres(using: str) -> list[str]:
    names = ("synchronous_commit", "fsync", "autovacuum", "idle_in_transaction_session_timeout")
    ((commit, fsync, autovacuum, idle),) = fetch(
        using, "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
    )
    found = []
    if commit == "off":
        found.append("synchronous_commit is off: a crash of the server takes back what was committed just before")
    if fsync == "off":
        found.append("fsync is off: a crash of the server's host can destroy the database")
    if autovacuum == "off":
        found.append("autovacuum is off: queues change and delete all their rows, and their tables would only grow")
    if idle == "0":
        found.append(
            "idle_in_transaction_session_timeout is 0: a worker that freezes in an atomic body, or whose host is cut "
            "off, keeps its row locked. Set it above the longest timeout of an atomic activity"
        )
    return found


def _of_mariadb(using: str) -> list[str]:
    names = (
        "innodb_flush_log_at_trx_commit", "binlog_format", "log_bin", "idle_transaction_timeout",
        "idle_write_transaction_timeout",
    )  # fmt: skip
    ((flush, binlog, logs, idle, idle_write),) = fetch(using, "SELECT " + ", ".join(f"@@{name}" for name in names))
    cluster = fetch(using, "SHOW VARIABLES LIKE 'wsrep_on'")  # not every build has it
    found = []
    if int(flush) != 1:
        found.append(
            f"innodb_flush_log_at_trx_commit is {flush}, not 1: a crash of the server's host takes back what was "
            "committed just before"
        )
    if cluster and str(cluster[0][1]).upper() in ("ON", "1"):
        found.append("wsrep_on is ON: a Galera cluster takes locks on one node only, and two workers could claim a row")
    if int(logs) and str(binlog).upper() == "STATEMENT":
        found.append("binlog_format is STATEMENT: what SKIP LOCKED chose would be chosen otherwise on a replica")
    if not int(idle) and not int(idle_write):
        found.append(
            "idle_transaction_timeout is 0: a worker that freezes in an atomic body, or whose host is cut off, keeps "
            "its row locked. Set it above the longest timeout of an atomic activity"
        )
    return found


def _skew(using: str) -> float:
    """Seconds between the clocks, at least: what the question itself took is not counted."""
    before = datetime.now(UTC)  # aware, also where USE_TZ is what another check complains of
    there = time_of(using)
    after = datetime.now(UTC)
    return max(0.0, (before - there).total_seconds(), (there - after).total_seconds())
