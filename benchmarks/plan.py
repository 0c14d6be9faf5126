"""Which measurements there are, in which database, and the bars that ours must clear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

ALL = ("sqlite", "postgres", "mariadb")
BOTH = ("sqlite", "postgres")


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


JOBS = (
    Job("W1 enqueue, one call each", "w1", ("pipeteer", "raw", "dbos", "oban")),
    Job("W2 drain", "w2", ("pipeteer", "raw", "dbos", "oban")),
    Job("W2 drain, 2 workers", "w2", ("pipeteer", "raw", "oban"), {"workers": 2}),
    Job("W3 idle worker: body started", "w3", ("pipeteer", "raw"), {}, "start_p50_ms", "ms"),
    Job("W4 quads", "w4", ("pipeteer", "raw", "dbos")),
    Job("W4 quads, worker already up", "w4_live", ("pipeteer", "dbos")),
    Job("W5 workflow of 100 steps", "w5", ("pipeteer", "raw", "dbos"), {"count": 100}, "seconds", "s"),
    Job("W5 workflow of 300 steps", "w5", ("pipeteer", "raw", "dbos"), {"count": 300}, "seconds", "s"),
    Job("W5 workflow of 1,000 steps", "w5", ("pipeteer", "raw", "dbos"), {"count": 1000}, "seconds", "s"),
    Job("W6 fan-out of 1,000", "w6", ("pipeteer", "dbos"), {}, "seconds", "s"),
    Job("W7 drain, 1,000 waiting", "w7", ("pipeteer", "raw"), {"backlog": 1_000}),
    Job("W7 drain, 100,000 waiting", "w7", ("pipeteer", "raw"), {"backlog": 100_000}),
    Job("W8 idle worker", "w8", ("pipeteer", "pipeteer_50"), {}, "cpu_percent", "% CPU"),
    Job("W9 memory of 10,000 sleeping runs", "w9", ("pipeteer",), {}, "added_mb", "MB"),
    Job("W8 idle worker, counted", "w8", ("pipeteer", "pipeteer_50"), {"statements": True}, "statements_per_second"),
)

ABSENT = {("oban", "sqlite"), ("oban", "mariadb"), ("dbos", "mariadb"), ("raw", "mariadb")}
"""What a peer cannot run on."""

ALSO: dict[str, tuple[tuple[str, str, str], ...]] = {
    "w1": (("W1 enqueue, in bulk", "bulk_per_second", "/s"),),
    "w3": (
        ("W3 body started, p95", "start_p95_ms", "ms"),
        ("W3 body started, after the commit", "start_after_commit_p50_ms", "ms"),
        ("W3 result seen", "result_p50_ms", "ms"),
        ("W3 result seen, p95", "result_p95_ms", "ms"),
    ),
    "w8": (("W8 memory", "memory_mb", "MB"), ("W8 transactions", "transactions_per_second", "/s")),
}
"""More numbers of a measurement that have a line of their own in the table: (line, metric, unit)."""


@dataclass(frozen=True)
class Bar:
    """What must hold: `ratio` computes a number from the medians, looked up by (line, peer)."""

    text: str
    value: Callable[[Callable[[str, str], float]], float]
    limit: float
    at_least: bool = True
    vendors: tuple[str, ...] = BOTH


BARS = (
    Bar("W2 >= 1.5x raw", lambda of: of("W2 drain", "pipeteer") / of("W2 drain", "raw"), 1.5, vendors=("sqlite",)),
    Bar("W2 >= 2.5x raw", lambda of: of("W2 drain", "pipeteer") / of("W2 drain", "raw"), 2.5, vendors=("postgres",)),
    Bar("W2 >= Oban", lambda of: of("W2 drain", "pipeteer") / of("W2 drain", "oban"), 1.0, vendors=("postgres",)),
    Bar("W3 start p50 <= 10 ms", lambda of: of("W3 idle worker: body started", "pipeteer"), 10, at_least=False),
    Bar("W4 >= 4x DBOS", lambda of: of("W4 quads", "pipeteer") / of("W4 quads", "dbos"), 4),
    Bar(
        "W5 per step, 1,000 <= 1.2x 100",
        lambda of: of("W5 workflow of 1,000 steps", "pipeteer") / of("W5 workflow of 100 steps", "pipeteer") / 10,
        1.2,
        at_least=False,
    ),
    Bar(
        "W5 1,000 <= 1.0x DBOS",
        lambda of: of("W5 workflow of 1,000 steps", "pipeteer") / of("W5 workflow of 1,000 steps", "dbos"),
        1.0,
        at_least=False,
    ),
    Bar(
        "W7 100,000 >= 0.7x 1,000",
        lambda of: of("W7 drain, 100,000 waiting", "pipeteer") / of("W7 drain, 1,000 waiting", "pipeteer"),
        0.7,
    ),
    Bar("W9 <= 200 MB", lambda of: of("W9 memory of 10,000 sleeping runs", "pipeteer"), 200, at_least=False),
    Bar("W8 CPU <= 1 %", lambda of: of("W8 idle worker", "pipeteer"), 1, at_least=False),
    Bar("W8 <= 2 queries/s", lambda of: of("W8 idle worker, counted", "pipeteer"), 2, at_least=False),
)
