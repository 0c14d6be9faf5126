"""The big run: thousands of quads under kill -9, zombies and server crashes; at the end nothing is lost or doubled.

    python -m tests.prove.chaos                                        10,000 / 200 / 50 / 10 on each database
    python -m tests.prove.chaos --size ci --database postgres --seed 7
    python -m tests.prove.chaos --size ci --database sqlite --mutant no_atomic_fence       must find something

A quad is a workflow of two atomic activities, each of which writes a row into a ledger that has no unique constraint.
Its outputs are partly consumed and deleted while it runs. The processes write an audit trail, which is checked.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.databases import VENDORS, Unavailable
from tests.prove.servers import server

SIZES = {"full": (10_000, 200, 50, 10), "ci": (1_000, 40, 10, 2)}
"""Quads, kills, zombies, server crashes."""
# Nothing is given up because its worker was killed often.
SETTINGS = {"RESERVE": 1.5, "POLL_INTERVAL": 0.3, "SWEEP_INTERVAL": 1.0, "MAX_CRASHES": 1_000_000}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run on the database that is named, or on all of them, one after the other. Returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.database is not None:
        return _run(options)
    given = list(sys.argv[1:] if arguments is None else arguments)
    # A process for each: Django's settings know one database.
    statuses = [
        subprocess.call([sys.executable, "-m", "tests.prove.chaos", *given, "--database", vendor]) for vendor in VENDORS
    ]
    return max(statuses)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.prove.chaos", description=__doc__.split("\n\n")[0])
    parser.add_argument("--database", choices=VENDORS, help="On this one only.")
    parser.add_argument("--size", choices=SIZES, default="full", help="How much of everything.")
    for name in ("quads", "kills", "zombies", "crashes"):
        parser.add_argument(f"--{name}", type=int, help="Another number than the size says.")
    parser.add_argument("--seed", type=int, help="Of all choices. (When what happens is up to the machine.)")
    parser.add_argument("--workers", type=int, default=3, help="Processes at a time.")
    parser.add_argument("--mutant", default="", help="An engine without this safeguard, see tests/mutants.py.")
    parser.add_argument("--json", metavar="FILE", help="Where to write the report to, too.")
    parser.add_argument("--quiet", action="store_true", help="Only the report.")
    return parser


def _run(options: argparse.Namespace) -> int:
    vendor = options.database
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    say = _quiet if options.quiet else _teller(vendor)
    try:
        with server(vendor) as (mine, folder):
            _prepare(vendor, mine.environment, folder)
            good = False
            try:
                report = _storm(options, seed, mine, folder, say)
                good = not report.wrong or bool(options.mutant)
            finally:
                if not good:
                    _keep(folder, f"pipeteer-chaos-{vendor}-{seed}-")
    except Unavailable as error:
        print(f"{vendor}: NOT RUN: {error}", flush=True)
        return 1
    print(f"{vendor}: {report}", flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(report.as_json(), indent=1))
    return 1 if report.wrong else 0


def _keep(folder: Path, prefix: str) -> None:
    """What is needed to find out what happened."""
    kept = Path(tempfile.mkdtemp(prefix=prefix))
    shutil.copytree(folder / "trail", kept / "trail")
    for file in [*folder.glob("*.log"), *folder.glob("*.sqlite3*")]:
        shutil.copy(file, kept)
    print(f"Trail and logs are in {kept}", flush=True)


def _prepare(vendor: str, environment: dict[str, str], folder: Path) -> None:
    """Django and its tables, here and for the workers."""
    processes = import_module("example_project.processes")
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "TEST_DATABASE": vendor,
        "PIPETEER_TEST_PORTS": ",".join(map(str, processes.free_ports(2))),
        "PIPETEER_TEST_SETTINGS": json.dumps(SETTINGS | {"AUDIT": str(folder / "trail")}),
        **environment,
    }
    import_module("django").setup()
    import_module("django.core.management").call_command("migrate", run_syncdb=True, verbosity=0)


def _storm(options: argparse.Namespace, seed: int, mine: Any, folder: Path, say: Callable[[str], None]) -> Any:
    storm = import_module("tests.prove.storm")  # it imports models, so not before Django is set up
    numbers = [
        given if (given := getattr(options, name)) is not None else usual
        for name, usual in zip(("quads", "kills", "zombies", "crashes"), SIZES[options.size], strict=True)
    ]
    plan = storm.Plan(*numbers, seed, options.workers, options.mutant)
    say(f"{plan}")
    return storm.Storm(plan, mine, folder, say).run()


def _quiet(text: str) -> None:
    """Says nothing."""


def _teller(vendor: str) -> Callable[[str], None]:
    """Writes one line over the other on a terminal, and elsewhere a line every few seconds."""
    terminal = sys.stdout.isatty()
    last = [0.0]

    def say(text: str) -> None:
        if time.monotonic() - last[0] >= (0.2 if terminal else 5.0):
            last[0] = time.monotonic()
            print(f"\r{vendor}: {text}".ljust(100) if terminal else f"{vendor}: {text}", end="" if terminal else "\n")
            sys.stdout.flush()

    return say


if __name__ == "__main__":
    sys.exit(main())
