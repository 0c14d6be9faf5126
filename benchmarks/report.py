"""The results as a table: medians (min..max), and the bars."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from typing import Any

from benchmarks.plan import ALSO, BARS, JOBS

Lines = dict[tuple[str, str], list[float]]
"""Values by (line of the table, peer)."""


def lines_of(results: list[dict[str, Any]]) -> tuple[Lines, dict[str, str]]:
    """Sort the measurements of one database into the table's lines; also each line's unit, in order."""
    values: Lines = defaultdict(list)
    units: dict[str, str] = {}
    for job in JOBS:
        shown = [(job.name, job.metric, job.unit)]
        if not job.options.get("statements"):
            shown += ALSO.get(job.workload, ())
        for line, metric, unit in shown:
            for result in results:
                if result["job"] == job.name and metric in result:
                    units[line] = unit
                    values[line, result["peer"]].append(result[metric])
    return values, units


def table(vendor: str, results: list[dict[str, Any]]) -> str:
    """The table of one database."""
    values, units = lines_of(results)
    peers = list(dict.fromkeys(peer for job in JOBS for peer in job.peers if any(p == peer for _, p in values)))
    rows = [[vendor, *peers]]
    rows += [
        [f"{line}, {unit}", *(cell(values.get((line, peer), [])) for peer in peers)] for line, unit in units.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(peers) + 1)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    errors = [f"FAILED {r['job']}, {r['peer']}: {r['error'].splitlines()[0][:200]}" for r in results if "error" in r]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], *errors, "", *bars(vendor, values)])


def cell(values: list[float]) -> str:
    """Median and range."""
    if not values:
        return ""
    if len(values) == 1:
        return short(values[0])
    return f"{short(statistics.median(values))} ({short(min(values))}..{short(max(values))})"


def short(value: float) -> str:
    """Three digits that matter."""
    digits = 0 if value >= 100 or value == 0 else 2 - math.floor(math.log10(abs(value)))
    return f"{value:,.{min(max(digits, 0), 2)}f}"


def bars(vendor: str, values: Lines) -> list[str]:
    """One line for each bar that can be judged."""
    found = []
    for bar in BARS:
        if vendor in bar.vendors:
            try:
                number = bar.value(lambda line, peer: statistics.median(values[line, peer]))
            except statistics.StatisticsError:
                continue
            good = number >= bar.limit if bar.at_least else number <= bar.limit
            found.append(f"{'holds ' if good else 'MISSED'}  {bar.text}: {short(number)}")
    return found
