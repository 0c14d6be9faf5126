"""Directed faults at full size: a thousand lost COMMITs, poison among a thousand entries, dead lines, servers, disks.

    python -m tests.prove faults                                        on each database
    python -m tests.prove faults --database postgres -- -k lost_commit  the rest goes to pytest

They are tests of tests/processes, which every `make test` runs in a smaller size.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from tests import run
from tests.databases import VENDORS

KINDS = (
    "zombie", "lost_commit", "silent", "poison", "half_open", "server", "disk", "clocks", "contention", "outage",
    "kill", "leases",
)  # fmt: skip
FULL = {"PIPETEER_PROVE": "full", "PIPETEER_CUTS": "1000"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 only if all of them passed on each database."""
    ours, pytests = run.split(list(sys.argv[1:] if arguments is None else arguments))
    parser = argparse.ArgumentParser(prog="python -m tests.prove faults", description=__doc__.split("\n\n")[0])
    parser.add_argument("--database", choices=VENDORS, help="On this one only.")
    options = parser.parse_args(ours)
    os.environ |= FULL
    files = [f"tests/processes/test_{kind}.py" for kind in KINDS]
    return run.main(["--only", options.database or ",".join(VENDORS), "--", *files, *pytests])


if __name__ == "__main__":
    sys.exit(main())
