"""Runs that a worker keeps in memory while they wait: what happens next resumes them, and nothing is replayed.

Only a cache. A run that was left at epoch E is valid while its row sleeps at E, or when this worker's own claim has
moved it from E to E + 1. Everything here is called on the event loop's thread, except `kept`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from django.utils import timezone

from pipeteer_django.exceptions import InvalidValue
from pipeteer_django.pipelines.outcome import Cancelled, Done, Failed, Failure, Outcome, Parked, Released, Waiting
from pipeteer_django.pipelines.record import Record, RecordedStep
from pipeteer_django.pipelines.replay import Run
from pipeteer_django.queues.births import Place
from pipeteer_django.queues.claim import Claim
from pipeteer_django.queues.tickets import Settled, Ticket
from pipeteer_django.worker.attempts import spec_of

logger = logging.getLogger("pipeteer_django.worker")


@dataclass(slots=True)
class _Kept:
    run: Run
    claim: Claim
    """The claim by which it last ran."""
    epoch: int
    """Its row's epoch once it has been settled."""
    seen: int
    """The row's count of events when the run had taken all of them."""
    known: bool
    """Whether its open steps are among `Warm._steps`."""


class Warm:
    """At most `size` runs; the one that was left alone longest goes first."""

    def __init__(self, size: int, label: str) -> None:
        self._size = size
        self.holder = label if size else ""
        """What the rows of runs that it keeps say about who does."""
        self.replayed = 0
        """How many recorded steps it had to go through again."""
        self._kept: OrderedDict[Place, _Kept] = OrderedDict()
        self._pending: dict[Place, _Kept] = {}
        """Runs whose outcome waits to be settled."""
        self._steps: dict[tuple[str, int], tuple[Place, int]] = {}
        """The run and number of each open step of the runs kept, by workflow and row."""

    def __len__(self) -> int:
        return len(self._kept)

    def kept(self, pipeline_id: str, run_id: int) -> tuple[int, Sequence[int] | None] | None:
        """The epoch of a run in memory and the rows of the steps it waits for, None where these are not known yet.

        Called on the database thread.
        """
        place = (pipeline_id, run_id)
        if (kept := self._kept.get(place)) is not None:
            return kept.epoch, list(kept.run.open_steps.values())
        pending = self._pending.get(place)
        return None if pending is None else (pending.epoch, None)

    # A claimed run

    def run(self, claim: Claim) -> Outcome:
        """Run a claimed workflow as far as it goes: from where it was, or from its beginning."""
        place = (claim.pipeline.id, claim.id)
        kept = self._kept.pop(place, None)
        if claim.warm and (kept is None or kept.epoch != claim.epoch - 1):
            return Released()  # evicted since it was claimed, so what was read for it is not all
        if not claim.warm:
            self._close(kept)
            try:
                run = Run(spec_of(claim), claim.record)
            except InvalidValue as error:
                return Parked(Failure.of(error))
            kept = _Kept(run, claim, 0, 0, False)
            run.start()
            self.replayed += run.replayed
        assert kept is not None
        events, claim.record = claim.record.new(), Record()
        self._forget_steps(claim.pipeline.id, (event.id for event in events if isinstance(event, RecordedStep)))
        kept.run.feed(events, claim.now)
        kept.claim, kept.epoch, kept.seen = claim, claim.epoch + 1, claim.deliveries
        return self._outcome(place, kept)

    def _outcome(self, place: Place, kept: _Kept) -> Outcome:
        outcome = kept.run.outcome()
        self._close(self._pending.pop(place, None))
        if isinstance(outcome, Waiting) and self._size:
            self._forget_steps(place[0], outcome.cancelled)
            self._pending[place] = kept
        else:
            self._close(kept)
        return outcome

    # A run whose steps are just now being settled

    def advance(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        """These tickets, and those of sleeping runs that go on by what they deliver: settled in the same turn."""
        delivered: dict[Place, list[tuple[Ticket, int]]] = defaultdict(list)
        all_tickets: list[Ticket] = []
        for ticket in tickets:
            step = self._steps.pop((ticket.caller, ticket.step_id or 0), None)
            if step is not None and step[0] in self._kept and isinstance(ticket.outcome, (Done, Failed, Cancelled)):
                ticket = replace(ticket, parent=step[0][1])
                delivered[step[0]].append((ticket, step[1]))
            all_tickets.append(ticket)
        for place, results in delivered.items():
            kept = self._kept.pop(place)
            try:
                all_tickets.append(self._advance(place, kept, results))
            except Exception:
                # One run's trouble is not the worker's: the results wake it the ordinary way, and it is replayed.
                logger.exception("Could not go on with run %d of %s in memory.", place[1], place[0])
                self._close(self._pending.pop(place, kept))
        return all_tickets

    def _advance(self, place: Place, kept: _Kept, delivered: Sequence[tuple[Ticket, int]]) -> Ticket:
        kept.run.feed([_event(ticket, index) for ticket, index in delivered])
        epoch, claim = kept.epoch, kept.claim
        kept.epoch = epoch + 1
        outcome = self._outcome(place, kept)
        return Ticket(
            claim.pipeline, claim.id, epoch, outcome, kept.seen, claim.caller, claim.step_id, at=timezone.now(),
            claim=claim, holder=self.holder, advanced_by=tuple(ticket.place for ticket, _ in delivered),
        )  # fmt: skip

    # After the turn

    def settled(self, settled: Settled) -> None:
        """Keep the runs whose outcomes were written down; forget those whose were not."""
        for ticket in settled.done:
            kept = self._pending.pop(ticket.place, None)
            if ticket.place not in settled.epochs:
                self._close(kept)  # what it wanted written could not be, and its entry was parked
            elif kept is not None:
                kept.epoch = settled.epochs[ticket.place]
                self._keep(ticket.place, kept, settled.born.get(ticket.place, {}))
        for ticket in [*settled.lost, *settled.cold]:
            self._close(self._pending.pop(ticket.place, None))

    def _keep(self, place: Place, kept: _Kept, born: dict[int, int]) -> None:
        kept.run.recorded(born)
        for index, id in (born if kept.known else kept.run.open_steps).items():
            self._steps[place[0], id] = (place, index)
        kept.known = True
        self._kept[place] = kept
        while len(self._kept) > self._size:
            self._close(self._kept.popitem(last=False)[1])

    # Letting go

    def close(self) -> None:
        """Throw all runs away, quietly."""
        for kept in [*self._kept.values(), *self._pending.values()]:
            self._close(kept)
        self._kept.clear()
        self._pending.clear()

    def _close(self, kept: _Kept | None) -> None:
        if kept is not None:
            self._forget_steps(kept.claim.pipeline.id, list(kept.run.open_steps.values()))
            kept.run.close()

    def _forget_steps(self, workflow: str, ids: Iterable[int]) -> None:
        for id in ids:
            self._steps.pop((workflow, id), None)


def _event(ticket: Ticket, index: int) -> RecordedStep:
    """What the settle will write into the step, as the run will read it there if it is ever replayed."""
    assert ticket.step_id is not None
    at: datetime | None = ticket.at
    result, error = None, None
    if isinstance(ticket.outcome, Done):
        result = ticket.pipeline.output.to_json(ticket.outcome.value)
    else:
        assert isinstance(ticket.outcome, (Failed, Cancelled))
        error = ticket.outcome.failure.as_json()
    return RecordedStep(ticket.step_id, index, ticket.pipeline.id, None, ticket.id, result, error, at, None, None)
