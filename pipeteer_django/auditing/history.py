"""Whether the events of one run form a legal history, by the trails alone.

An entry's epochs are like the words of a lock: each is written once and left once. A claim of epoch n leaves n - 1 and
writes n; to settle it leaves n, and writes the next where the entry stays in its queue. A worker's crash, or a lost
line, only leaves epochs of which nothing is known, and every history with such holes is legal. What was settled in
doubt (the reply to COMMIT was lost) may have been somebody else's doing and proves nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from pipeteer_django.auditing.reading import Event

ENDS = ("deleted", "pushed")
"""What people do that takes an entry out of its queue."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A rule that some events break together."""

    rule: str
    text: str
    events: tuple[Event, ...]


@dataclass(slots=True)
class History:
    """What is known of one run."""

    events: Sequence[Event]
    writes: dict[int, list[Event]] = field(default_factory=lambda: defaultdict(list))
    leaves: dict[int, list[Event]] = field(default_factory=lambda: defaultdict(list))
    ends: list[Event] = field(default_factory=list)
    claims: list[Event] = field(default_factory=list)
    births: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        for event in self.events:
            if event.kind == "enqueued":
                self.births.append(event)
            elif event.kind == "claimed":
                self.claims.append(event)
                self._moves(event, (event.epoch or 0) - 1, event.epoch)
            elif event.kind == "settled" and event.proved:
                self._settled(event)
            elif event.kind == "moved" and event.facts["verb"] in ENDS:
                self.ends.append(event)
            elif event.kind == "moved" and event.epoch is not None:
                self._moves(event, event.epoch - 1, event.epoch)

    def _settled(self, event: Event) -> None:
        following = event.facts["next"]
        if following is None:
            self.ends.append(event)
        if following != event.epoch:  # a run that went on in memory, and sleeps on as it did, moved nothing
            self._moves(event, event.epoch or 0, following)

    def _moves(self, event: Event, before: int, after: int | None) -> None:
        self.leaves[before].append(event)
        if after is not None:
            self.writes[after].append(event)

    @property
    def reached(self) -> int:
        """The last epoch that was acknowledged before the database was looked at."""
        return max((epoch for epoch, events in self.writes.items() if not all(e.late for e in events)), default=0)

    def faults(self, gaps: Collection[int] = ()) -> Iterator[Fault]:
        """What is not legal. `gaps`: files whose lines may lack some in the middle."""
        if len(self.births) > 1:
            # Two lives in one: whatever else there is to say about them is the consequence.
            yield Fault("H6", "it was enqueued more than once", tuple(self.births))
            return
        yield from self._moved_twice()
        yield from self._ended_twice()
        yield from self._unclaimed(gaps)
        yield from self._falling()

    def _moved_twice(self) -> Iterator[Fault]:
        told: set[frozenset[Event]] = set()
        for rule, verb, moves in (("H2", "left", self.leaves), ("H1", "written", self.writes)):
            for epoch, events in sorted(moves.items()):
                together = frozenset(events)
                # (two ends of one epoch are told as such)
                if len(events) > 1 and together not in told and not together.issubset(self.ends):
                    told.add(together)
                    yield Fault(rule, f"its epoch {epoch} was {verb} {len(events)} times", tuple(events))

    def _ended_twice(self) -> Iterator[Fault]:
        if len(self.ends) > 1:
            yield Fault("H5", f"it ended {len(self.ends)} times", tuple(self.ends))
        known = [event for event in self.ends if event.epoch is not None]
        for end in known[:1]:
            later = [event for epoch, events in self.writes.items() if epoch > (end.epoch or 0) for event in events]
            if later:
                yield Fault("H4", f"it ended at epoch {end.epoch}, and was moved afterwards", (end, *later))

    def _unclaimed(self, gaps: Collection[int]) -> Iterator[Fault]:
        claimed: dict[tuple[int, int | None], int] = {}
        for claim in self.claims:
            claimed.setdefault((claim.file, claim.epoch), claim.line)
        for event in self.events:
            if event.kind != "settled" or not event.facts.get("claimed", True) or event.file in gaps:
                continue
            if claimed.get((event.file, event.epoch), event.line) >= event.line:
                yield Fault("H3", f"it was settled at epoch {event.epoch}, which nobody there had claimed", (event,))

    def _falling(self) -> Iterator[Fault]:
        last: dict[int, Event] = {}
        for claim in self.claims:
            before = last.get(claim.file)
            if before is not None and (claim.epoch or 0) <= (before.epoch or 0) and claim.epoch != before.epoch:
                text = f"epoch {claim.epoch} was claimed after epoch {before.epoch}"
                yield Fault("H7", text, (before, claim))
            last[claim.file] = claim
