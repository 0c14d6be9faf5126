"""Which measurements there are, in which database, and the bars that ours must clear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

ALL = ("sqlite", "postgres", "mariadb")
BOTH = ("sqlite", "postgres")
PEERS = {"pipeteer": "pipeteer_django", "raw": "raw SQL", "dbos": "DBOS", "oban": "Oban"}
"""The columns of the tables, and what people call them. `pipeteer_50` shares the column of `pipeteer`."""
DATABASES = {"sqlite": "SQLite", "postgres": "PostgreSQL", "mariadb": "MariaDB"}


@dataclass(frozen=True)
class Job:
    """One measurement: `name` is its line in the table, `peers` do it where they can run on the database."""

    name: str
    workload: str
    peers: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    metric: str = "per_second"
    unit: str = "/s"
    vendors: tuple[str, ...] = ALL
    big: bool = False
    """Slow, so only where it is asked for."""
    patience: int = 240
    """Seconds after which it is given up."""


def backlog(waiting: int, *peers: str, **more: Any) -> Job:
    """W7 with so many tasks waiting."""
    return Job(f"W7 drain, {waiting:,} waiting", "w7", ("pipeteer", "raw", *peers), {"backlog": waiting}, **more)


def lone(workers: int) -> Job:
    """W10 with so many idle workers."""
    name = f"W10 transactions for a lone entry, {workers} idle worker{'s' if workers > 1 else ''}"
    options = {"workers": workers}
    return Job(name, "w10", ("pipeteer",), options, "transactions_per_entry", "", vendors=("postgres",))


def chain(steps: int) -> Job:
    """W5 with so many steps."""
    peers = ("pipeteer", "raw", "dbos")
    return Job(f"W5 workflow of {steps:,} steps", "w5", peers, {"count": steps}, "seconds", "s")


JOBS = (
    Job("W1 enqueue, one call each", "w1", ("pipeteer", "raw", "dbos", "oban")),
    Job("W2 drain", "w2", ("pipeteer", "raw", "dbos", "oban")),
    Job("W2 drain, 2 workers", "w2", ("pipeteer", "raw", "oban"), {"workers": 2}),
    Job("W2 drain, 4 workers", "w2", ("pipeteer", "raw", "oban"), {"workers": 4}),
    Job("W3 body started, p50", "w3", ("pipeteer", "raw", "dbos", "oban"), {}, "start_p50_ms", "ms"),
    Job("W4 quads", "w4", ("pipeteer", "raw", "dbos")),
    Job("W4 quads, worker already up", "w4_live", ("pipeteer", "dbos")),
    chain(100),
    chain(300),
    chain(1_000),
    Job("W6 fan-out of 1,000", "w6", ("pipeteer", "dbos"), {}, "seconds", "s"),
    backlog(1_000, "oban"),
    backlog(10_000, "oban"),
    backlog(100_000, "oban"),
    backlog(1_000_000, big=True, patience=1800),
    Job("W8 idle worker", "w8", ("pipeteer", "raw", "dbos", "oban"), {}, "cpu_percent", "% of a core"),
    Job("W8 idle worker, 50 pipelines more", "w8", ("pipeteer_50",), {}, "cpu_percent", "% of a core"),
    Job("W8 statements", "w8_counted", ("pipeteer",), {}, "statements_per_second"),
    Job("W8 statements, 50 pipelines more", "w8_counted", ("pipeteer_50",), {}, "statements_per_second"),
    Job("W9 memory of 10,000 sleeping runs", "w9", ("pipeteer",), {}, "added_mb", "MB"),
    lone(1),
    lone(8),
)

ABSENT = {("oban", "sqlite"), ("oban", "mariadb"), ("dbos", "mariadb"), ("raw", "mariadb")}
"""What a peer cannot run on."""

QUICK: dict[str, dict[str, Any]] = {
    "w1": {"count": 300}, "w2": {"count": 1000}, "w3": {"count": 30}, "w4": {"count": 100}, "w4_live": {"count": 100},
    "w6": {"count": 100}, "w8": {"seconds": 3}, "w8_counted": {"seconds": 3}, "w9": {"count": 500},
    "w10": {"seconds": 3, "count": 5},
}  # fmt: skip
"""A rehearsal's options, by workload."""

