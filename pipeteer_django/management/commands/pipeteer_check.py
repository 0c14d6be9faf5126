"""`manage.py pipeteer_check [ids...]`: may this code be deployed while runs are in flight?"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, InterfaceError

from pipeteer_django.checking.choice import WRONG, chosen
from pipeteer_django.checking.document import Document
from pipeteer_django.checking.findings import ADVICE, Finding
from pipeteer_django.checking.gate import Gate


class Command(BaseCommand):
    """Choose pipelines, look, say what was found."""

    help = (
        "Look whether this code can go on with what is in the database: settings, migrations, stored values, and with "
        "--replay the runs in flight. Reads only. Exit status 0: it can; 1: it cannot; 2: there was no telling."
    )
    requires_system_checks: list[str] = []  # the gate runs them, and reports them among its findings

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("pipelines", nargs="*", metavar="id", help="Pipelines to look at; none: all of them.")
        parser.add_argument("--replay", action="store_true", help="Replay live runs with this code, to compare.")
        parser.add_argument(
            "--values", action="store_true", help="Only what is stored, not settings, database and migrations."
        )
        parser.add_argument("--json", action="store_true", help="One JSON document.")

    def handle(self, **options: Any) -> None:
        """Exit with the status that says it all."""
        gate = Gate(chosen(options["pipelines"]), replay=options["replay"], only_values=options["values"])
        report: _Lines = _Json(self.stdout, gate) if options["json"] else _Lines(self.stdout, gate)
        try:
            report.begin()
            for finding in gate.findings():
                report.add(finding)
        except (DatabaseError, InterfaceError) as error:
            message = f"The database does not answer as it should: {str(error).strip()}"
            report.end(message)
            raise CommandError(message, returncode=WRONG) from error
        report.end()
        if report.stops:
            sys.exit(1)


class _Lines:
    """Writes each finding as it comes, and at the end what there was and what to do."""

    def __init__(self, out: Any, gate: Gate) -> None:
        self._out, self._gate = out, gate
        self._counts: Counter[str] = Counter()
        self._failed = 0
        self.stops = 0
        """How many findings speak against deploying."""

    def begin(self) -> None:
        """Before the first finding."""

    def add(self, finding: Finding) -> None:
        """Write one down."""
        self._counts[finding.kind] += not finding.warning
        self._failed += finding.failed
        self.stops += finding.stops
        self._show(finding)

    def _show(self, finding: Finding) -> None:
        self._out.write(str(finding))

    def end(self, error: str = "") -> None:
        """After the last one."""
        if error:
            return
        self._out.write(f"Looked at {self._looked()}.")
        for line in self._advice():
            self._out.write(line)
        counts = ", ".join(f"{count} {kind}" for kind, count in self._counts.items() if count)
        self._out.write(f"Found: {counts}." if counts else "Everything can go on under this code.")
        if self._failed:
            self._out.write(
                f"{self._failed} of these are about entries that were given up before. They are no reason to wait: "
                "nothing happens to them unless somebody retries them."
            )

    def _looked(self) -> str:
        looked = self._gate.looked
        text = f"{looked['entries']} entries, {looked['records']} records of runs, {looked['outputs']} outputs"
        return f"{text}; replayed {looked['replays']} runs" if self._gate.replay else text

    def _advice(self) -> list[str]:
        return [f"{kind}: {advice}" for kind, advice in ADVICE.items() if self._counts[kind]]


class _Json(_Lines):
    """The same as one document, written piece by piece: there may be many findings."""

    def begin(self) -> None:
        self._document = Document(self._out)
        self._document.begin()

    def _show(self, finding: Finding) -> None:
        self._document.add(finding.as_json())

    def end(self, error: str = "") -> None:
        summary = {
            "ok": not (self.stops or error), "error": error, "stops": self.stops, "failed": self._failed,
            "counts": {kind: count for kind, count in self._counts.items() if count},
            "looked_at": dict(self._gate.looked), "advice": self._advice(),
        }  # fmt: skip
        self._document.end(summary)
