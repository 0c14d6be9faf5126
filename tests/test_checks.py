"""System checks: every one of them seen to fail, and to say what to type next."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import run_checks
from django.db import connections
from django.test import override_settings

from pipeteer_django.checks import check_hosts

VENDOR = str(connections["default"].vendor)
on_sqlite = pytest.mark.skipif(VENDOR != "sqlite", reason="about SQLite")
on_mariadb = pytest.mark.skipif(VENDOR != "mysql", reason="about MariaDB")


def found() -> dict[str, str]:
    """Message and hint of our own checks, by id."""
    problems = run_checks(databases=["default"])
    return {str(p.id): f"{p.msg}\n{p.hint or ''}" for p in problems if str(p.id).startswith("pipeteer.")}


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The database's OPTIONS, to be changed."""
    changed = dict(connections["default"].settings_dict["OPTIONS"])
    monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", changed)
    return changed


@pytest.mark.django_db
def test_this_project_is_well() -> None:
    assert found().keys() <= {"pipeteer.W101"}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"POL_INTERVAL": 1}, "unknown key POL_INTERVAL, did you mean POLL_INTERVAL?"),
        ({"RESERVE": 30}, "must be a positive timedelta"),
        ([], "must be a dictionary"),
        ({"PUB_URL": "tcp://0.0.0.0:5555"}, "CURVE"),
        ({"SUB_URL": "5556"}, "5556"),
    ],
    ids=str,
)
def test_settings(settings: Any, message: str) -> None:
    with override_settings(PIPETEER=settings):
        assert message in found()["pipeteer.E004"]


@pytest.mark.django_db
def test_time_zones() -> None:
    with override_settings(USE_TZ=False):
        assert "USE_TZ = True" in found()["pipeteer.E007"]


class Replica:
    """Reads somewhere else."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "replica" if model._meta.app_label == "testapp" else None


class Apart:
    """One pipeline's tables on another database."""

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return "other" if model._meta.model_name.startswith("quad") else None

    db_for_read = db_for_write


def problems_of_routing() -> list[Any]:
    from pipeteer_django.checks import check_routing

    return check_routing()


@pytest.mark.parametrize(("router", "alias"), [("Replica", "replica"), ("Apart", "other")])
def test_one_database_for_all(router: str, alias: str) -> None:
    assert problems_of_routing() == []
    with override_settings(DATABASE_ROUTERS=[f"{__name__}.{router}"]):
        (problem,) = problems_of_routing()
    assert (problem.id, f"(default, {alias})" in problem.msg) == ("pipeteer.E005", True)


@on_sqlite
@pytest.mark.django_db
def test_sqlite_without_immediate(options: dict[str, Any]) -> None:
    del options["transaction_mode"]
    hint = found()["pipeteer.E001"]
    assert "In settings.DATABASES['default'], paste:" in hint
    pasted = hint[hint.index('"OPTIONS"') :]
    assert eval("{" + pasted + "}")["OPTIONS"]["transaction_mode"] == "IMMEDIATE"


@on_sqlite
@pytest.mark.django_db
@pytest.mark.parametrize("mode", ["immediate", "EXCLUSIVE"])
def test_sqlite_as_a_writer(options: dict[str, Any], mode: str) -> None:
    options["transaction_mode"] = mode
    assert "pipeteer.E001" not in found()


@on_mariadb
@pytest.mark.django_db
def test_mysql_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections["default"], "mysql_is_mariadb", False)
    assert "does not run on MySQL" in found()["pipeteer.E003"]
    assert "MariaDB 10.6" in found()["pipeteer.E003"]


@on_mariadb
@pytest.mark.django_db
def test_an_old_mariadb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections["default"], "mysql_version", (10, 5, 9))
    assert "10.6" in found()["pipeteer.E003"]


@on_mariadb
@pytest.mark.django_db
def test_repeatable_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections["default"], "isolation_level", "repeatable read")
    assert "REPEATABLE READ" in found()["pipeteer.E003"]


@on_sqlite
@pytest.mark.django_db
def test_an_sqlite_that_may_corrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections["default"].Database, "sqlite_version_info", (3, 40, 0))
    assert "3.51.3" in found()["pipeteer.W101"]


def test_databases_are_not_asked_unless_django_says_so() -> None:
    assert not any(str(problem.id) in ("pipeteer.E003", "pipeteer.W101") for problem in run_checks())


@pytest.mark.parametrize(("hosts", "asgi", "found"), [(["*"], "x", 1), (["a"], "x", 0), (["*"], None, 0)])
def test_w202_any_host(hosts: list[str], asgi: str | None, found: int) -> None:
    with override_settings(ALLOWED_HOSTS=hosts, ASGI_APPLICATION=asgi):
        assert [problem.id for problem in check_hosts()] == ["pipeteer.W202"] * found
