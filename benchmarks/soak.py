"""`python -m benchmarks.soak --minutes 60`: a worker under steady load, watched, with a long reader in the middle.

What should stay flat does, or it is printed: the worker's memory, threads and open files; how long an entry waits for
its body; PostgreSQL's dead tuples and SQLite's write-ahead log while somebody else's transaction stays open for a sixth
of the time (reliability: a forgotten psql session, a backup), and after it has ended.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import processes
from benchmarks.__main__ import measure
from benchmarks.marks import SIZE
from benchmarks.peers import Peer
from benchmarks.plan import Job
from tests.databases import available

WINDOW = 10.0
"""Seconds that one line of the record covers."""


class Load:
    """Enqueues at a steady pace and reads from the mark file how long each entry waited for its body."""

    def __init__(self, peer: Peer, path: Path, rate: int) -> None:
        self.peer, self._path, self._rate = peer, path, rate
        self._enqueued: dict[int, float] = {}
        self._next, self._read = 0, 0

    def second(self, second: float) -> None:
        """Enqueue one second's worth, evenly, beginning at that moment."""
        for number in range(self._rate):
            time.sleep(max(0.0, second + number / self._rate - time.monotonic()))
            self._enqueued[self._next] = time.monotonic()
            self.peer.enqueue(self._next)
            self._next += 1

    def waits(self) -> list[float]:
        """Milliseconds from the call to the body, of the bodies that began since the last time."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        data = data[: len(data) // SIZE * SIZE]
        self._read += len(data)
        marks = struct.iter_unpack("qd", data)
        return [1000 * (at - self._enqueued.pop(number)) for number, at in marks if number in self._enqueued]

    @property
    def unstarted(self) -> int:
        """How many entries no body has begun."""
        return len(self._enqueued)


def soak(peer: Peer, pid: int, marks: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The record: one line for each window, and whether the reader was there."""
    minutes, begun = options["minutes"], time.monotonic()
    reader_from, reader_until = 60 * minutes / 3, 60 * minutes / 2
    load, lines = Load(peer, marks, options["rate"]), list[dict[str, Any]]()
    with ExitStack() as reading:
        busy = False
        for second in range(int(60 * minutes)):
            if not busy and reader_from <= second < reader_until:
                reading.enter_context(long_reader(peer))
                busy = True
            if busy and second >= reader_until:
                reading.close()
                busy = False
            load.second(begun + second)
            if (second + 1) % WINDOW == 0:
                lines.append(line(load, pid, second + 1, busy))
    return {"lines": lines, "count": options["rate"] * int(60 * minutes)}


def line(load: Load, pid: int, second: int, busy: bool) -> dict[str, Any]:
    """What is to be seen at this moment."""
    waits = sorted(load.waits()) or [0.0]
    return {
        "second": second, "reader": busy, "memory_mb": round(processes.memory_mb(pid), 1),
        "threads": len(os.listdir(f"/proc/{pid}/task")), "files": len(os.listdir(f"/proc/{pid}/fd")),
        "p50_ms": round(statistics.median(waits), 2), "p99_ms": round(waits[len(waits) * 99 // 100], 2),
        "unstarted": load.unstarted, **litter(load.peer),
    }  # fmt: skip


def litter(peer: Peer) -> dict[str, float]:
    """What a database leaves behind under load."""
    if peer.vendor == "sqlite":
        log = Path(f"{urlsplit(peer.url).path}-wal")
        return {"wal_mb": round(log.stat().st_size / 2**20, 1) if log.exists() else 0.0}
    if peer.vendor == "postgres":
        peer.counters()  # opens the connection
        dead, size = peer.counting.execute(
            "select n_dead_tup, pg_total_relation_size(relid) from pg_stat_user_tables where relname = 'load_markinput'"
        ).fetchone()
        return {"dead_tuples": int(dead), "queue_mb": round(size / 2**20, 1)}
    return {}


@contextmanager
def long_reader(peer: Peer) -> Iterator[None]:
    """Somebody's transaction that has read something and is forgotten."""
    connection: Any
    if peer.vendor == "sqlite":
        connection = sqlite3.connect(urlsplit(peer.url).path, isolation_level=None)
        connection.execute("begin")
        connection.execute("select count(*) from sqlite_master").fetchone()
    else:
        import psycopg

        connection = psycopg.connect(peer.url)
        connection.execute("set transaction isolation level repeatable read")
        connection.execute("select count(*) from pg_class")
    try:
        yield
    finally:
        connection.rollback() if peer.vendor != "sqlite" else connection.execute("rollback")
        connection.close()


def verdicts(lines: list[dict[str, Any]]) -> list[tuple[bool, str]]:
    """The bars: each with what was measured."""
    before = [one for one in lines if not one["reader"] and one["second"] > 60]
    during = [one for one in lines if one["reader"]]
    start, end = during[0]["second"], during[-1]["second"]
    early = [one for one in before if one["second"] < start]
    late = [one for one in before if one["second"] > end + 60]
    fifth = max(1, len(before) // 5)
    files = (middle(early, "files"), middle(late, "files"))
    first, last = (middle(part, "memory_mb") for part in (before[:fifth], before[-fifth:]))
    base, strained, after = (middle(part, "p99_ms") for part in (early, during, late))
    return [
        (last <= 1.05 * first + 1, f"memory {first:.1f} MB in the first fifth, {last:.1f} MB in the last"),
        (files[1] <= files[0], f"open files {files[0]:.0f} before the reader, {files[1]:.0f} after it"),
        (strained <= 5 * base, f"p99 wait {base:.1f} ms before the reader, {strained:.1f} ms beside it (bar 5x)"),
        (after <= 1.2 * base, f"p99 wait {after:.1f} ms from a minute after it had ended (bar 1.2x)"),
        (lines[-1]["unstarted"] <= 50, f"{lines[-1]['unstarted']} entries without a body at the end"),
    ]  # fmt: skip


def middle(lines: list[dict[str, Any]], name: str) -> float:
    """The median of a column."""
    return float(statistics.median(one[name] for one in lines))


def table(lines: list[dict[str, Any]], every: int) -> str:
    """Some of the lines as text."""
    names = list(lines[0])
    rows = [names, *([str(one[name]) for name in names] for one in lines[every - 1 :: every])]
    return "\n".join("".join(f"{word:>12}" for word in row) for row in rows)


def main() -> int:
    """Run it on one database after another, print, and write build/soak.json. Fails if a bar does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--databases", default="sqlite,postgres", help="of sqlite, postgres")
    parser.add_argument("--minutes", type=float, default=60.0, help="at least 6")
    parser.add_argument("--rate", type=int, default=100, help="entries a second")
    options = parser.parse_args()
    if options.minutes < 6:
        parser.error("--minutes must be at least 6: the reader stays for a sixth, and a minute after it is not judged")
    written, good = {}, True
    for vendor in options.databases.split(","):
        with available(vendor) as server:
            job = Job("soak", "soak", ("pipeteer",), vars(options), patience=int(60 * options.minutes) + 120)
            found = measure(job, "pipeteer", server)
        if "lines" not in found:
            print(f"{vendor}: {found['error']}")
            good = False
            continue
        written[vendor] = found
        judged = verdicts(found["lines"])
        good = good and all(holds for holds, _ in judged)
        print(f"\n{vendor}: {options.rate} entries a second for {options.minutes:.0f} minutes\n")
        print(table(found["lines"], max(1, len(found["lines"]) // 30)))
        print("\n".join(f"{'holds ' if holds else 'MISSED'}  {words}" for holds, words in judged))
    Path("build/soak.json").write_text(json.dumps(written, indent=1) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
