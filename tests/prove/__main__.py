"""`python -m tests.prove crashes --database postgres --sample 200`: the promises, proved in one way or another.

`python -m tests.prove all` is all of it at full size, one part after the other, with a summary: that takes a night.
"""

from __future__ import annotations

import subprocess
import sys
import time
from importlib import import_module

PARTS = {
    "crashes": "kill -9 before and after every statement and COMMIT",
    "faults": "zombies, lost COMMITs, poison, dead lines, servers that crash, full disks, wrong clocks",
    "mutants": "the project without one safeguard at a time",
    "values": "values and replays by the hundred thousand",
    "chaos": "thousands of workflows under kills, zombies and server crashes",
    "availability": "PostgreSQL with a synchronous standby, whose primary is lost under load",
}
"""Each is a module of this package with a `main(arguments)` that returns the exit status."""
NOT_RUN = 75
"""The exit status of a part that lacks something here, and says what."""
WORDS = {0: "well", NOT_RUN: "NOT RUN"}


def main(arguments: list[str]) -> int:
    """Hand over to the part that is named first."""
    if arguments == ["all"]:
        return everything()
    if not arguments or arguments[0] not in PARTS:
        lines = [f"  {name:<12} {what}" for name, what in {**PARTS, "all": "one after the other"}.items()]
        print("\n".join(["python -m tests.prove PART [--help]", *lines]), file=sys.stderr)
        return 2
    return int(import_module(f"tests.prove.{arguments[0]}").main(arguments[1:]))


def everything() -> int:
    """Each part in a process of its own, and a summary."""
    lines, statuses = [], []
    for name, what in PARTS.items():
        began = time.monotonic()
        statuses.append(subprocess.call([sys.executable, "-m", "tests.prove", name]))
        word = WORDS.get(statuses[-1], "WRONG")
        lines.append(f"  {word:<8} {name:<12} {what}, {time.monotonic() - began:.0f} s")
    print("\n".join(["", "python -m tests.prove all", *lines]))
    return max(0 if status == NOT_RUN else status for status in statuses)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
