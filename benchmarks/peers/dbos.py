"""DBOS Transact: `DBOSClient.enqueue`, and a worker that polls one queue ten times as often as its default."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

try:  # its tables need SQLite 3.42, which not every Python has
    import pysqlite3

    sys.modules["sqlite3"] = pysqlite3
except ImportError:
    pass

import asyncio
import sqlite3
import subprocess

import sqlalchemy
from dbos import DBOS, DBOSClient

from benchmarks.marks import mark
from benchmarks.peers import Peer

POLL = 0.1


@DBOS.workflow()
def task(number: int) -> int:
    mark(number)
    return number


@DBOS.step()
def double(x: int) -> int:
    mark(x)
    return 2 * x


@DBOS.step()
async def double_async(x: int) -> int:
    mark(x)
    return 2 * x


@DBOS.workflow()
def quad(x: int) -> int:
    return double(double(x))


@DBOS.workflow()
def chain(steps: int) -> int:
    for number in range(steps):
        double(number)
    return steps


@DBOS.workflow()
async def fan(width: int) -> int:
    return len(await asyncio.gather(*[double_async(number) for number in range(width)]))


class Dbos(Peer):
    """It has no bulk call. SQLite is put into WAL mode, which DBOS does not do by itself."""

    tasks = 2_000
    quads = 500
    jitter = POLL

    def __init__(self, name: str, url: str, folder: Path) -> None:
        super().__init__(name, url.replace("postgres://", "postgresql://"), folder)
        self.table = "dbos.workflow_status" if self.vendor == "postgres" else "workflow_status"

    def launch(self) -> None:
        if self.vendor == "sqlite":
            connection = sqlite3.connect(self.url.removeprefix("sqlite:///"))
            connection.execute("pragma journal_mode=wal")
            connection.close()
        DBOS(
            config={
                "name": "bench", "system_database_url": self.url, "application_version": "1", "log_level": "ERROR",
                "run_admin_server": False,
            }
        )  # fmt: skip
        DBOS.launch()
        DBOS.register_queue("queue", polling_interval_sec=POLL)

    def prepare(self) -> None:
        code = f"from benchmarks import peers; p = peers.load({self.name!r}); p.launch(); p.stop()"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

    def stop(self) -> None:
        DBOS.destroy()

    def worker(self) -> None:
        self.launch()
        while True:
            time.sleep(3600)

    def connect(self) -> None:
        self.client = DBOSClient(system_database_url=self.url)
        url = self.url.replace("postgresql://", "postgresql+psycopg://")
        self.connection = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT").connect()

    def start(self, workflow: str, value: int) -> str:
        options = {"queue_name": "queue", "workflow_name": workflow, "app_version": "1"}
        return str(self.client.enqueue(options, value).workflow_id)

    def scalar(self, sql: str) -> Any:
        return self.connection.execute(sqlalchemy.text(sql)).scalar()

    def enqueue(self, number: int) -> str:
        return self.start("task", number)

    def pending(self) -> int:
        return int(self.scalar(f"select count(*) from {self.table} where status in ('ENQUEUED', 'PENDING')"))

    def finished(self, handle: str) -> bool:
        return bool(self.scalar(f"select 1 from {self.table} where workflow_uuid = '{handle}' and status = 'SUCCESS'"))

    def start_quads(self, count: int) -> None:
        for number in range(count):
            self.start("quad", number)

    def start_chain(self, steps: int) -> str:
        return self.start("chain", steps)

    def start_fan(self, width: int) -> str:
        return self.start("fan", width)


make = Dbos
