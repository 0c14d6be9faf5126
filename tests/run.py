"""`python -m tests.run [--only sqlite,postgres] [-- pytest arguments]`: the suite, once per database.

The legs are sqlite, postgres, mariadb and sqlite-no-wakeups (everything by polling). A database that does not answer is
skipped with a loud note, unless REQUIRE_DATABASES=sqlite,postgres,mariadb names it: then that is an error.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests import databases

LEG_TIMEOUT = 50 * 60
NO_TESTS_COLLECTED = 5
# A file's tests stay together; each process has a database and ports of its own.
PARALLEL = ["-n", str(min(4, os.cpu_count() or 1)), "--dist", "loadfile"]


@dataclass(frozen=True)
class Leg:
    """The suite under one set of circumstances."""

    name: str
    vendor: str
    wakeups: bool = True
    paths: tuple[str, ...] = ()
    """What it runs; everything if none."""


# Without wake-ups only that is different which waits for somebody else.
WAITING = ("competing", "stopping", "supervisor", "wakeups", "warm")
POLLING = Leg(
    "sqlite-no-wakeups",
    "sqlite",
    False,
    ("tests/queues/test_results.py", "tests/wakeups", *(f"tests/processes/test_{name}.py" for name in WAITING)),
)
LEGS = [*(Leg(vendor, vendor) for vendor in databases.VENDORS), POLLING]


@dataclass
class Result:
    """What became of a leg: counts from pytest's report, and a word for a leg that has none."""

    leg: Leg
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    trouble: str = ""

    @property
    def good(self) -> bool:
        return not self.failed and not self.trouble

    def __str__(self) -> str:
        counts = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped in {self.seconds:.0f} s"
        return f"{counts}; {self.trouble}" if self.trouble else counts


def main(arguments: list[str]) -> int:
    """Run the legs one after another and sum up; the exit status is 0 only if all is well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="comma-separated legs: " + ", ".join(leg.name for leg in LEGS))
    own, pytest_arguments = split(arguments)
    legs = chosen(parser, parser.parse_args(own).only)
    required = {name.strip() for name in os.environ.get("REQUIRE_DATABASES", "").split(",") if name.strip()}
    required &= {leg.vendor for leg in legs}

    with ExitStack() as servers:
        urls: dict[str, str] = {}
        missing: dict[str, str] = {}
        for vendor in dict.fromkeys(leg.vendor for leg in legs):
            try:
                urls[vendor] = servers.enter_context(databases.available(vendor))
            except databases.Unavailable as reason:
                missing[vendor] = str(reason)
        for vendor, reason in missing.items():
            banner(f"NO {vendor.upper()} HERE: {reason}")
        if absent := required & missing.keys():
            banner(f"STOP: REQUIRE_DATABASES asks for {', '.join(sorted(absent))}")
            return 1
        results: list[Result] = []
        for leg in legs:
            if leg.vendor in urls:
                results.append(run(leg, urls[leg.vendor], pytest_arguments, first=not results))
    return sum_up(results, missing)


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What is ours and, after `--`, what is pytest's."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def chosen(parser: argparse.ArgumentParser, only: str | None) -> list[Leg]:
    """The legs named by `--only`, in our order; all of them without it."""
    if only is None:
        return LEGS
    names = {name.strip() for name in only.split(",")}
    if unknown := names - {leg.name for leg in LEGS}:
        parser.error(f"unknown leg {', '.join(sorted(unknown))}; the legs are {', '.join(leg.name for leg in LEGS)}")
    return [leg for leg in LEGS if leg.name in names]


def run(leg: Leg, url: str, pytest_arguments: list[str], *, first: bool) -> Result:
    """One leg, in a process of its own: pytest prints as always, the counts come from its XML report."""
    banner(f"{leg.name}: python {sys.version.split()[0]}" + (f", {databases.without_password(url)}" if url else ""))
    environment = os.environ | {"TEST_DATABASE": leg.vendor, "PIPETEER_TEST_WAKEUPS": str(int(leg.wakeups))}
    if url:
        environment[databases.URL_VARIABLES[leg.vendor]] = url
    result = Result(leg)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pipeteer-report-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", "--durations=15", *PARALLEL]
        command += [] if first else ["-m", "not once"]
        command += leg.paths
        try:
            status = subprocess.run([*command, *pytest_arguments], env=environment, timeout=LEG_TIMEOUT).returncode
        except subprocess.TimeoutExpired:
            status, result.trouble = 1, f"killed after {LEG_TIMEOUT} s"
        if report.exists():
            count(report, result)
    result.seconds = time.monotonic() - started
    if status == NO_TESTS_COLLECTED and pytest_arguments:
        return result  # the selection was empty here, as `-k` may well be on one leg of several
    if status and result.good:
        result.trouble = f"pytest's exit status was {status}"
    return result


def count(report: Path, result: Result) -> None:
    """Read pytest's XML report."""
    for suite in ET.parse(report).getroot().iter("testsuite"):
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        result.failed += failed
        result.skipped += skipped
        result.passed += int(suite.get("tests", 0)) - failed - skipped


def sum_up(results: list[Result], missing: dict[str, str]) -> int:
    """Say on what the suite ran and on what not, and return the exit status."""
    banner("SUMMARY")
    for result in results:
        print(f"  {'ok    ' if result.good else 'FAILED'}  {result.leg.name:<18} {result}")
    for vendor, reason in missing.items():
        print(f"  NOT RUN {vendor:<18} {reason}")
    good = bool(results) and all(result.good for result in results)
    failed = sum(result.failed + bool(result.trouble) for result in results)
    print(f"\n{sum(r.passed for r in results)} passed, {failed} failed, {sum(r.skipped for r in results)} skipped")
    return 0 if good else 1


def banner(text: str) -> None:
    """A line that cannot be overlooked."""
    print(f"\n{'=' * 100}\n== {text}\n{'=' * 100}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
