"""`manage.py pipeteer_audit [ids...]`: have the promises been kept, so far?"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, InterfaceError, connections, router

from pipeteer_django.auditing.audit import Audit
from pipeteer_django.auditing.rules import RULES, Finding
from pipeteer_django.checking.choice import WRONG, chosen
from pipeteer_django.checking.document import Document
from pipeteer_django.conf import settings
from pipeteer_django.pipelines.pipeline import Pipeline


class Command(BaseCommand):
    """Choose pipelines, look at each database, say what was found."""

    help = (
        "Look whether the rows of queues, outputs and steps are as they must be at any moment, and with a trail "
        "whether every run has a legal history and nothing that was acknowledged is lost. Reads only, in one snapshot, "
        "beside running workers. Exit status 0: all is well; 1: something is wrong; 2: there was no telling."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("pipelines", nargs="*", metavar="id", help="Pipelines to look at; none: all of them.")
        parser.add_argument(
            "--trail", type=Path, metavar="FOLDER", help="Where the trails are, if not where PIPETEER['AUDIT'] says."
        )
        parser.add_argument("--no-trail", action="store_true", help="Only the tables.")
        parser.add_argument("--database", metavar="ALIAS", help="Look there, instead of where each pipeline lives.")
        parser.add_argument(
            "--at-rest", action="store_true", help="No worker is at work: what a sweep would repair is wrong, too."
        )
        parser.add_argument("--json", action="store_true", help="One JSON document.")

    def handle(self, **options: Any) -> None:
        """Exit with the status that says it all."""
        audits = list(_audits(chosen(options["pipelines"]), options["database"], _trail(options)))
        kind = _Json if options["json"] else _Lines
        report = kind(self.stdout, audits, at_rest=options["at_rest"])
        report.begin()
        try:
            for audit in audits:
                for finding in audit.findings():
                    report.add(finding)
        except (DatabaseError, InterfaceError, FileNotFoundError) as error:
            message = f"The audit came to no end: {str(error).strip()}"
            report.end(message)
            raise CommandError(message, returncode=WRONG) from error
        report.end()
        if report.wrong:
            sys.exit(1)


def _trail(options: dict[str, Any]) -> Path | None:
    folder = options["trail"] or settings().AUDIT
    return None if options["no_trail"] or folder is None else Path(folder)


def _audits(pipelines: Sequence[Pipeline[Any, Any]], database: str | None, trail: Path | None) -> Iterator[Audit]:
    """One for each database."""
    if database is not None and database not in connections:
        known = ", ".join(sorted(connections))
        raise CommandError(f"There is no database {database!r} in settings.DATABASES, only {known}.", returncode=WRONG)
    aliases = {pipeline.id: database or router.db_for_read(pipeline.Input) for pipeline in pipelines}
    for using in sorted(set(aliases.values())):
        yield Audit([pipeline for pipeline in pipelines if aliases[pipeline.id] == using], using, trail)


class _Lines:
    """Writes each finding as it comes, and at the end what there was, what it means and what to do."""

    def __init__(self, out: Any, audits: Sequence[Audit], *, at_rest: bool) -> None:
        self._out, self._audits, self._at_rest = out, audits, at_rest
        self._counts: Counter[str] = Counter()
        """Findings by rule."""

    @property
    def wrong(self) -> int:
        """How many findings there are that should not be."""
        weights = ("wrong", "pending") if self._at_rest else ("wrong",)
        return sum(count for rule, count in self._counts.items() if RULES[rule].weight in weights)

    def begin(self) -> None:
        """Before the first finding."""

    def add(self, finding: Finding) -> None:
        """Write one down."""
        self._counts[finding.rule] += 1
        self._show(finding)

    def _show(self, finding: Finding) -> None:
        self._out.write(str(finding))

    def end(self, error: str = "") -> None:
        """After the last one."""
        if error:
            return
        for id, balance in self._balances().items():
            self._out.write(f"{id}: {balance}.")
        for line in self._remarks():
            self._out.write(line)
        self._out.write(f"Looked at {self._looked()}.")
        for rule, count in sorted(self._counts.items()):
            said = RULES[rule]
            self._out.write(f"\n{rule}, {count} times. {said.sentence}\n  {said.means}\n  {said.advice}")
        self._out.write(self._verdict())

    def _verdict(self) -> str:
        if self.wrong:
            return f"\n{self.wrong} findings are wrong."
        return "All is well." if not self._counts else "\nNothing is wrong."

    def _balances(self) -> dict[str, str]:
        found = [audit.comparison for audit in self._audits if audit.comparison]
        return {id: str(balance) for each in found for id, balance in sorted(each.balances.items())}

    def _remarks(self) -> list[str]:
        found = [audit.comparison for audit in self._audits if audit.comparison]
        unknown = sorted({id for each in found for id in each.unknown})
        remarks = [f"The trail also speaks of {', '.join(unknown)}, which this code does not know."] if unknown else []
        damaged = sum(audit.looked["damaged"] for audit in self._audits)
        return remarks + ([f"{damaged} lines of the trail cannot be read."] if damaged else [])

    def _looked(self) -> str:
        names = ("entries", "outputs", "steps", "messages", "lines", "files")
        looked = sum((audit.looked for audit in self._audits), Counter[str]())
        return ", ".join(f"{looked[name]} {name}" for name in names if looked[name]) or "nothing: all tables are empty"


class _Json(_Lines):
    """The same as one document."""

    def begin(self) -> None:
        self._document = Document(self._out)
        self._document.begin()

    def _show(self, finding: Finding) -> None:
        self._document.add(finding.as_json())

    def end(self, error: str = "") -> None:
        looked = sum((audit.looked for audit in self._audits), Counter[str]())
        self._document.end(
            {
                "ok": not (self.wrong or error), "error": error, "wrong": self.wrong, "counts": dict(self._counts),
                "balances": self._balances(), "remarks": self._remarks(), "looked_at": dict(looked),
            }
        )  # fmt: skip
