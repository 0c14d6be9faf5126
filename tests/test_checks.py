"""System checks: every one of them seen to fail, and to say what to type next."""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from django.core.checks import run_checks
from django.db import connections
from django.test import override_settings
from pydantic import InstanceOf, PlainValidator

from pipeteer_django.exceptions import DefinitionError
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.pipelines.storable import unstorable
from pipeteer_django.pipelines.valuetype import ValueType
from pipeteer_django.queues import database, fitness, generate, mounts
from pipeteer_django.wakeups.keyring import Keyring
from tests.testapp.pipelines import double, quad

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
    ],
    ids=str,
)
def test_settings_that_cannot_be_read(settings: Any, message: str) -> None:
    with override_settings(PIPETEER=settings):
        problems = found()
    assert message in problems["pipeteer.E008"]
    assert "pipeteer.E004" not in problems


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"PUB_URL": "tcp://0.0.0.0:5555"}, "manage.py pipeteer_keys"),
        ({"SUB_URL": "tcp://192.0.2.7:5556"}, "manage.py pipeteer_keys"),
        ({"SUB_URL": "5556"}, "5556"),
        ({"CURVE_KEYS": "/nowhere"}, "/nowhere/host.key_secret cannot be read"),
    ],
    ids=str,
)
def test_wakeups_that_leave_the_machine(settings: Any, message: str) -> None:
    with override_settings(PIPETEER=settings):
        assert message in found()["pipeteer.E004"]
    with override_settings(PIPETEER=settings | {"WAKEUPS": False}):
        assert "pipeteer.E004" not in found()


@pytest.mark.django_db
def test_wakeups_with_keys(tmp_path: Path) -> None:
    ring = Keyring(tmp_path)
    ring.add("web")
    with override_settings(PIPETEER={"PUB_URL": "tcp://192.0.2.7:5555", "CURVE_KEYS": ring.of("web")}):
        assert "pipeteer.E004" not in found()


@pytest.mark.django_db
def test_leases_too_short_to_be_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    with override_settings(PIPETEER={"RESERVE": timedelta(seconds=1.5)}):
        assert "pipeteer.W103" not in found()
    with override_settings(PIPETEER={"RESERVE": timedelta(seconds=1.4)}):
        assert 'PIPETEER["RESERVE"] is 1.4 s' in found()["pipeteer.W103"]
    monkeypatch.setattr(quad, "reserve", timedelta(seconds=1))
    assert "The reserve of quad is 1 s" in found()["pipeteer.W103"]


class Thing:
    """What no JSON makes."""


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (Callable[[int], int], "functions have no JSON"),
        (Callable[[int], int] | None, "functions have no JSON"),
        (Annotated[Thing, InstanceOf()], "no instances"),
        (type[Thing], "no classes"),
        (Generator[int, None, None], "only once"),
        (list[int], None),
        (Any, None),
        (Annotated[Thing, PlainValidator(lambda value: Thing())], None),
        (dict[str, Callable[[int], int]], None),
    ],
)
def test_types_that_json_cannot_hold(annotation: Any, reason: str | None) -> None:
    found = unstorable(ValueType.of(annotation))
    assert bool(found) is bool(reason)
    assert (reason or "") in found


@pytest.mark.django_db
def test_a_pipeline_of_such_a_type(monkeypatch: pytest.MonkeyPatch) -> None:
    strange = ValueType.of(type[Thing])
    real = type(double).output.fget
    assert real
    monkeypatch.setattr(type(double), "output", property(lambda self: strange if self is double else real(self)))
    assert found()["pipeteer.E006"].startswith("double: its output")


def test_two_pipelines_of_one_id() -> None:
    """Said while Django starts: no check would ever run."""
    with pytest.raises(DefinitionError, match=r"Two pipelines are called 'double'.*\(pipeteer\.E006\)"):
        registry.add(double)


def test_two_pipelines_of_one_table() -> None:
    with pytest.raises(DefinitionError, match=r"the app 'testapp' already has.*\(pipeteer\.E006\)"):
        generate._models(double)


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


