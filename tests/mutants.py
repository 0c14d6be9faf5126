"""The engine with one safeguard taken out, to show that the tests would notice: `PIPETEER_MUTANT=no_fence`.

A mutant is applied inside a worker process, by the app `tests.perils`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from django.utils import timezone

from pipeteer_django.queues import atomic, claim, rows, settle, turn

VARIABLE = "PIPETEER_MUTANT"


def mutant(name: str) -> dict[str, str]:
    """The environment for a worker that lacks this safeguard."""
    assert name in MUTANTS
    return {VARIABLE: name}


def install() -> None:
    """Apply the mutant that the environment names, if any."""
    if name := os.environ.get(VARIABLE):
        MUTANTS[name]()
        print(f"<mutant {name}>", flush=True)


def no_fence() -> None:
    """Settle writes whatever it is given: every epoch counts as the row's, and a row that is gone as there."""
    real = settle.lock

    def lock(using: str, wanted: Any, **options: Any) -> Any:
        locked = real(using, wanted, **options)
        for id, ids in wanted.items():
            for missing in set(ids) - locked[id].keys():
                locked[id][missing] = _imagined(missing)
        return locked

    settle.lock = lock  # type: ignore[assignment]
    settle.hold_against = lambda tickets, *rest: settle.Settled(done=list(tickets))
    rows.delete_rows = lambda using, of, ids: rows.plain(of.Input, using).filter(id__in=list(ids)).delete()
    rows.all_written = lambda *arguments: None


def _imagined(id: int) -> rows.Row:
    return rows.Row(
        id=id, key=f"zombie-{id}", output="output", priority=0, caller="", step_id=None, epoch=1,
        available_at=timezone.now(), reserved_by="", attempt=1, crashes=0, suspended=False, deliveries=0, holder="",
        branch=0, started_at=None, created_at=timezone.now(), failed_at=None,
    )  # fmt: skip


def no_atomic_fence() -> None:
    """An atomic activity neither locks its row first nor looks at the epoch when it settles."""
    no_fence()
    atomic._fence = lambda *arguments: None


def no_claim_lock() -> None:
    """A claim takes what it saw, although another worker may have seen the same."""
    real = claim.select_rows

    def select_rows(*arguments: Any, **options: Any) -> Any:
        found = real(*arguments, **options | {"lock": False})
        time.sleep(0.05)  # a real race, only wider
        return found

    claim.select_rows = select_rows


def commits_believed_done() -> None:
    """Who gets no reply to a COMMIT takes it that it happened."""
    turn.resolve = lambda settled, claims, *rest: list(claims)
    atomic.resolve = lambda *arguments: []


def commits_believed_lost() -> None:
    """Who gets no reply to a COMMIT takes it that it did not happen."""
    turn.resolve = atomic.resolve = lambda *arguments: None


def transaction_trusted() -> None:
    """Nobody looks whether the transaction in which an atomic body began is still the one."""
    atomic._still_whole = lambda *arguments: None


MUTANTS: dict[str, Callable[[], None]] = {
    "no_fence": no_fence,
    "no_atomic_fence": no_atomic_fence,
    "no_claim_lock": no_claim_lock,
    "commits_believed_done": commits_believed_done,
    "commits_believed_lost": commits_believed_lost,
    "transaction_trusted": transaction_trusted,
}
