"""`manage.py check --deploy`: every warning seen, and seen to be silent where all is well."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import django
import pytest
from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.checks import run_checks
from django.db import connections
from django.test import override_settings

from pipeteer_django import deploychecks
from pipeteer_django.checking.deployment import system_checks
from pipeteer_django.queues import fitness
from pipeteer_django.wakeups.keyring import Keyring

VENDOR = str(connections["default"].vendor)


def found(id: str, databases: list[str] | None = None) -> list[str]:
    problems = run_checks(include_deployment_checks=True, databases=databases)
    return [f"{problem.msg} {problem.hint}" for problem in problems if problem.id == id]


# W201


@pytest.mark.once
@pytest.mark.parametrize(("hosts", "asgi", "wrong"), [(["*"], "x", 1), (["a"], "x", 0), (["*"], None, 0)])
def test_any_host(hosts: list[str], asgi: str | None, wrong: int) -> None:
    with override_settings(ALLOWED_HOSTS=hosts, ASGI_APPLICATION=asgi):
        assert len(found("pipeteer.W201")) == wrong


@pytest.mark.once
def test_debug() -> None:
    with override_settings(DEBUG=True):
        (said,) = found("pipeteer.W201")
    assert "DEBUG is on" in said
    assert found("pipeteer.W201") == []


async def http(scope: Any, receive: Any, send: Any) -> None: ...


def wrapped(application: Any) -> Any:
    """Somebody's middleware that Channels' convention says nothing of."""

    class Middleware:
        inner = application

    return Middleware()


ROUTES = URLRouter([])
PLAIN = http
SOCKETLESS = ProtocolTypeRouter({"http": http})
OPEN = ProtocolTypeRouter({"websocket": AuthMiddlewareStack(ROUTES)})
CHECKED = ProtocolTypeRouter({"websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(ROUTES))})
CHECKED_INSIDE = ProtocolTypeRouter({"websocket": wrapped(AuthMiddlewareStack(AllowedHostsOriginValidator(ROUTES)))})


@pytest.mark.once
@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (f"{__name__}.PLAIN", False),
        (f"{__name__}.SOCKETLESS", False),
        (f"{__name__}.OPEN", True),
        (f"{__name__}.CHECKED", False),
        (f"{__name__}.CHECKED_INSIDE", False),
        ("no.such.module", False),
        ("example_project.asgi.application", False),
    ],
)
def test_sockets_for_any_origin(path: str, wrong: bool) -> None:
    with override_settings(ALLOWED_HOSTS=["a"], ASGI_APPLICATION=path):
        assert any("do not look at the Origin" in said for said in found("pipeteer.W201")) is wrong


# W202


@pytest.mark.once
@pytest.mark.parametrize(
    ("version", "wrong"),
    [((5, 2, 16), True), ((5, 2, 17), False), ((6, 0, 7), True), ((6, 0, 8), False), ((6, 1, 0), False)],
)
def test_an_old_django(monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], wrong: bool) -> None:
    monkeypatch.setattr(django, "VERSION", (*version, "final", 0))
    assert any("Django" in said for said in found("pipeteer.W202")) is wrong


@pytest.mark.once
@pytest.mark.parametrize(("version", "wrong"), [("4.2.1", True), ("4.2.2", False), ("4.10", False), (None, False)])
def test_an_old_daphne(monkeypatch: pytest.MonkeyPatch, version: str | None, wrong: bool) -> None:
    def installed(package: str) -> str:
        if version is None:
            raise deploychecks.metadata.PackageNotFoundError(package)
        return version

    monkeypatch.setattr(deploychecks.metadata, "version", installed)
    assert any("daphne" in said for said in found("pipeteer.W202")) is wrong


@pytest.mark.once
def test_an_old_zeromq(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("pipeteer.W202") == []
    monkeypatch.setattr(deploychecks, "library_version", lambda: (4, 3, 2))
    assert any("libzmq 4.3.2" in said for said in found("pipeteer.W202"))


# W203 is Django's own


@pytest.mark.once
def test_cookies_that_travel_in_the_clear() -> None:
    csrf = "django.middleware.csrf.CsrfViewMiddleware"
    with override_settings(MIDDLEWARE=[csrf, "django.contrib.sessions.middleware.SessionMiddleware"]):
        assert found("security.W012") or found("security.W010")
        assert found("security.W016")
        with override_settings(SESSION_COOKIE_SECURE=True, CSRF_COOKIE_SECURE=True):
            assert not any(found(f"security.{id}") for id in ("W010", "W011", "W012", "W016"))


# W204


@pytest.mark.once
def test_secrets_that_others_may_read(tmp_path: Path) -> None:
    ring = Keyring(tmp_path)
    ring.add("web")
    secret = ring.of("web") / "host.key_secret"
    with override_settings(PIPETEER={"CURVE_KEYS": ring.of("web")}):
        assert found("pipeteer.W204") == []
        secret.chmod(0o644)
        (said,) = found("pipeteer.W204")
    assert f"chmod o-rwx {secret}" in said
    with override_settings(PIPETEER={"CURVE_KEYS": 5}):
        assert found("pipeteer.W204") == []  # E008 says it


# W105


Fetch = Any


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replaces single settings in what the server answers."""
    changed: dict[str, Any] = {}
    real = fitness.fetch

    def fetch(using: str, sql: str) -> list[tuple[Any, ...]]:
        if sql.startswith("SHOW VARIABLES"):
            return [("wsrep_on", changed["wsrep_on"])] if "wsrep_on" in changed else real(using, sql)
        (row,) = real(using, sql)
        names = [part.strip("@'() ").replace("current_setting('", "") for part in sql[len("SELECT ") :].split(", ")]
        return [tuple(changed.get(name, value) for name, value in zip(names, row, strict=True))]

    monkeypatch.setattr(fitness, "fetch", fetch)
    changed |= {"idle_in_transaction_session_timeout": "10min", "idle_transaction_timeout": 600}
    return changed


