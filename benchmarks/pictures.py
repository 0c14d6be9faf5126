"""`python -m benchmarks.pictures`: the pictures and the tables of docs/performance.md, from benchmarks/results.json."""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import report, svg
from benchmarks.plan import DATABASES, PEERS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
DOCS = ROOT / "docs"
BEGIN, END = "<!-- from results.json: begin -->", "<!-- from results.json: end -->"
LOOKS = {"pipeteer": "one", "raw": "plain", "dbos": "two", "oban": "three"}


def pictures(data: dict[str, Any]) -> dict[str, str]:
    """SVGs by file name. What was not measured has no picture."""
    made = {
        "performance-backlog.svg": backlog(data),
        "performance-latency.svg": latency(data),
        "performance-steps.svg": steps(data),
    }
    return {name: text for name, text in made.items() if text}


def backlog(data: dict[str, Any]) -> str:
    """How the rate of a drain goes with what waits behind it."""
    panels = curves(data, "W7", "backlog", "per_second")
    return svg.lines("Drain rate against backlog", panels, "tasks waiting", "tasks/s", log=True) if panels else ""


def steps(data: dict[str, Any]) -> str:
    """How long a workflow of many sequential steps takes."""
    panels = curves(data, "W5", "count", "seconds")
    return svg.lines("Time against steps of one workflow", panels, "sequential steps", "seconds") if panels else ""


def curves(data: dict[str, Any], workload: str, x: str, y: str) -> list[svg.Panel]:
    """A panel for each database, a line for each peer: medians of `y` by `x`."""
    found: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in data["results"]:
        if result["job"].startswith(workload) and y in result:
            found[result["database"], result["peer"]][result[x]].append(result[y])
    return [
        svg.Panel(
            heading(data, vendor),
            [
                svg.Series(PEERS[peer], LOOKS[peer], [
                    (at, statistics.median(some), min(some), max(some)) for at, some in found[vendor, peer].items()
                ])
                for peer in PEERS
                if (vendor, peer) in found
            ],
        )
        for vendor in data["databases"]
        if any(vendor == each for each, _ in found)
    ]  # fmt: skip


def latency(data: dict[str, Any]) -> str:
    """Ours on an idle worker: all samples of all rounds."""
    panels = []
    for vendor in data["databases"]:
        results = [r for r in data["results"] if r["database"] == vendor and r["peer"] == "pipeteer"]
        series = [
            svg.Series(name, look, [(each,) for r in results for each in r.get(metric, ())])
            for name, look, metric in (("body started", "one", "start_ms"), ("result seen", "two", "result_ms"))
        ]
        if all(each.points for each in series):
            panels.append(svg.Panel(heading(data, vendor), series))
    title = "Latency on an idle worker, from the enqueue call"
    return svg.histogram(title, panels, "milliseconds", "% of tasks") if panels else ""


def heading(data: dict[str, Any], vendor: str) -> str:
    """The title of a panel."""
    return DATABASES[vendor] + (" (a rehearsal)" if report.rehearsed(data) else "")


def between(page: str, text: str) -> str:
    """The page with `text` between its two marks. Raises ValueError without them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} and {END} in the page")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def write(data: dict[str, Any], docs: Path) -> list[Path]:
    """Put everything in its place; returns what was written."""
    page = docs / "performance.md"
    texts = {docs / "images" / name: text for name, text in pictures(data).items()}
    texts[page] = between(page.read_text(), report.markdown(data))
    for path, text in texts.items():
        path.write_text(text)
    return list(texts)


def main(words: list[str] | None = None) -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures", description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of performance.md and images/")
    options = parser.parse_args(words)
    for path in write(json.loads(options.results.read_text()), options.docs):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