@pytest.mark.parametrize(
    ("mode", "id", "word"),
    [
        ("journal_mode=DELETE", "pipeteer.W102", "journal_mode delete"),
        ("synchronous=NORMAL", "pipeteer.W102", "synchronous=FULL"),
        ("synchronous=OFF", "pipeteer.W102", "synchronous=FULL"),
        ("mmap_size=1048576", "pipeteer.W102", "mmap_size"),
        ("synchronous=EXTRA", None, ""),
    ],
)
@on_sqlite
@pytest.mark.django_db
def test_pragmas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, id: str | None, word: str) -> None:
    """Of a database of its own: journal_mode stays with the file."""
    options = {"init_command": f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA {mode}"}
    settings = connections["default"].settings_dict | {"NAME": str(tmp_path / "db"), "OPTIONS": options}
    own = connections.create_connection("default")
    monkeypatch.setattr(own, "settings_dict", settings)
    monkeypatch.setattr(fitness, "connections", {"default": own})
    monkeypatch.setattr(database, "connections", {"default": own})
    try:
        said = [(i, f"{message} {hint}") for i, message, hint in fitness.shortcomings("default") if "W101" not in i]
    finally:
        own.close()
    assert [i for i, _ in said] == ([id] if id else [])
    assert all(word in text for _, text in said)


MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /srv rw shared:2 - nfs4 files:/srv rw,vers=4.2
31 30 8:2 / /srv/local rw shared:3 - xfs /dev/sdb1 rw
32 22 0:41 / /mnt/with\040blank rw - cifs //files/x rw
33 22 0:42 / /twice rw - ext4 /dev/sdc1 rw
34 33 0:43 / /twice rw - fuse.sshfs me@files: rw
broken
""".splitlines()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/db.sqlite3", "ext4"),
        ("/srv/db.sqlite3", "nfs4"),
        ("/srvother/db.sqlite3", "ext4"),
        ("/srv/local/db.sqlite3", "xfs"),
        ("/mnt/with blank/db.sqlite3", "cifs"),
        ("/twice/db.sqlite3", "fuse.sshfs"),
    ],
)
def test_which_filesystem(path: str, kind: str) -> None:
    assert mounts.kind_at(path, MOUNTS) == kind


@on_sqlite
@pytest.mark.django_db
def test_sqlite_on_a_network_filesystem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "pipeteer.E002" not in found()
    elsewhere = tmp_path / "mountinfo"
    monkeypatch.setattr(mounts, "_MOUNTS", elsewhere)
    for kind, wrong in (("nfs4", True), ("ext4", False), ("fuse.sshfs", True), ("overlay", False)):
        elsewhere.write_text(f"22 1 8:1 / / rw - {kind} x rw\n")
        assert ("pipeteer.E002" in found()) is wrong
    elsewhere.unlink()
    assert "pipeteer.E002" not in found(), "nobody knows: not Linux"


@pytest.mark.skipif(VENDOR == "sqlite", reason="about servers")
@pytest.mark.django_db
def test_connections_that_are_kept_untested(monkeypatch: pytest.MonkeyPatch) -> None:
    given = connections["default"].settings_dict
    for age, tested, wrong in ((0, False, False), (60, False, True), (None, False, True), (60, True, False)):
        monkeypatch.setitem(given, "CONN_MAX_AGE", age)
        monkeypatch.setitem(given, "CONN_HEALTH_CHECKS", tested)
        assert ("CONN_HEALTH_CHECKS" in found().get("pipeteer.W104", "")) is wrong


@pytest.mark.skipif(VENDOR != "postgresql", reason="Django has pools for PostgreSQL only")
@pytest.mark.django_db
@pytest.mark.parametrize(
    ("pool", "wrong"),
    [(True, True), ({"max_size": 6}, True), ({"max_size": 7}, False), ({"min_size": 7}, False), (False, False)],
)
def test_a_pool_that_is_too_small(options: dict[str, Any], pool: Any, wrong: bool) -> None:
    """The tests' THREADS are 5."""
    options["pool"] = pool
    said = [message for id, message, _ in fitness.manners("default") if id == "pipeteer.W104"]
    assert bool(said) is wrong
    assert all("up to 7 (THREADS + 2)" in message for message in said)


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
