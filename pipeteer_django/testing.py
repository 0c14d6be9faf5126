"""For tests: run everything that is there, in this process and thread, without worker, proxy or sleeping.

Works in a plain TestCase: turns become savepoints of the test's transaction.
"""

from __future__ import annotations

from typing import Any

from django.db import connections

from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.database import Strategy, durable, nested
from pipeteer_django.queues.settle import Settled, Ticket
from pipeteer_django.queues.turn import Appetite, take_turn, ticket_of
from pipeteer_django.worker.attempts import Attempt, Ended, refuse, run_on_thread, run_workflow
from pipeteer_django.worker.intake import Intake
from pipeteer_django.worker.reports import Claims, report_settled, report_started
from pipeteer_django.worker.service import alias, chosen

_ROUNDS = 100_000


def drain(*pipelines: Pipeline[Any, Any], app: Any = None) -> int:
    """Run these pipelines (all if none are named) until nothing is ready; returns how many attempts were made.

    What is delayed, backing off or waiting for a person stays as it is. `app` becomes `ctx.app`.
    """
    served = list(pipelines) or chosen(())
    using = alias(served)
    commit: Strategy = nested if connections[using].in_atomic_block else durable
    intake = Intake(served, using)
    tickets: list[Ticket] = []
    claims: Claims = {}
    attempts = 0
    for _ in range(_ROUNDS):
        intake.look()
        turn = take_turn(
            tickets,
            Appetite("drain", 100, 100, True, intake.targets(100), frozenset(p.id for p in served)),
            using=using,
            commit=commit,
        )
        intake.learn(turn)
        report_settled(turn.settled, claims)
        report_started(turn.claims)
        if not turn.claims and not turn.settled.later and not intake.hot:
            return attempts
        attempts += len(turn.claims)
        claims |= {(claim.pipeline.id, claim.id): claim for claim in turn.claims}
        tickets = turn.settled.later
        for claim in turn.claims:
            ended = _run(Attempt(claim, app, using), commit)
            if isinstance(ended, Settled):
                report_settled(ended, claims)
            elif ended is not None:
                tickets.append(ticket_of(claim, ended))
    raise AssertionError(
        f"drain() made {_ROUNDS} turns without coming to an end. Does a workflow call itself for ever?"
    )


def _run(attempt: Attempt, commit: Strategy) -> Ended:
    refused = refuse(attempt.claim)
    if refused is not None:
        return refused
    if attempt.claim.pipeline.kind == "workflow":
        return run_workflow(attempt.claim)
    return run_on_thread(attempt, commit)
