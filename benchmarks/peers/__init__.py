"""What is measured, one module each. A peer says how to enqueue, how to see results, and what a worker is."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import processes

MODULES = {
    "pipeteer": "benchmarks.peers.pipeteer",
    "pipeteer_50": "benchmarks.peers.pipeteer",
    "raw": "benchmarks.peers.raw",
    "dbos": "benchmarks.peers.dbos",
    "oban": "benchmarks.peers.oban",
}
_VENDORS = {"sqlite": "sqlite", "postgres": "postgres", "postgresql": "postgres"}


class Peer:
    """The base; `url` is a fresh database, `folder` is for logs. Numbers are the tasks' names and values."""

    tasks = 10_000
    """How many W2 drains: fewer for a slow peer."""
    quads = 1_000
    jitter = 0.0
    """W3's random pause between two tasks: the poll interval of a peer that polls, so that no phase is favoured."""
    bulk: Any = None
    """bulk(numbers): the peer's own way to enqueue many at once, if it has one."""
    counting: Any = None
    """The connection of `counters`."""

    def __init__(self, name: str, url: str, folder: Path) -> None:
        self.name, self.url, self.folder = name, url, folder
        self.vendor = _VENDORS.get(urlsplit(url).scheme, "mariadb")

    def prepare(self) -> None:
        """Create the tables."""

    def connect(self) -> None:
        """Open the producer's connection, in the measuring process."""

    def worker(self) -> None:
        """Be a worker, for ever."""
        raise NotImplementedError

    def worker_command(self) -> list[str]:
        return [sys.executable, "-m", "benchmarks.measure", self.name, "worker"]

    def start_worker(self, number: int = 0) -> Any:
        return processes.start(self.worker_command(), self.folder / f"worker{number}.log")

    def enqueue(self, number: int) -> Any:
        """Enqueue one task and return a handle for `wait`."""
        raise NotImplementedError

    def preload(self, count: int) -> None:
        """Have `count` tasks waiting; not measured."""
        if self.bulk:
            for start in range(0, count, 1000):
                self.bulk(list(range(start, min(start + 1000, count))))
        else:
            for number in range(count):
                self.enqueue(number)

    def pending(self) -> int:
        """How many tasks or workflows have not finished."""
        raise NotImplementedError

    def finished(self, handle: Any) -> bool:
        """Whether the result is there."""
        raise NotImplementedError

    def wait(self, handle: Any, timeout: float = 10.0) -> bool:
        """Wait for the result; a peer with a better way than asking every millisecond uses it."""
        end = time.monotonic() + timeout
        while not self.finished(handle):
            if time.monotonic() > end:
                return False
            time.sleep(0.001)
        return True

    def start_quads(self, count: int) -> None:
        """Enqueue `count` workflows of two sequential calls."""
        raise NotImplementedError

    def start_holds(self, count: int) -> None:
        """Start workflows that wait for a message."""
        raise NotImplementedError

    def asleep(self) -> int:
        """How many of these wait."""
        raise NotImplementedError

    def start_chain(self, steps: int) -> Any:
        """Start one workflow of `steps` sequential calls."""
        raise NotImplementedError

    def start_fan(self, width: int) -> Any:
        """Start one workflow of `width` parallel calls."""
        raise NotImplementedError

    def counters(self) -> dict[str, float]:
        """Transactions that PostgreSQL has counted in this database so far, reading ones too."""
        if self.vendor != "postgres":
            return {}
        import psycopg

        if not self.counting:
            self.counting = psycopg.connect(self.url, autocommit=True)
        sql = "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"
        return {"transactions": float(self.counting.execute(sql).fetchone()[0])}


def load(name: str) -> Peer:
    """The peer called `name`, for the database and folder that the environment names."""
    module = importlib.import_module(MODULES[name])
    peer: Peer = module.make(name, os.environ["DATABASE_URL"], Path(os.environ["BENCH_FOLDER"]))
    return peer
