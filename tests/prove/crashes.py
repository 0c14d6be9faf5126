"""Crash at every statement: kill -9 before and after each SQL statement and COMMIT, recover, compare.

    python -m tests.prove crashes                                       all points of all scenarios, on each database
    python -m tests.prove crashes --database postgres --sample 200 --seed 7
    python -m tests.prove crashes --database sqlite --scenario call --point database/58fefba3/2/before
    python -m tests.prove crashes --database sqlite --mutant effect_apart          must find something

Each scenario runs once undisturbed, which tells what points there are and how it must end. Then, for each point, again
until it is killed there, and a fresh process takes over. Outputs, steps, messages and the effects of atomic activities
must be what they are without a crash; plain activities may have run twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.databases import URL_VARIABLES, VENDORS, Unavailable, available
from tests.prove.chaos import _quiet, _teller


@dataclass(slots=True)
class Tally:
    """What came of the points of one scenario."""

    points: int = 0
    """That there are."""
    tried: int = 0
    crashed: int = 0
    recovered: int = 0
    unmet: int = 0
    """Points that the run did not pass again: an idle worker looks more or less often."""
    wrong: list[tuple[str, str]] = field(default_factory=list)
    """Names of points, and what was wrong."""

    def add(self, verdict: Any) -> None:
        """Count one more."""
        self.tried += 1
        self.crashed += verdict.met
        self.unmet += not verdict.met
        self.recovered += verdict.met and not verdict.wrong
        if verdict.wrong:
            self.wrong.append((verdict.point, verdict.wrong))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run on the database that is named, or on all of them, one after the other. Returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    if options.database is not None:
        return _run(options)
    # A process for each: Django's settings know one database.
    command = [sys.executable, "-m", "tests.prove", "crashes", *given]
    return max(subprocess.call([*command, "--database", vendor]) for vendor in VENDORS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.prove crashes", description=__doc__.split("\n\n")[0])
    parser.add_argument("--database", choices=VENDORS, help="On this one only.")
    parser.add_argument("--scenario", action="append", default=[], help="Only this one; may be given several times.")
    parser.add_argument("--point", help="Only this one, by its name.")
    parser.add_argument("--matching", default="", help="Only where this is part of the statement, like COMMIT.")
    parser.add_argument("--sample", type=int, help="So many points instead of all.")
    parser.add_argument("--seed", type=int, help="Of the sample, and of the order.")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="At the same time.")
    parser.add_argument("--mutant", default="", help="An engine without this safeguard, see tests/prove/broken.py.")
    parser.add_argument("--patience", type=float, default=50.0, help="Seconds for one recovery.")
    parser.add_argument("--json", metavar="FILE", help="Where to write the report to, too.")
    parser.add_argument("--quiet", action="store_true", help="Only the report.")
    return parser


def _run(options: argparse.Namespace) -> int:
    try:
        with available(options.database) as url:
            if url:
                os.environ[URL_VARIABLES[options.database]] = url
            return _prove(options)
    except Unavailable as error:
        print(f"{options.database}: NOT RUN: {error}", flush=True)
        return 1


def _prove(options: argparse.Namespace) -> int:
    os.environ |= {"DJANGO_SETTINGS_MODULE": "tests.settings", "TEST_DATABASE": options.database}
    os.environ.setdefault("PIPETEER_TEST_WAKEUPS", "0")
    import_module("django").setup()
    if options.mutant:
        import_module("tests.prove.broken").install(options.mutant)
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pipeteer-crashes-") as folder:
        tallies = _all(options, seed, Path(folder))
    seconds = time.monotonic() - began
    _report(options, tallies, seed, seconds)
    if options.json:
        said = {name: asdict(tally) for name, tally in tallies.items()}
        Path(options.json).write_text(json.dumps({"seed": seed, "seconds": seconds, "scenarios": said}, indent=1))
    return 1 if any(tally.wrong for tally in tallies.values()) else 0


def _all(options: argparse.Namespace, seed: int, folder: Path) -> dict[str, Tally]:
    lanes = import_module("tests.prove.lanes")  # it imports models, so not before Django is set up
    import_module("tests.prove.worlds").World.patience = options.patience
    say = _quiet if options.quiet else _teller(options.database)
    scenarios = {name: lanes.SCENARIOS[name] for name in options.scenario} or lanes.SCENARIOS
    with lanes.databases(max(1, options.jobs)) as names:
        lanes.use(names[0])
        lane = lanes.Lane(folder)
        baselines = {}
        for name, scenario in scenarios.items():
            say(f"{name} without a crash")
            baselines[name] = lane.baseline(scenario)
        tallies = {name: Tally(len(baseline.points)) for name, baseline in baselines.items()}
        tasks = _chosen(options, seed, baselines)
        states = {name: baseline.state for name, baseline in baselines.items()}
        for number, verdict in enumerate(lanes.race(names, tasks, states, folder), 1):
            tallies[verdict.scenario].add(verdict)
            wrong = sum(len(tally.wrong) for tally in tallies.values())
            say(f"{number} of {len(tasks)} points, {wrong} wrong")
    return tallies


def _chosen(options: argparse.Namespace, seed: int, baselines: dict[str, Any]) -> list[tuple[str, Any]]:
    tasks = [(name, point) for name, baseline in baselines.items() for point in baseline.points]
    tasks = [task for task in tasks if options.matching in task[1].statement]
    if options.point:
        tasks = [task for task in tasks if task[1].name == options.point]
        if not tasks:
            sys.exit(f"No scenario that was asked for passes the point {options.point}.")
    chance = random.Random(seed)
    chance.shuffle(tasks)  # so that the lanes end together
    return tasks[: options.sample]


def _report(options: argparse.Namespace, tallies: dict[str, Tally], seed: int, seconds: float) -> None:
    console = Console(width=110, highlight=False)
    table = Table(title=f"{options.database}: kill -9 at every statement (seed {seed}, {seconds:.0f} s)")
    for column in ("scenario", "points", "tried", "crashed", "recovered", "not met", "wrong"):
        table.add_column(column, justify="left" if column == "scenario" else "right")
    for name, tally in [*tallies.items(), ("all", _sum(tallies))]:
        counts = (tally.points, tally.tried, tally.crashed, tally.recovered, tally.unmet, len(tally.wrong))
        table.add_row(name, *map(str, counts), end_section=name == list(tallies)[-1])
    console.print()
    console.print(table)
    for name, tally in tallies.items():
        for point, wrong in tally.wrong[:5]:
            print(f"WRONG: {name}, {wrong}")
            mutant = f" --mutant {options.mutant}" if options.mutant else ""
            again = f"--database {options.database} --scenario {name} --point {point}{mutant}"
            print(f"  again: python -m tests.prove crashes {again}")
    sys.stdout.flush()


def _sum(tallies: dict[str, Tally]) -> Tally:
    every = tallies.values()
    whole = Tally(*(sum(getattr(tally, name) for tally in every) for name in Tally.__slots__[:5]))
    whole.wrong = [wrong for tally in every for wrong in tally.wrong]
    return whole


if __name__ == "__main__":
    sys.exit(main())
