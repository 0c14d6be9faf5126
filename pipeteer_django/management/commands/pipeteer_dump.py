"""`manage.py pipeteer_dump WORKFLOW KEY`: a run as a fixture, to be loaded on another machine."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core import serializers
from django.core.management.base import BaseCommand, CommandError
from django.core.serializers.json import DjangoJSONEncoder
from django.db import router

from pipeteer_django.exceptions import PipeteerError
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.copies import rows_of_run


class Command(BaseCommand):
    """Find the run, write its rows."""

    help = (
        "Write a run as a JSON fixture: its entry or output, its steps and messages, and the entries that it waits "
        "for. `manage.py loaddata` lets it go on elsewhere. Rows that its values refer to are not part of it."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("pipeline", metavar="id", help="The run's pipeline.")
        parser.add_argument("key", help="The run's key; of several runs the newest is meant.")
        parser.add_argument("-o", "--output", metavar="FILE", help="Where to write to, instead of stdout.")

    def handle(self, **options: Any) -> None:
        """Write the fixture; CommandError where there is no such run, or the file cannot be written."""
        try:
            pipeline = registry.find(options["pipeline"])
            rows = rows_of_run(pipeline, router.db_for_write(pipeline.Input), options["key"])
        except PipeteerError as error:
            raise CommandError(str(error)) from error
        text = serializers.serialize("json", rows, indent=2, cls=_Exact)
        if options["output"] is None:
            self.stdout.write(text)
            return
        try:
            Path(options["output"]).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{options['output']} cannot be written: {error}") from error
        if options["verbosity"]:
            self.stdout.write(f"{len(rows)} rows written to {options['output']}.")


class _Exact(DjangoJSONEncoder):
    """Django's keeps milliseconds of a moment only."""

    def default(self, o: Any) -> Any:
        """JSON for what JSON has no form for."""
        return o.isoformat() if isinstance(o, datetime) else super().default(o)
