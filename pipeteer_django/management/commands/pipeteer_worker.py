"""`manage.py pipeteer_worker [ids...]`: run pipelines."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from pipeteer_django.exceptions import PipeteerError
from pipeteer_django.worker.reloading import serve_reloading
from pipeteer_django.worker.service import Options, prepare, serve
from pipeteer_django.worker.supervisor import supervise


class Command(BaseCommand):
    """Parse, prepare, serve."""

    help = "Run pipelines: the ones named, or all. Hosts the wake-up proxy itself if none answers on this machine."
    requires_system_checks = "__all__"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("pipelines", nargs="*", metavar="id", help="Pipelines to run; none: all of them.")
        parser.add_argument("--concurrency", type=_positive, help="Entries run at once (PIPETEER['CONCURRENCY']).")
        parser.add_argument("--processes", type=_positive, default=1, help="Worker processes to keep running.")
        parser.add_argument("--grace", type=float, help="Seconds to finish after SIGTERM (PIPETEER['GRACE']).")
        parser.add_argument("--drain", action="store_true", help="Finish what is there, then exit.")
        parser.add_argument("--reload", action="store_true", help="Restart when code changes, as runserver does.")

    def handle(self, **options: Any) -> None:
        """Run until stopped, or until nothing is left with --drain."""
        chosen = Options(
            ids=tuple(options["pipelines"]), concurrency=options["concurrency"], grace=options["grace"],
            drain=options["drain"], verbosity=options["verbosity"],
        )  # fmt: skip
        try:
            prepare(chosen)
            if options["reload"]:
                serve_reloading(chosen)
            elif options["processes"] > 1:
                supervise(options["processes"], chosen)
            else:
                serve(chosen)
        except (PipeteerError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
