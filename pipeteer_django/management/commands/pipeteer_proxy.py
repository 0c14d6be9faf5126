"""`manage.py pipeteer_proxy`: a stand-alone wake-up proxy."""

from __future__ import annotations

import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from pipeteer_django.conf import settings
from pipeteer_django.wakeups import Proxy


class Command(BaseCommand):
    """Bind, forward, stop on SIGTERM or Ctrl-C."""

    help = "Forward wake-ups between processes. Workers host a proxy by themselves; this is for having it alone."

    def handle(self, **options: Any) -> None:
        """Run until stopped."""
        pub, sub = settings().PUB_URL, settings().SUB_URL
        proxy = Proxy(pub, sub)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: proxy.stop())
        if not proxy.start():
            raise CommandError(
                f"{pub} or {sub} is in use: a worker or another pipeteer_proxy hosts the proxy already, or some other "
                'program has the port. Stop it, or choose others in settings.PIPETEER["PUB_URL"] and ["SUB_URL"].'
            )
        self.stdout.write(f"Wake-up proxy: publishers {pub}, subscribers {sub}. Ctrl-C stops it.")
        proxy.run()
