"""The floor: hand-written SQL that claims a task, then completes it, in two commits. No batches, no frills.

Its quads are as lean: one commit claims the workflow, one records each step, one writes the result.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.marks import mark
from benchmarks.peers import Peer

TABLES = (
    "create table queue (id {id} primary key, value text not null, lease {time} not null default 0)",
    "create table output (id {id} primary key, value text not null)",
    "create table flow (id {id} primary key, value text not null, lease {time} not null default 0)",
    "create table step (flow {id} not null, number integer not null, value text, primary key (flow, number))",
)
LEASE = 120.0


class Raw(Peer):
    """What both databases share; `?` stands for a parameter."""

    tasks = 5_000
    quads = 500
    skip_locked = ""

    def run(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        raise NotImplementedError

    def run_many(self, sql: str, rows: list[tuple[Any, ...]]) -> None:
        raise NotImplementedError

    def idle(self) -> None:
        raise NotImplementedError

    def prepare(self) -> None:
        self.connect()
        integer, clock = ("bigint", "double precision") if self.vendor == "postgres" else ("integer", "real")
        for table in TABLES:
            self.run(table.format(id=integer, time=clock))

    def enqueue(self, number: int) -> int:
        self.run("insert into queue (id, value) values (?, '1')", number)
        return number

    def bulk(self, numbers: list[int]) -> None:
        self.run("begin")
        self.run_many("insert into queue (id, value) values (?, '1')", [(number,) for number in numbers])
        self.run("commit")

    def pending(self) -> int:
        return int(self.run("select (select count(*) from queue) + (select count(*) from flow)")[0][0])

    def finished(self, handle: int) -> bool:
        return bool(self.run("select 1 from output where id = ?", handle))

    def start_quads(self, count: int) -> None:
        self.run("begin")
        self.run_many("insert into flow (id, value) values (?, '1')", [(number,) for number in range(count)])
        self.run("commit")

    def start_chain(self, steps: int) -> int:
        self.run("insert into flow (id, value) values (0, ?)", str(steps))
        return 0

    def worker(self) -> None:
        self.connect()
        while True:
            if not self.task() and not self.flow():
                self.idle()

    def claim(self, table: str) -> list[tuple[Any, ...]]:
        now = time.time()
        return self.run(
            f"update {table} set lease = ? where id in (select id from {table} where lease < ? order by id limit 1"
            f"{self.skip_locked}) returning id, value",
            now + LEASE, now,
        )  # fmt: skip

    def task(self) -> bool:
        for id, _ in (rows := self.claim("queue")):
            mark(id)
            self.complete("queue", id)
        return bool(rows)

    def flow(self) -> bool:
        for id, steps in (rows := self.claim("flow")):
            for number in range(max(2, int(steps))):
                mark(id)
                self.run("insert into step (flow, number, value) values (?, ?, '1')", id, number)
            self.complete("flow", id)
        return bool(rows)

    def complete(self, table: str, id: int) -> None:
        raise NotImplementedError


class RawSqlite(Raw):
    """WAL and synchronous=FULL. An idle worker reads `data_version` every two milliseconds."""

    quads = 1_000

    def connect(self) -> None:
        path = self.url.removeprefix("sqlite:///")
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=30)
        self.run("pragma journal_mode=wal")
        self.run("pragma synchronous=full")

    def run(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute("begin immediate" if sql == "begin" else sql, parameters).fetchall()

    def run_many(self, sql: str, rows: list[tuple[Any, ...]]) -> None:
        self.connection.executemany(sql, rows)

    def complete(self, table: str, id: int) -> None:
        self.run("begin")
        self.run("insert into output values (?, '2')", id)
        self.run(f"delete from {table} where id = ?", id)
        self.run("commit")

    def idle(self) -> None:
        seen = self.run("pragma data_version")
        for _ in range(500):
            if self.run("pragma data_version") != seen:
                return
            time.sleep(0.002)


class RawPostgres(Raw):
    """psycopg in autocommit, SKIP LOCKED; a trigger-free LISTEN/NOTIFY wakes an idle worker."""

    skip_locked = " for update skip locked"

    def connect(self) -> None:
        import psycopg

        self.connection = psycopg.connect(self.url.replace("postgres://", "postgresql://"), autocommit=True)

    def run(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(sql.replace("?", "%s"), parameters or None)
        return cursor.fetchall() if cursor.description else []

    def run_many(self, sql: str, rows: list[tuple[Any, ...]]) -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany(sql.replace("?", "%s"), rows)

    def enqueue(self, number: int) -> int:
        self.run("with new as (insert into queue (id, value) values (?, '1')) select pg_notify('queue', '')", number)
        return number

    def complete(self, table: str, id: int) -> None:
        self.run(
            f"with gone as (delete from {table} where id = ? returning id) insert into output select id, '2' from gone",
            id,
        )

    def idle(self) -> None:
        self.run("listen queue")
        if not self.task():
            for _ in self.connection.notifies(timeout=0.2, stop_after=1):
                pass


def make(name: str, url: str, folder: Path) -> Peer:
    """The one for this database."""
    return (RawSqlite if urlsplit(url).scheme == "sqlite" else RawPostgres)(name, url, folder)
