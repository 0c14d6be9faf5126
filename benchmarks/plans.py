"""`python -m benchmarks.plans`: every statement of a turn, timed and explained beside a small and a very large queue.

The large queue has a million entries waiting, of which a hundred thousand are due later and ten thousand are leased to
somebody else, and its workflow a hundred thousand steps. Nothing has analyzed the tables. Writes build/plans.txt.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.__main__ import measure
from benchmarks.plan import Job
from tests.databases import available

_AT_ONCE = 10_000
_ENTRIES = 200
"""How many entries the turns that are timed claim and settle."""
_ROUNDS = 7

Timed = dict[str, list[tuple[float, str]]]
"""By what a statement does: milliseconds and its text, for each time."""


def plans(pipelines: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The medians and plans, in a process with Django set up."""
    small, _ = timed(pipelines)
    fill(pipelines, options["waiting"])
    large, settings = timed(pipelines)
    rows = []
    for name, times in large.items():
        before = statistics.median([each for each, _ in small.get(name, times)])
        after = statistics.median([each for each, _ in times])
        rows.append([name, round(before, 2), round(after, 2), explained(times[-1][1], settings)])
    return {"rows": rows}


def fill(pipelines: Any, waiting: int) -> None:
    """Make the queue large."""
    from django.utils import timezone

    from pipeteer_django.queues.claim import plain

    for start in range(0, waiting, _AT_ONCE):
        pipelines.mark.enqueue_many(range(start, start + _AT_ONCE))
    entries = plain(pipelines.mark.Input, "default")
    last = entries.order_by("-id").values_list("id", flat=True)[0]
    later, leased = waiting // 10, waiting // 100
    entries.filter(id__gt=last - later).update(available_at=timezone.now() + timedelta(days=1))
    entries.filter(id__lte=last - later, id__gt=last - later - leased).update(
        available_at=timezone.now() + timedelta(minutes=30), reserved_by="somebody", epoch=1, attempt=1
    )
    step, now = pipelines.quad.Step, timezone.now()
    for start in range(0, waiting // 10, _AT_ONCE):
        step.objects.bulk_create(
            step(run_id=10**9 + n, branch=0, index=0, pipeline="double", param=n, result=n, done_at=now, created_at=now)
            for n in range(start, start + _AT_ONCE)
        )


def timed(pipelines: Any) -> tuple[Timed, list[str]]:
    """Look, claim, settle: plain entries and workflows; and the statements that say how to plan."""
    from django.db import connection

    said: Timed = defaultdict(list)
    settings: list[str] = []

    def note(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        start = time.perf_counter()
        result = execute(sql, params, many, context)
        took = 1000 * (time.perf_counter() - start)
        words = connection.ops.last_executed_query(context["cursor"].cursor, sql, params)
        if "enable_seqscan" in words:
            settings[:] = [words]
        elif name := name_of(words):
            said[name].append((took, words))
        return result

    for _ in range(_ROUNDS):
        pipelines.mark.enqueue_many(range(_ENTRIES))
        pipelines.quad.enqueue_many(range(_ENTRIES))
        with connection.execute_wrapper(note):
            one_round(pipelines)
    return said, settings


def one_round(pipelines: Any) -> None:
    """What a worker does for so many tasks, and so many workflows of two calls."""
    from pipeteer_django.pipelines.outcome import Done
    from pipeteer_django.queues.turn import Appetite, take_turn, ticket_of
    from pipeteer_django.worker.attempts import run_workflow
    from pipeteer_django.worker.intake import Intake

    def turn(ended: list[Any], *targets: Any) -> list[Any]:
        tickets = [ticket_of(claim, outcome) for claim, outcome in ended]
        appetite = Appetite("me", _ENTRIES, _ENTRIES, True, targets)
        return take_turn(tickets, appetite, using="default").claims

    mark, double, quad = ((pipeline, 0) for pipeline in (pipelines.mark, pipelines.double, pipelines.quad))
    Intake([pipelines.mark, pipelines.double, pipelines.quad], "default", "me").look()
    turn([(claim, Done(claim.value)) for claim in turn([], mark)])
    runs = turn([], quad)
    for _ in range(2):
        children = turn([(run, run_workflow(run)) for run in runs], double)
        runs = turn([(child, Done(child.value)) for child in children], quad)
    turn([(run, run_workflow(run)) for run in runs])


def name_of(sql: str) -> str:
    """What a statement does: its verb, its table and what tells it from others of that table; "" if it has no table."""
    tables = sorted(set(re.findall(r"load_\w+", sql)))
    if not tables:
        return ""
    kind = sql.split(maxsplit=1)[0].upper()
    if kind == "SELECT" and "LIMIT" in sql:
        kind = "CLAIM" if len(tables) == 1 and "UNION" not in sql else "LOOK"
    elif kind == "SELECT" and "FOR UPDATE" in sql:
        kind = "LOCK"
    elif kind == "UPDATE" and "crashes + 1" in sql:
        kind = "RESERVE"
    return f"{kind} {', '.join(table.removeprefix('load_') for table in tables)}"


def explained(sql: str, settings: list[str]) -> str:
    """The plan, under the settings that a turn has."""
    from django.db import connection, transaction

    verb = {"sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN ", "mysql": "EXPLAIN "}[connection.vendor]
    with transaction.atomic(), connection.cursor() as cursor:
        for words in settings:
            cursor.execute(words)
        cursor.execute(verb + sql)
        return "\n".join("  ".join(map(str, row)) for row in cursor.fetchall()[:40])


def main() -> int:
    """Print a table for each database, and write the plans."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plans", description=__doc__)
    parser.add_argument("--databases", default="sqlite,postgres,mariadb")
    parser.add_argument("--waiting", type=int, default=1_000_000)
    options = parser.parse_args()
    pages = []
    for vendor in options.databases.split(","):
        with available(vendor) as server:
            found = measure(Job("plans", "plans", ("pipeteer",), vars(options), patience=3600), "pipeteer", server)
        if "rows" not in found:
            print(f"{vendor}: {found['error']}")
            return 1
        print(f"\n{vendor:<44}{'1,000 or fewer':>16}{f'{options.waiting:,} waiting':>20}   ms")
        for name, before, after, plan in found["rows"]:
            print(f"{name:<44}{before:>16.2f}{after:>20.2f}")
            pages.append(f"{vendor}: {name}\n{plan}\n")
    Path("build/plans.txt").write_text("\n".join(pages))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
