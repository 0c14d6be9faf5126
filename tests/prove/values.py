"""Values and replays by the hundred thousand: every database gives the same verdict and gives back the same.

    python -m tests.prove.values                                      100,000 values, 100,000 replays, three databases
    python -m tests.prove.values --examples 5000 --database sqlite --seed 7
    python -m tests.prove.values --examples 0 --replays 100000

Each value is judged before any database is asked. What is accepted goes through the engine's own INSERT, hundreds of
rows in a statement, into a queue's column and into a step's, and is read back by the engine's own SELECT. What was
false is made as small as Hypothesis can, and printed with the seed that leads to it.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any, Protocol

import django
from django.conf import settings
from django.db import connections

from tests import databases
from tests.databases import URL_VARIABLES, VENDORS, Unavailable

ROUND = 5_000
"""Examples after which Hypothesis forgets what it has tried: more would fill the memory."""


class Proof(Protocol):
    """Something to be tried with many examples."""

    done: int

    def round(self, number: int, seed: int) -> None:
        """Try about so many. Raises what Hypothesis raises for the smallest that is false."""

    @property
    def report(self) -> str:
        """What was tried."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prove it, with progress. Returns 1, and prints the smallest example that was found, if anything is false."""
    options = _parser().parse_args(arguments)
    started = time.monotonic()
    with ExitStack() as stack:
        try:
            aliases = _set_up([options.database] if options.database else VENDORS, stack)
        except Unavailable as error:
            print(f"Not all databases can be had; name one with --database. {error}")
            return 1
        try:
            _prove(options, aliases)
        except Exception:
            traceback.print_exc()  # Hypothesis has noted in it the smallest example that it found
            print(f"FALSE. Again: python -m tests.prove values --seed {options.seed}")
            return 1
    print(f"All is well, after {time.monotonic() - started:.0f} s. The seed was {options.seed}.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.prove values", description=__doc__.split("\n\n")[0])
    parser.add_argument("--examples", type=int, default=100_000, metavar="N", help="Values, for all databases.")
    parser.add_argument("--replays", type=int, default=100_000, metavar="N", help="Replays of random workflows.")
    parser.add_argument("--database", choices=VENDORS, help="On this one only.")
    parser.add_argument("--seed", type=int, default=11, help="Of all choices.")
    return parser


def _prove(options: argparse.Namespace, aliases: Sequence[str]) -> None:
    # They look at the engine, which has models.
    store, replays = import_module("tests.prove.values_store"), import_module("tests.prove.values_replays")
    if options.examples:
        with _databases_of_our_own(aliases), store.tables(aliases) as tables:
            rounds(store.Values(tables, aliases), options.examples, options.seed)
    if options.replays:
        logging.disable(logging.ERROR)  # random workflows fail, and some leave exceptions unretrieved
        rounds(replays.Replays(), options.replays, options.seed)


def rounds(proof: Proof, number: int, seed: int) -> None:
    """Try so many, some thousands at a time, and say how far it has come."""
    started = time.monotonic()
    while proof.done < number:
        proof.round(min(ROUND, number - proof.done), seed)
        seed += 1
        print(f"{time.monotonic() - started:6.0f} s  {proof.report}", file=sys.stderr, flush=True)
    print(proof.report)


# Django, with a database of each vendor


def _set_up(vendors: Sequence[str], stack: ExitStack) -> list[str]:
    """Configure Django as the tests do, with all these databases at once; returns their aliases."""
    for vendor in vendors:
        if url := stack.enter_context(databases.available(vendor)):
            os.environ[URL_VARIABLES[vendor]] = url
    # One of them has to be the default.
    aliases = {"default" if number == 0 else vendor: vendor for number, vendor in enumerate(vendors)}
    base = import_module("tests.settings")
    entries = {alias: databases.entry(vendor) for alias, vendor in aliases.items()}
    for entry in entries.values():
        entry["TEST"]["MIGRATE"] = False
    settings.configure(**{name: getattr(base, name) for name in dir(base) if name.isupper()} | {"DATABASES": entries})
    django.setup()
    return list(aliases)


@contextmanager
def _databases_of_our_own(aliases: Sequence[str]) -> Iterator[None]:
    with ExitStack() as stack:
        for alias in aliases:
            creation: Any = connections[alias].creation
            name = connections[alias].settings_dict["NAME"]
            creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
            stack.callback(creation.destroy_test_db, name, verbosity=0)
        yield


if __name__ == "__main__":
    sys.exit(main())
