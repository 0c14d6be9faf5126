"""`DATABASE_URL` as an entry of Django's `DATABASES`, with the options that durable execution wants on each vendor."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

OPTIONS: dict[str, dict[str, Any]] = {
    # IMMEDIATE: a transaction that reads first and writes later would fail with "database is locked" under load.
    # FULL: what was committed survives a power cut.
    "sqlite": {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA journal_size_limit=67108864;",
    },
    "postgres": {},
    "mariadb": {"charset": "utf8mb4", "isolation_level": "read committed"},
}
ENGINES = {
    "sqlite": "django.db.backends.sqlite3",
    "postgres": "django.db.backends.postgresql",
    "mariadb": "django.db.backends.mysql",
}
SCHEMES = {
    "sqlite": "sqlite",
    "sqlite3": "sqlite",
    "postgres": "postgres",
    "postgresql": "postgres",
    "mysql": "mariadb",
    "mariadb": "mariadb",
}


def database(url: str) -> dict[str, Any]:
    """Read `sqlite:///relative.sqlite3`, `sqlite:////absolute.sqlite3`, `postgres://user:password@host:port/name` or
    `mysql://...`. `?host=/folder` (or `?unix_socket=/file`) names a Unix socket. Raises ValueError for anything else.
    """
    parts = urlsplit(url)
    vendor = SCHEMES.get(parts.scheme)
    name = unquote(parts.path.removeprefix("/"))
    if vendor is None or not name:
        raise ValueError(
            f"{url!r} is no database URL. Write sqlite:///db.sqlite3, postgres://user:password@host:5432/name "
            "or mysql://user:password@host:3306/name."
        )
    entry = {"ENGINE": ENGINES[vendor], "NAME": name, "OPTIONS": dict(OPTIONS[vendor])}
    if vendor == "sqlite":
        return entry
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    return entry | {
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": query.get("host") or query.get("unix_socket") or parts.hostname or "",
        "PORT": str(parts.port or ""),
    }
