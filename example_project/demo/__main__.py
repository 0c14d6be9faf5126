"""`python -m example_project.demo`: see run.py. This half only makes a place of its own before Django starts."""

import os
import sys
import tempfile
from pathlib import Path

import django

from example_project.processes import free_ports, stop_on_sigterm


def main() -> int:
    """Run the demo in a temporary folder, on ports of its own, so that it meets nothing that is already here."""
    stop_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="pipeteer-demo-") as folder:
        publish, subscribe = free_ports(2)
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "example_project.settings",
            "DATABASE_URL": f"sqlite:///{folder}/demo.sqlite3",
            "PIPETEER_PUB_URL": f"tcp://127.0.0.1:{publish}",
            "PIPETEER_SUB_URL": f"tcp://127.0.0.1:{subscribe}",
            "PIPETEER_RESERVE_SECONDS": "3",  # a killed worker's entries are taken over after so long
        }
        django.setup()
        from example_project.demo.run import run  # it imports models, which exist only now

        return run(Path(folder), subscribe)


if __name__ == "__main__":
    sys.exit(main())
