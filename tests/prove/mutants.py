"""The project without one safeguard at a time: the tests must notice each.

    python -m tests.prove.mutants                        all of them
    python -m tests.prove.mutants no_fence no_poll       these
    python -m tests.prove.mutants --sample 4 --seed 7 --database sqlite

Every mutant is a copy of the whole project with a few lines of its text replaced, so that it is the mutant in whatever
process a test starts. Its tests run in an unchanged copy first, where all must pass, and then in its own, where one
must fail, and by what it asserts: a mutant that cannot even be imported proves nothing.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from tests.databases import URL_VARIABLES, VENDORS, Unavailable, available
from tests.prove.mutants_table import MUTANTS, Change, Mutant

ROOT = Path(__file__).resolve().parent.parent.parent
COPIED = (
    "pipeteer_django",
    "example_project",
    "benchmarks",
    "tests",
    "docs",
    "manage.py",
    "pyproject.toml",
    "Makefile",
)
PATIENCE = 60
"""Seconds for one test: a mutant may wait for ever."""
ASSERTED = ("assert", "AssertionError", "Failed: DID NOT RAISE", "Failed: Timeout")
"""How the message of a failure begins that was meant."""


class Broken(Exception):
    """Nothing can be said about a mutant; the message says why."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A test that failed."""

    test: str
    message: str

    def meant(self, raising: str) -> bool:
        """By what it asserts, or what the mutant is to raise, and not because the mutant makes no sense."""
        return self.message.startswith((*ASSERTED, raising) if raising else ASSERTED)


@dataclass(slots=True)
class Outcome:
    """What one run of pytest came to."""

    passed: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    errors: list[Failure] = field(default_factory=list)
    said: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A mutant, and the test that killed it; none if it survived."""

    mutant: Mutant
    killer: str
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill them, and print the table. Returns 1 if one survives or cannot be judged."""
    options = _parser().parse_args(arguments)
    verdicts: list[Verdict] = []
    broken: list[str] = []
    with ExitStack() as stack:
        for vendor, mutants in _by_database(_chosen(options)).items():
            try:
                url = stack.enter_context(available(vendor))
            except Unavailable as error:
                broken.append(f"{vendor} cannot be had, so {len(mutants)} mutants are left out: {error}")
                continue
            environment = {"TEST_DATABASE": vendor} | ({URL_VARIABLES[vendor]: url} if url else {})
            _judge_all(mutants, environment, verdicts, broken)
    print(table(verdicts))
    print(*broken, sep="\n")
    return 1 if broken or any(not verdict.killer for verdict in verdicts) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.prove mutants", description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="These mutants only.")
    parser.add_argument("--database", choices=VENDORS, help="Those that need no other database than this one.")
    parser.add_argument("--sample", type=int, metavar="N", help="So many of them, chosen at random.")
    parser.add_argument("--seed", type=int, default=11, help="Of the choice.")
    return parser


def _chosen(options: argparse.Namespace) -> list[Mutant]:
    known = {mutant.name: mutant for mutant in MUTANTS}
    if unknown := set(options.names) - known.keys():
        raise SystemExit(f"No mutants: {', '.join(sorted(unknown))}. There are {', '.join(known)}.")
    chosen = [known[name] for name in options.names] or list(MUTANTS)
    if options.database:
        chosen = [mutant for mutant in chosen if mutant.database == options.database]
    if options.sample is not None:
        chosen = random.Random(options.seed).sample(chosen, min(options.sample, len(chosen)))
    return chosen


def _by_database(mutants: Iterable[Mutant]) -> dict[str, list[Mutant]]:
    found: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        found[mutant.database].append(mutant)
    return found


# Judging


def _judge_all(
    mutants: Sequence[Mutant], environment: dict[str, str], verdicts: list[Verdict], broken: list[str]
) -> None:
    """First all their tests in the whole project, at once, then each mutant."""
    with copy_of_project() as whole:
        tests = sorted({test for mutant in mutants for test in mutant.killers})
        sound = run_tests(whole, tests, environment)
    for mutant in mutants:
        try:
            _require_sound(mutant, sound)
            verdict = judge(mutant, environment)
        except Broken as error:
            broken.append(f"{mutant.name}: {error}")
            _say(broken[-1])
        else:
            verdicts.append(verdict)
            _say(_line(verdict))


