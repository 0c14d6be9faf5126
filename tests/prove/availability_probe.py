"""A client that sits on a database server's own host and writes there, past everything that guards it.

    python -m tests.prove.availability_probe HOST URL

It prints a line for each COMMIT that was acknowledged: its number and the time. Two servers that acknowledge in turns
would be two primaries; a line whose row is gone in the end would be a lost commit.
"""

from __future__ import annotations

import itertools
import os
import sys
import time

import psycopg

_PAUSE = 0.1
_LONGEST = 3600.0
"""Seconds after which it ends by itself."""


def main(host: str, url: str) -> None:
    """Write until the end."""
    numbers = itertools.count()
    end = time.monotonic() + _LONGEST
    while time.monotonic() < end:
        try:
            with psycopg.connect(url, connect_timeout=2, autocommit=True) as connection:
                while time.monotonic() < end:
                    number = next(numbers)
                    connection.execute("INSERT INTO probes VALUES (%s, %s, %s)", [host, os.getpid(), number])
                    print(os.getpid(), number, time.monotonic(), flush=True)
                    time.sleep(_PAUSE)
        except psycopg.Error:
            time.sleep(_PAUSE)


if __name__ == "__main__":
    main(*sys.argv[1:])
