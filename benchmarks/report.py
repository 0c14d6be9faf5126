"""The results as tables: medians (min..max), and the bars."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from benchmarks.plan import ALSO, BARS, DATABASES, JOBS, PEERS, Bar

Results = list[dict[str, Any]]
Lines = dict[tuple[str, str], list[float]]
"""Values by (line of the table, peer)."""


def lines_of(results: Results) -> tuple[Lines, dict[str, str]]:
    """Sort the measurements of one database into the table's lines; also each line's unit, in order."""
    values: Lines = defaultdict(list)
    units: dict[str, str] = {}
    for job in JOBS:
        for line, metric, unit in ((job.name, job.metric, job.unit), *ALSO.get(job.workload, ())):
            for result in results:
                if result["job"] == job.name and metric in result:
                    name = line.format(job=job.name)
                    units[name] = unit
                    values[name, result["peer"].removesuffix("_50")].append(result[metric])
    return values, units


def grid(vendor: str, results: Results, names: dict[str, str] | None = None) -> list[list[str]]:
    """The cells of one database's table, the heading first; `names` are the peers'."""
    values, units = lines_of(results)
    peers = [peer for peer in PEERS if any(peer == each for _, each in values)]
    rows = [
        [f"{line}, {unit}", *(cell(values.get((line, peer), [])) for peer in peers)] for line, unit in units.items()
    ]
    return [[vendor, *((names or {}).get(peer, peer) for peer in peers)], *rows]


def table(vendor: str, results: Results) -> str:
    """The table of one database, for a terminal."""
    rows = grid(vendor, results)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    judged = [
        f"{'holds ' if bar.holds(number) else 'MISSED'}  {bar.text}: {short(number)}"
        for bar, number in bars(vendor, results)
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], *errors(results), "", *judged])


def errors(results: Results) -> list[str]:
    """A line for each measurement that failed."""
    return [f"FAILED {r['job']}, {r['peer']}: {r['error'].splitlines()[0][:200]}" for r in results if "error" in r]


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


def bars(vendor: str, results: Results) -> Iterator[tuple[Bar, float]]:
    """The bars that can be judged, each with its number."""
    values, _ = lines_of(results)
    for bar in BARS:
        if vendor in bar.vendors:
            try:
                yield bar, bar.value(lambda line, peer: statistics.median(values.get((line, peer), [])))
            except statistics.StatisticsError:
                continue


def summary(vendor: str, results: Results) -> Iterator[dict[str, Any]]:
    """Each cell of the table, as numbers."""
    values, units = lines_of(results)
    for (line, peer), each in values.items():
        yield {
            "database": vendor, "line": line, "unit": units[line], "peer": peer, "median": statistics.median(each),
            "min": min(each), "max": max(each), "rounds": len(each),
        }  # fmt: skip


def dump(about: dict[str, Any], results: Results) -> str:
    """All there is, as JSON; a line for each measurement, however many samples it has."""
    vendors = {vendor: [r for r in results if r["database"] == vendor] for vendor in about["databases"]}
    lists = {
        "summary": [each for vendor, some in vendors.items() for each in summary(vendor, some)],
        "bars": [
            {"database": vendor, "bar": bar.text, "measured": number, "holds": bar.holds(number)}
            for vendor, some in vendors.items()
            for bar, number in bars(vendor, some)
        ],
        "results": results,
    }
    parts = [json.dumps(about, indent=1).removesuffix("\n}")]
    for name, items in lists.items():
        inside = ",\n  ".join(json.dumps(item) for item in items)
        parts.append(f' "{name}": [\n  {inside}\n ]')
    return ",\n".join(parts) + "\n}\n"


# For the documentation


def markdown(data: dict[str, Any]) -> str:
    """What was measured on, the tables of all databases, and the bars."""
    parts = [conditions(data)]
    for vendor, text in data["databases"].items():
        results = [r for r in data["results"] if r["database"] == vendor]
        rows = grid("", results, PEERS)
        heads = ["|" + " | ".join(rows[0]) + " |", "|---|" + "---:|" * (len(rows[0]) - 1)]
        parts.append(f"**{text}**\n\n" + "\n".join([*heads, *(f"| {' | '.join(row)} |" for row in rows[1:])]))
        parts += [f"- {line}" for line in errors(results)]
    return "\n\n".join([*parts, judged(data)])


def conditions(data: dict[str, Any]) -> str:
    """Machine, day, versions, rounds; and a warning where it was only a rehearsal."""
    about, disk = data["machine"], [each for r in data["results"] for each in r.get("fsync_ms", ())]
    where = [about.get("processor", ""), f"{about['cores']} cores"]
    where += [f"{about['memory_gib']:.0f} GiB", about["system"]] if "memory_gib" in about else [about["system"]]
    software = ", ".join(f"{name} {number}" for name, number in data["versions"].items())
    theirs = ", ".join(f"{name} {number}" for name, number in data["peers_versions"].items())
    said = [
        f"Measured on {data['at'][:10]}: {', '.join(filter(None, where))}. {software}.",
        f"The peers: {theirs}." if theirs else "",
        f"Rounds: {data['rounds']}; a cell is the median (min..max).",
        f"The disk took {short(statistics.median(disk))} ms (median) to make 4 kB durable." if disk else "",
    ]
    if rehearsed(data):
        said.insert(0, "**A rehearsal: few rounds, little work, a busy machine. Do not quote these figures.**")
    return "\n".join(filter(None, said))


def rehearsed(data: dict[str, Any]) -> bool:
    """Whether the figures are too few to be quoted."""
    return bool(data["quick"] or data["rounds"] < 3)


def judged(data: dict[str, Any]) -> str:
    """The bars, a line each."""
    lines = ["| Bar | Database | Measured | |", "|---|---|---:|---|"]
    lines += [
        f"| {bar['bar']} | {DATABASES[bar['database']]} | {short(bar['measured'])} | "
        f"{'holds' if bar['holds'] else '**missed**'} |"
        for bar in data["bars"]
    ]
    return "\n".join(lines)
