"""`manage.py pipeteer_prune [ids...]`: delete what is history."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import models, router
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pipeteer_django.exceptions import PipeteerError
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues import prune

_UNITS = {"": "days", "d": "days", "h": "hours", "m": "minutes"}


class Command(BaseCommand):
    """Choose pipelines, prune each to the end, say what went."""

    help = "Delete outputs, steps and messages that are older than their pipeline's retention. Workers do it, too."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("pipelines", nargs="*", metavar="id", help="Pipelines to prune; none: all of them.")
        parser.add_argument(
            "--older-than", type=_age, metavar="AGE", help="Days, or 30d, 12h, 90m; instead of the retention."
        )
        parser.add_argument("--dry-run", action="store_true", help="Delete nothing, count what would go.")

    def handle(self, **options: Any) -> None:
        """Prune, with the counts on a terminal while it lasts."""
        age, dry_run = options["older_than"], options["dry_run"]
        counts: Counter[str] = Counter()
        with _progress(counts) as show:
            for pipeline in _chosen(options["pipelines"], age):
                using = router.db_for_write(pipeline.Output)
                prune.prune_all([pipeline], using, older_than=age, dry_run=dry_run, progress=show)
        for table, count in counts.items():
            if count or options["verbosity"] > 1:
                self.stdout.write(f"{table}: {count} rows {'would go' if dry_run else 'deleted'}.")
        if not counts.total():
            self.stdout.write("Nothing is old enough.")


def _chosen(ids: list[str], age: timedelta | None) -> list[Pipeline[Any, Any]]:
    """The pipelines that are named; without names all, but for those that are declared to be kept for ever."""
    try:
        named = [registry.find(id) for id in ids]
    except PipeteerError as error:
        raise CommandError(str(error)) from error
    for pipeline in named:
        if age is None and prune.retention_of(pipeline) is None:
            raise CommandError(f"{pipeline.id} is kept for ever. Say what is to go: --older-than.")
    return named or [pipeline for pipeline in registry if pipeline.retention is not None]


@contextmanager
def _progress(counts: Counter[str]) -> Iterator[prune.Progress]:
    """Yields what to call after each page; it adds to `counts`."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}: {task.completed} rows"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("Pruning", total=None)

        def show(model: type[models.Model], count: int) -> None:
            counts[model._meta.label] += count
            progress.update(bar, description=model._meta.label, completed=counts[model._meta.label])

        yield show


def _age(text: str) -> timedelta:
    given = re.fullmatch(r"(\d{1,6})([dhm]?)", text)
    if given is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age: write days (30 or 30d), hours (12h) or minutes (90m)")
    return timedelta(**{_UNITS[given[2]]: int(given[1])})
