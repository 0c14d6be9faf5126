"""`manage.py pipeteer_keys FOLDER [NAME...]`: CURVE keys, so that wake-ups may cross hosts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from pipeteer_django.wakeups.keyring import Keyring, KeyringError

_KNEW_ALL = (
    " It knew the proxy's secret key: if it is not to be trusted any more, make keys in a new FOLDER for all hosts."
)


class Command(BaseCommand):
    """Make or remove, then say what to copy where."""

    help = (
        "Make CURVE keys for wake-ups between hosts: one key pair for the proxy and one for each host named. What is "
        "there is never overwritten. Keep FOLDER where only you can read it; copy FOLDER/hosts/NAME to the host NAME."
    )
    requires_system_checks: list[str] = []  # one of them says that there are no keys yet

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("folder", type=Path, metavar="FOLDER", help="Where all keys are kept.")
        parser.add_argument("names", nargs="*", metavar="NAME", help="Hosts that shall have keys.")
        parser.add_argument("--proxy", action="append", default=[], metavar="NAME", help="May also run the proxy.")
        parser.add_argument("--remove", action="append", default=[], metavar="NAME", help="Shall not connect any more.")

    def handle(self, **options: Any) -> None:
        """Change what was asked for, and list what there is."""
        ring = Keyring(options["folder"])
        try:
            for name in dict.fromkeys(options["remove"]):
                self.stdout.write(f"{name}: removed.{_KNEW_ALL if ring.remove(name) else ''}")
            for name in dict.fromkeys([*options["names"], *options["proxy"]]):
                made = ring.add(name)
                self.stdout.write(f"{name}: {'keys made' if made else 'has keys already, which were kept'}.")
            for name in dict.fromkeys(options["proxy"]):
                ring.let_host(name)
            ring.spread()
            self._list(ring, changed=bool(options["names"] or options["proxy"] or options["remove"]))
        except KeyringError as error:
            raise CommandError(str(error)) from error

    def _list(self, ring: Keyring, changed: bool) -> None:
        hosts, proxies = ring.hosts(), ring.proxies()
        if not hosts:
            raise CommandError(f"{ring.folder} has keys of no host. Name some: manage.py pipeteer_keys FOLDER NAME ...")
        self.stdout.write("\nCopy each folder to its host, readable by the user who runs Django there (0600), and name")
        self.stdout.write('it in settings.PIPETEER["CURVE_KEYS"]:\n')
        for name in hosts:
            may = "  (may run the proxy)" if name in proxies else ""
            self.stdout.write(f"  {name}: {ring.of(name)}{may}")
        if not proxies:
            self.stdout.write("\nNo host may run the proxy yet. Name one with --proxy.")
        elif changed:
            self.stdout.write(
                f"\nThe list of hosts that may connect is on {', '.join(proxies)}: copy there again, deleting what is "
                "not in the copy (rsync --delete). New hosts are let in at once. A removed one is cut off when the "
                "proxy is restarted."
            )
