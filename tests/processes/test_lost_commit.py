"""COMMITs whose reply is lost, and COMMITs that are lost themselves: the worker finds out which, on a new connection.

`make faults` cuts a thousand.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
from django.db import transaction

from tests.conftest import StartManage
from tests.mutants import mutant
from tests.perils.pipelines import errand, linger, linger_atomic
from tests.testapp.models import Ledger

from .line import Line, Wire
from .tools import ON_SQLITE, consume, eventually, finished, log, ready, stop

CUTS = int(os.environ.get("PIPETEER_CUTS", "40"))
SEED = int(os.environ.get("PIPETEER_PROVE_SEED", "11"))
pytestmark = [
    pytest.mark.skipif(ON_SQLITE, reason="SQLite has no line that could be cut"),
    pytest.mark.timeout(180 + 2 * CUTS),
]
WAVE = 20
"""Entries of each kind that are under way at once."""
COMMITS = (b"COMMIT\x00", b"\x07\x00\x00\x00\x03COMMIT")
"""As PostgreSQL's and MariaDB's protocols send it."""
BEGINNINGS = (b"BEGIN", b"AUTOCOMMIT")


class Scissors:
    """Cuts a connection before a COMMIT gets through, or after it did and before its reply does."""

    def __init__(self, share: float = 0.2) -> None:
        self._share, self._random = share, random.Random(SEED)
        self.cuts: Counter[str] = Counter()
        """By kind: "turn" or "atomic", and which way was lost."""

    def __call__(self, wire: Wire, data: bytes, from_server: bool) -> bool:
        notes = wire.notes
        if from_server:
            return self._cut(notes.pop("doomed", ""))
        said = data.upper()
        if any(beginning in said for beginning in BEGINNINGS):
            notes["kind"] = "turn"
        if b"TESTAPP_LEDGER" in said:
            notes["kind"] = "atomic"
        if any(commit in said for commit in COMMITS) and self._random.random() < self._share:
            kind = notes.get("kind", "turn")
            if self._random.random() < 0.25:
                return self._cut(f"{kind}, request")
            notes["doomed"] = f"{kind}, reply"
        return False

    def _cut(self, kind: str) -> bool:
        self.cuts.update([kind] if kind else [])
        return bool(kind)


def wave(number: int) -> None:
    with transaction.atomic():
        for n in range(WAVE):
            errand.enqueue(0.0, key=f"{number}-{n}")
            linger.enqueue(0.0, key=f"{number}-{n}")


def assert_exact(waves: int, taken: list[tuple[str, int, int]]) -> None:
    """Each run had its output once; no body ran twice but an atomic one whose COMMIT had not happened."""
    assert len(taken) == len(set(taken)) == 2 * waves * WAVE
    assert {attempt for id, _, attempt in taken} == {1}
    assert Ledger.objects.filter(name="linger").count() == waves * WAVE
    atomic = Ledger.objects.filter(name="linger_atomic")
    assert atomic.count() == len(set(atomic.values_list("run_id", flat=True))) == 2 * waves * WAVE
    assert not linger_atomic.Input.objects.exists()


def test_nothing_is_lost_or_doubled(start_worker: StartManage, make_line: Callable[..., Line]) -> None:
    scissors = Scissors()
    worker = start_worker(
        "errand", "linger_atomic", "linger", "--concurrency", "8", env=make_line(scissors).environment
    )
    ready(worker)
    waves, taken = 0, []
    while scissors.cuts.total() < CUTS or waves < 2:
        wave(waves)
        waves += 1
        for pipeline in (errand, linger):
            eventually(finished(pipeline, WAVE), f"the {pipeline.id}s are finished", within=90)
            # Consumed and deleted: a second output could not hide behind the first.
            taken += [(pipeline.id, entry.run_id, entry.attempt) for entry in consume(pipeline)]  # type: ignore[attr-defined]
    print(f"{waves} waves, cuts: {dict(scissors.cuts)}")
    assert_exact(waves, taken)
    assert {kind.split(",")[0] for kind in scissors.cuts} == {"turn", "atomic"}
    stop(worker)
    said = log(worker)
    assert "given up\n" not in said
    assert "lease was lost" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("name", ["commits_believed_done", "commits_believed_lost"])
def test_who_does_not_look_is_wrong(start_worker: StartManage, make_line: Callable[..., Line], name: str) -> None:
    """The same with workers that take it one way or the other: this test can fail."""
    line = make_line(Scissors())
    worker = start_worker(
        "errand", "linger_atomic", "linger", "--concurrency", "8", env=line.environment | mutant(name)
    )
    ready(worker)
    wave(0)

    def again() -> bool:
        """Something ran, or was claimed, a second time, although no worker died."""
        twice = linger.Input.objects.filter(attempt__gt=1) | linger.Input.objects.filter(crashes__gt=0)
        return twice.exists() or linger.Output.everything.filter(attempt__gt=1).exists()

    def over(waves: int) -> bool:
        return again() or finished(linger, WAVE * waves)()

    waves = 1
    while not again():
        eventually(partial(over, waves), "the lingers are finished", within=90)
        wave(waves)
        waves += 1
