"""A sample of the crash points, on the database of this leg; `make prove` takes all of them. And that it bites."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection, connections
from django.db.backends.signals import connection_created

from tests.prove.lanes import in_child
from tests.prove.points import Point, Watch, shape
from tests.prove.scenarios import SCENARIOS
from tests.prove.worlds import clean, play

ROOT = Path(__file__).resolve().parent.parent.parent
SEED = os.environ.get("PIPETEER_CRASHES_SEED", "7")
SAMPLE = os.environ.get("PIPETEER_CRASHES_SAMPLE", "60")

pytestmark = pytest.mark.timeout(400)


def crashes(*arguments: str) -> tuple[int, str]:
    """Its exit status, and all that it said."""
    command = [sys.executable, "-m", "tests.prove", "crashes", "--database", settings.TEST_DATABASE, "--quiet"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=380)
    print(done.stdout, done.stderr)  # shown where the test fails
    return done.returncode, done.stdout


def counts(text: str) -> list[int]:
    """The last line of its table: points, tried, crashed, recovered, not met, wrong."""
    line = re.findall(r"^│ all +│.*$", text, re.MULTILINE)[-1]
    return [int(number) for number in re.findall(r"\d+", line)]


def test_all_is_recovered_wherever_it_crashes() -> None:
    status, text = crashes("--sample", SAMPLE, "--seed", SEED)
    assert status == 0
    _points, tried, crashed, recovered, unmet, wrong = counts(text)
    assert tried == int(SAMPLE) == crashed + unmet
    assert recovered == crashed
    assert wrong == 0
    assert unmet <= tried // 10


@pytest.mark.skipif(connection.vendor != "sqlite", reason="the prover is the same everywhere, and SQLite the fastest")
@pytest.mark.parametrize(
    ("mutant", "scenario", "matching", "says"),
    [
        ("effect_apart", "atomic", "COMMIT", "'one', 'one', 'two'"),
        ("output_apart", "activity", "DELETE FROM", "the process that recovers ended"),
        ("result_apart", "atomic_steps", "SET crashes", "WRONG"),
        ("child_apart", "call", "doubleinput", "Vanished"),
        ("attempt_uncounted", "activity", "COMMIT", "its attempt was not counted"),
        ("no_sweep", "atomic_steps", "COMMIT", "the process that recovers ended"),
    ],
)
def test_it_bites(mutant: str, scenario: str, matching: str, says: str) -> None:
    """A transaction torn in two, a claim that counts nothing, a repair that is left out: each is found."""
    only = ("--scenario", scenario, "--matching", matching, "--patience", "8")
    status, text = crashes(*only, "--mutant", mutant)
    assert status == 1
    assert says in text
    assert f"--mutant {mutant}" in text  # the command that repeats it


@pytest.mark.skipif(connection.vendor != "sqlite", reason="the other drivers do not tell what they send")
@pytest.mark.parametrize("name", ["call", "cancel", "consume"])
def test_no_statement_escapes_the_watch(transactional_db: None, tmp_path: Path, name: str) -> None:
    """What SQLite itself says that it executed is what was watched, whichever door it came through."""

    def work() -> dict[str, Any]:
        scenario, watch, executed = SCENARIOS[name], Watch(), Counter[str]()
        clean(scenario)
        connections.close_all()

        def trace(sql: str) -> None:
            if not watch.away:
                executed[sql.split()[0]] += 1

        def created(sender: Any, connection: Any, **kwargs: Any) -> None:
            connection.connection.set_trace_callback(trace)

        connection_created.connect(created)
        watch.install()
        play(scenario, watch)
        return {"watched": Counter(sql.split()[0] for sql in watch.statements), "executed": executed}

    connections.close_all()
    status, answer = in_child(work, tmp_path / "log")
    assert status == 0, (tmp_path / "log").read_text()
    assert answer is not None
    assert answer["watched"] == answer["executed"]
    assert answer["watched"]["COMMIT"] > 4


def test_a_point_is_the_same_in_each_run() -> None:
    one = shape("UPDATE t SET a = 'x''y', b = 12 WHERE id IN (1, 2, 3) AND c = %s")
    two = shape("UPDATE t SET a = '', b = 3.5\n WHERE id IN (7) AND c = %s")
    assert one == two
    assert Point("body", one, 2, "after").name == Point("body", two, 2, "after").name


def test_only_repeated_looks_are_left_out() -> None:
    """An idle worker's; whatever stands in a transaction counts each time."""
    watch = Watch()

    class Idle:
        in_atomic_block = False

    class Busy:
        in_atomic_block = True

    for connection_ in (Idle, Idle, Busy):
        watch.around(connection_, "SELECT 1", lambda: None)
    assert [(point.number, point.side) for point in watch.passed] == [
        (1, "before"), (1, "after"), (2, "before"), (2, "after"),
    ]  # fmt: skip