@pytest.mark.skipif(VENDOR != "postgresql", reason="about PostgreSQL")
@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("synchronous_commit", "off", True),
        ("synchronous_commit", "remote_apply", False),
        ("fsync", "off", True),
        ("fsync", "on", False),
        ("autovacuum", "off", True),
        ("autovacuum", "on", False),
        ("idle_in_transaction_session_timeout", "0", True),
        ("idle_in_transaction_session_timeout", "1min", False),
    ],
)
def test_a_postgres_that_forgets(server: dict[str, Any], name: str, value: str, wrong: bool) -> None:
    server |= {"synchronous_commit": "on", "fsync": "on", "autovacuum": "on"} | {name: value}
    said = found("pipeteer.W105", ["default"])
    assert len(said) == wrong
    assert all(said[0].startswith(name) for _ in said)


@pytest.mark.skipif(VENDOR != "mysql", reason="about MariaDB")
@pytest.mark.django_db
@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"innodb_flush_log_at_trx_commit": 2}, "innodb_flush_log_at_trx_commit is 2"),
        ({"wsrep_on": "ON"}, "wsrep_on"),
        ({"wsrep_on": "OFF"}, ""),
        ({"log_bin": 1, "binlog_format": "STATEMENT"}, "binlog_format"),
        ({"log_bin": 0, "binlog_format": "STATEMENT"}, ""),
        ({"idle_transaction_timeout": 0, "idle_write_transaction_timeout": 0}, "idle_transaction_timeout"),
        ({"idle_transaction_timeout": 0, "idle_write_transaction_timeout": 60}, ""),
    ],
    ids=str,
)
def test_a_mariadb_that_forgets(server: dict[str, Any], changed: dict[str, Any], word: str) -> None:
    server |= {"innodb_flush_log_at_trx_commit": 1, "binlog_format": "MIXED"} | changed
    said = found("pipeteer.W105", ["default"])
    assert len(said) == bool(word)
    assert all(text.startswith(word) for text in said)


@pytest.mark.skipif(VENDOR == "sqlite", reason="SQLite has this host's clock")
@pytest.mark.django_db
@pytest.mark.parametrize(("seconds", "wrong"), [(0, False), (3, True), (-3, True)])
def test_clocks_apart(monkeypatch: pytest.MonkeyPatch, server: dict[str, Any], seconds: float, wrong: bool) -> None:
    real = fitness.time_of

    def time_of(using: str) -> datetime:
        return real(using) + timedelta(seconds=seconds)

    monkeypatch.setattr(fitness, "time_of", time_of)
    assert any("clocks" in said for said in found("pipeteer.W105", ["default"])) is wrong


@pytest.mark.django_db
def test_servers_are_asked_by_the_gate_and_by_nobody_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploychecks, "durability", lambda using: [("pipeteer.W105", f"{using} forgets.", "")])
    assert [finding.text for finding in system_checks(["default"]) if "W105" in finding.text] == [
        "default forgets. (pipeteer.W105)"
    ]
    assert all(finding.warning for finding in system_checks(["default"]) if "W105" in finding.text)
    assert found("pipeteer.W105") == []
    assert not any(problem.id == "pipeteer.W105" for problem in run_checks(databases=["default"]))
