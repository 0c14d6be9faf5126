"""A fresh database for each measurement."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from example_project.database_url import database


@contextmanager
def fresh(server: str, folder: Path) -> Iterator[str]:
    """Yield the URL of a new, empty database on `server` ("": SQLite, in `folder`), which is dropped afterwards."""
    if not server:
        yield f"sqlite:///{folder / 'db.sqlite3'}"
        return
    name = f"pipeteer_bench_{secrets.token_hex(4)}"
    if urlsplit(server).scheme.startswith("postgres"):
        run_postgres(server, f"create database {name}", "checkpoint")
        drop: Any = lambda: run_postgres(server, f"drop database {name} with (force)")  # noqa: E731
    else:
        run_mariadb(server, f"create database {name} character set utf8mb4 collate utf8mb4_bin")
        drop = lambda: run_mariadb(server, f"drop database {name}")  # noqa: E731
    try:
        yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    finally:
        drop()


def run_postgres(server: str, *statements: str) -> list[Any]:
    """Run statements, each by itself; the first row of the last one that has rows."""
    import psycopg

    row: list[Any] = []
    with psycopg.connect(server.replace("postgres://", "postgresql://", 1), autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
            row = list(cursor.fetchone() or []) if cursor.description else row
    return row


def run_mariadb(server: str, statement: str) -> list[Any]:
    """Run one statement; its first row."""
    import MySQLdb

    where = database(server)
    connection = MySQLdb.connect(
        host=where["HOST"], port=int(where["PORT"] or 3306), user=where["USER"], password=where["PASSWORD"]
    )
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchone() or [])


def version(server: str) -> str:
    """What the results were measured on."""
    if not server:
        import sqlite3

        return f"SQLite {sqlite3.sqlite_version}, WAL, synchronous=FULL"
    if urlsplit(server).scheme.startswith("postgres"):
        (number, fsync, commit) = run_postgres(
            server,
            "select current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')",
        )
        return f"PostgreSQL {number}, fsync={fsync}, synchronous_commit={commit}"
    return f"MariaDB {run_mariadb(server, 'select version()')[0]}"