_SATURATED = (
    ("{job}: one worker's processor", "worker_percent", "% of a core"),
    ("{job}: all processors", "busy_percent", "% busy"),
)
ALSO: dict[str, tuple[tuple[str, str, str], ...]] = {
    "w1": (("W1 enqueue, in bulk", "bulk_per_second", "/s"),),
    "w2": _SATURATED,
    "w3": (
        ("W3 body started, p95", "start_p95_ms", "ms"),
        ("W3 body started, p99", "start_p99_ms", "ms"),
        ("W3 body started, after the commit, p50", "start_after_commit_p50_ms", "ms"),
        ("W3 result seen, p50", "result_p50_ms", "ms"),
        ("W3 result seen, p95", "result_p95_ms", "ms"),
        ("W3 result seen, p99", "result_p99_ms", "ms"),
    ),
    "w4": _SATURATED,
    "w8": (("{job}: memory", "memory_mb", "MB"), ("{job}: transactions", "transactions_per_second", "/s")),
}
"""More numbers of a measurement that have a line of their own in the table: (line, metric, unit)."""

Of = Callable[[str, str], float]
"""Looks up a median by (line, peer)."""


@dataclass(frozen=True)
class Bar:
    """What must hold: `value` computes a number from the medians."""

    text: str
    value: Callable[[Of], float]
    limit: float
    at_least: bool = True
    vendors: tuple[str, ...] = BOTH

    def holds(self, number: float) -> bool:
        """Whether a number clears it."""
        return number >= self.limit if self.at_least else number <= self.limit


def least(text: str, limit: float, value: Callable[[Of], float], *vendors: str) -> Bar:
    """At least `limit`; on both databases unless some are named."""
    return Bar(f"{text} >= {limit:g}", value, limit, True, vendors or BOTH)


def most(text: str, limit: float, value: Callable[[Of], float], *vendors: str) -> Bar:
    """At most `limit`."""
    return Bar(f"{text} <= {limit:g}", value, limit, False, vendors or BOTH)


def ratio(line: str, peer: str, below: str = "") -> Callable[[Of], float]:
    """Ours of `line` against the peer's, or against another line of ours."""
    return lambda of: of(line, "pipeteer") / of(below or line, peer)


def ours(line: str) -> Callable[[Of], float]:
    """Ours alone."""
    return lambda of: of(line, "pipeteer")


def scales(of: Of) -> float:
    """Two workers do half as much again as one, or leave nothing of the machine: 1 where either just holds."""
    gain = of("W2 drain, 2 workers", "pipeteer") / of("W2 drain", "pipeteer")
    return max(gain / 1.5, of("W2 drain, 2 workers: all processors", "pipeteer") / 90)


LONG, SHORT, FEW = "W5 workflow of 1,000 steps", "W5 workflow of 100 steps", "W7 drain, 1,000 waiting"
BARS = (
    least("W2 drain / raw SQL", 3, ratio("W2 drain", "raw"), "sqlite"),
    least("W2 drain / raw SQL", 8, ratio("W2 drain", "raw"), "postgres"),
    least("W2 drain / Oban", 4, ratio("W2 drain", "oban"), "postgres"),
    least("W2 2 workers / 1 worker", 1, ratio("W2 drain, 2 workers", "pipeteer", "W2 drain"), "sqlite"),
    least("W2 2 workers / 1.5 times 1 worker, or busy / 90 %", 1, scales, "postgres"),
    least("W2 2 workers / Oban's 2", 1, ratio("W2 drain, 2 workers", "oban"), "postgres"),
    most("W3 body started, p50, ms", 3, ours("W3 body started, p50"), "sqlite"),
    most("W3 result seen, p50, ms", 6, ours("W3 result seen, p50"), "sqlite"),
    most("W3 body started, p50 / raw SQL", 2, ratio("W3 body started, p50", "raw"), "postgres"),
    most("W3 result seen, p50 / raw SQL", 2, ratio("W3 result seen, p50", "raw"), "postgres"),
    least("W4 quads / DBOS", 12, ratio("W4 quads", "dbos")),
    most("W5 1,000 steps / DBOS", 0.4, ratio(LONG, "dbos"), "sqlite"),
    most("W5 1,000 steps / DBOS", 0.25, ratio(LONG, "dbos"), "postgres"),
    most("W5 a step of 1,000 / a step of 100", 1.2, lambda of: of(LONG, "pipeteer") / of(SHORT, "pipeteer") / 10),
    most("W6 fan-out / DBOS", 0.15, ratio("W6 fan-out of 1,000", "dbos"), "sqlite"),
    least("W7 100,000 waiting / 1,000 waiting", 0.85, ratio("W7 drain, 100,000 waiting", "pipeteer", FEW)),
    least("W7 1,000,000 waiting / 1,000 waiting", 0.85, ratio("W7 drain, 1,000,000 waiting", "pipeteer", FEW)),
    most("W8 idle, % of a core", 0.5, ours("W8 idle worker")),
    most("W8 idle, statements a second", 1, ours("W8 statements")),
    most("W9 memory of 10,000 sleeping runs, MB", 200, ours("W9 memory of 10,000 sleeping runs")),
)
