"""`python -m tests.prove crashes --database postgres --sample 200`: the promises, proved in one way or another."""

from __future__ import annotations

import sys
from importlib import import_module

PARTS = {
    "crashes": "kill -9 before and after every statement and COMMIT",
    "mutants": "the project without one safeguard at a time",
    "values": "values and replays by the hundred thousand",
    "chaos": "thousands of workflows under kills, zombies and server crashes",
}
"""Each is a module of this package with a `main(arguments)` that returns the exit status."""


def main(arguments: list[str]) -> int:
    """Hand over to the part that is named first."""
    if not arguments or arguments[0] not in PARTS:
        lines = [f"  {name:<10} {what}" for name, what in PARTS.items()]
        print("\n".join(["python -m tests.prove PART [--help]", *lines]), file=sys.stderr)
        return 2
    return int(import_module(f"tests.prove.{arguments[0]}").main(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