def _require_sound(mutant: Mutant, sound: Outcome) -> None:
    """Raise Broken unless each of its tests ran and passed with the safeguard."""
    bad = [case for case in (*sound.failures, *sound.errors) if case.test.startswith(mutant.killers)]
    if bad:
        raise Broken(f"its tests must pass with the safeguard.\n{_reasons(bad)}")
    unknown = [killer for killer in mutant.killers if not any(test.startswith(killer) for test in sound.passed)]
    if unknown:
        raise Broken(f"with the safeguard these tests did not run: {', '.join(unknown)}.\n{sound.said[-2000:]}")


def judge(mutant: Mutant, environment: dict[str, str]) -> Verdict:
    """Run its tests against the mutant. Raises Broken where that proves nothing."""
    started = time.monotonic()
    with copy_of_project(mutant.changes) as folder:
        after = run_tests(folder, [*mutant.killers, "-x"], environment)
    failed = [failure for failure in after.failures if failure.meant(mutant.raising)]
    if after.errors or (after.failures and not failed):
        raise Broken(f"its tests break, but not by what they assert.\n{_reasons([*after.failures, *after.errors])}")
    return Verdict(mutant, failed[0].test if failed else "", time.monotonic() - started)


def _reasons(cases: Iterable[Failure]) -> str:
    return "\n".join(f"{case.test}: {case.message}" for case in cases)


@contextmanager
def copy_of_project(changes: Iterable[Change] = ()) -> Iterator[Path]:
    """A folder with a copy of the project, changed like that. Raises Broken where a change does not fit its file."""
    with tempfile.TemporaryDirectory(prefix="pipeteer-mutant-") as name:
        folder = Path(name)
        for part in COPIED:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, folder / part)  # what Python has compiled is valid there, too
            else:
                shutil.copy2(ROOT / part, folder / part)
        for change in changes:
            _apply(change, folder / "pipeteer_django" / change.file)
        yield folder


def _apply(change: Change, file: Path) -> None:
    file.write_text(changed(change, file.read_text()))
    # Python knows a changed file by the second and by its size, and a mutant may have neither changed.
    for compiled in file.parent.glob(f"__pycache__/{file.stem}.*.pyc"):
        compiled.unlink()


def changed(change: Change, text: str) -> str:
    """The text of the file, changed. Raises Broken where the change does not fit it."""
    if (count := text.count(change.old)) != 1:
        raise Broken(f"{change.file} has this {count} times, not once: {change.old!r}. Mend the table of mutants.")
    return text.replace(change.old, change.new)


def run_tests(folder: Path, tests: Sequence[str], environment: dict[str, str]) -> Outcome:
    """Run these tests of the project in `folder`."""
    report = folder / "report.xml"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PIPETEER_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", *tests, "-q", "-p", "no:cacheprovider", f"--timeout={PATIENCE}"]
    done = subprocess.run(
        [*command, "--override-ini=junit_family=xunit1", f"--junitxml={report}"],
        cwd=folder,
        env=inherited | environment | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    if not report.exists():
        raise Broken(f"pytest ended with {done.returncode} and no report.\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    outcome = _read(report)
    outcome.said = done.stdout
    return outcome


def _read(report: Path) -> Outcome:
    outcome = Outcome()
    for case in ElementTree.parse(report).iter("testcase"):
        test = f"{case.get('file') or case.get('classname')}::{case.get('name')}"
        for kind, found in (("failure", outcome.failures), ("error", outcome.errors)):
            if (element := case.find(kind)) is not None:
                found.append(Failure(test, " ".join((element.get("message") or "").split())[:300]))
        if {element.tag for element in case} <= {"system-out", "system-err"}:
            outcome.passed.append(test)
    return outcome


# The table


def table(verdicts: Sequence[Verdict]) -> str:
    """Mutant, safeguard, killed by, seconds: as Markdown."""
    survivors = sum(not verdict.killer for verdict in verdicts)
    head = ["| Mutant | The safeguard that it lacks | Killed by | Database | Seconds |", "|---|---|---|---|---|"]
    end = f"\n{len(verdicts)} mutants, {len(verdicts) - survivors} killed, {survivors} alive."
    return "\n".join([*head, *map(_line, verdicts), end])


def _line(verdict: Verdict) -> str:
    mutant = verdict.mutant
    killer = f"`{verdict.killer}`" if verdict.killer else "**nothing: it is alive**"
    return f"| `{mutant.name}` | {mutant.safeguard} | {killer} | {mutant.database} | {verdict.seconds:.1f} |"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
