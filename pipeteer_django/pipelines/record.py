"""What is written down about a run, as a replay needs it: its steps, its messages, and the order of its events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeteer_django.exceptions import InvalidValue

TIMER = ":timer"
"""A step that is done when its time has come; its argument is that time."""
SEND = ":send"
"""A step that is done when a message was put into another run's inbox."""
RANDOM = ":random"
"""A step whose result, known at once, is the seed of `ctx.random`."""
PATCH = ":patch"
"""A step that says that the run knows a change of its code; its argument is the change's name."""
CANCEL = ":cancel"
"""The name of the message that cancels a run."""

ENGINES = (TIMER, SEND, RANDOM, PATCH)
"""Names that stand in a Step's `pipeline` column for no pipeline."""

KNOWN = 0
"""The `order` of a step whose result was known when it was made: no event. Those of events count from 1."""


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A row of a workflow's Step table."""

    id: int
    index: int
    pipeline: str
    param: Any
    child_id: int | None
    result: Any
    error: dict[str, str] | None
    done_at: datetime | None
    cancelled_at: datetime | None
    order: int | None

    @property
    def at(self) -> datetime | None:
        """When its event happened."""
        return self.done_at


@dataclass(frozen=True, slots=True)
class RecordedMessage:
    """A row of a workflow's Message table."""

    id: int
    name: str
    value: Any
    sent_at: datetime
    order: int | None

    @property
    def at(self) -> datetime:
        """When its event happened."""
        return self.sent_at


Event = RecordedStep | RecordedMessage


@dataclass(slots=True)
class Record:
    """All that is written down about one branch of a run: steps by index, messages by id."""

    steps: list[RecordedStep] = field(default_factory=list)
    messages: list[RecordedMessage] = field(default_factory=list)
    slept: bool = False
    """The run has been where this record ends, even if nothing is in it, and fell asleep there."""

    def consumed(self) -> list[Event]:
        """The events that the run took before, in the order in which it did."""
        events: list[Event] = [step for step in self.steps if step.order and step.done_at is not None]
        events += [message for message in self.messages if message.order is not None]
        return sorted(events, key=lambda event: event.order or 0)

    def new(self) -> list[Event]:
        """The events that it has not taken yet, and still may: a result may cross its step's cancellation."""
        events: list[Event] = [
            step for step in self.steps if step.done_at and step.order is None and step.cancelled_at is None
        ]
        return [*events, *(message for message in self.messages if message.order is None)]


@dataclass(frozen=True, slots=True)
class Fired:
    """The event that a timer's time has come."""

    id: int
    index: int
    at: datetime
    order: None = None


def by_time(fired: Iterable[Fired], events: Iterable[Event]) -> list[Event | Fired]:
    """New events as they are to be fed: by time, steps before messages, by id."""
    together: list[Event | Fired] = [*fired, *events]
    return sorted(together, key=lambda event: (event.at, isinstance(event, RecordedMessage), event.id))


def due_of(timer: RecordedStep) -> datetime:
    """When its time comes."""
    return datetime.fromisoformat(timer.param)


# A run's time is whole milliseconds, because that is what Django's JSON fixtures keep of a moment: a run that is loaded
# from one must see the times that it saw before.


def timestamp(moment: datetime) -> float:
    """The loop's time of an event: its last whole millisecond."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000).timestamp()


def due_at(timestamp: float) -> datetime:
    """When a timer ends, by the loop's time: the next whole millisecond. Raises InvalidValue where no calendar has it.

    Not the last one: code that sleeps until a moment would find, for ever, that it has not come.
    """
    try:
        moment = datetime.fromtimestamp(timestamp, UTC)
        return moment + timedelta(microseconds=-moment.microsecond % 1000)
    except (OverflowError, ValueError, OSError) as error:
        raise InvalidValue("A timer cannot end after the year 9999.") from error
