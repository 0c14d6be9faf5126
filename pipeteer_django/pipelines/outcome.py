"""What running an entry can lead to, as plain values: a run never touches the queue tables, `queues.settle` does."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeteer_django.pipelines.pipeline import Pipeline

MAX_TRACEBACK = 16_000
"""Characters kept of a traceback: its head and its tail."""

LOST_WORKER = "The worker was lost"
"""How the error begins of an entry that is parked because its workers died."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception as text, so that it crosses processes: a child's becomes StepFailed in its parent."""

    type_name: str
    message: str
    traceback: str
    error: BaseException | None = field(default=None, compare=False, repr=False)
    """The exception itself, in the process that raised it."""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe `error`, also one whose own `__str__` raises or whose text no database can store."""
        try:
            message = str(error)
        except Exception:
            message = "(its message could not be read)"
        try:
            text = "".join(traceback.format_exception(error))
        except Exception:
            text = f"{type(error).__name__}: {message}"
        name = _storable(type(error).__name__)
        return cls(name, shorten(_storable(message), 2_000), shorten(_storable(text)), error)

    def as_json(self) -> dict[str, str]:
        """The form kept in a Step's `error` column."""
        return {"type": self.type_name, "message": self.message, "traceback": self.traceback}


def _storable(text: str) -> str:
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def shorten(text: str, limit: int = MAX_TRACEBACK) -> str:
    """`text`, its middle left out where it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


@dataclass(frozen=True, slots=True)
class Call:
    """What a new step asks of another pipeline."""

    pipeline: Pipeline[Any, Any]
    value: Any
    key: str | None = None
    delay: float = 0.0
    """Seconds."""
    priority: int = 0
    max_attempts: int | None = None


@dataclass(frozen=True, slots=True)
class NewStep:
    """A step that a workflow made and that no row records yet. `param` is JSON."""

    index: int
    pipeline: str
    """The called pipeline's id, or one of `record.ENGINES`."""
    param: Any
    after: int = 0
    """The order of the last event that the run had taken when it made the step."""
    call: Call | None = None
    result: Any = None
    """Where `known`: what it came to at once."""
    known: bool = False
    cancelled: bool = False
    """It was cancelled before it could begin."""


@dataclass(frozen=True, slots=True)
class Consumed:
    """An event that was fed to the workflow for the first time, and its place in the sequence."""

    id: int
    order: int
    message: bool = False
    """Whether `id` is a Message's; else a Step's."""
    fired_at: datetime | None = None
    """A timer's time, which nobody else writes down."""


@dataclass(frozen=True, slots=True)
class Done:
    """The function returned `value`, checked and in the form its Output column takes."""

    value: Any
    consumed: tuple[Consumed, ...] = ()
    leaves_open: bool = False
    """Whether steps were outstanding when a workflow ended: they are cancelled."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The workflow suspended: these steps are new, these events were consumed."""

    steps: tuple[NewStep, ...] = ()
    consumed: tuple[Consumed, ...] = ()
    cancelled: tuple[int, ...] = ()
    """Ids of steps that it cancelled."""
    due: datetime | None = None
    """When its next timer's time comes."""
    progress: tuple[float | None, str] | None = None
    """A new fraction and text, if it said any."""


@dataclass(frozen=True, slots=True)
class Continued:
    """The workflow begins again with another value and an empty record; what it left open is cancelled."""

    value: Any
    consumed: tuple[Consumed, ...] = ()
    unread: tuple[int, ...] = ()
    """Ids of messages that were fed and that it did not receive: they are for the new beginning."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The run was cancelled and has cleaned up: it leaves its queue without an output."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed; the next may start after `delay` seconds."""

    failure: Failure
    delay: float


@dataclass(frozen=True, slots=True)
class Failed:
    """Given up: a root stays in its queue as failed, a child delivers StepFailed to its caller."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Parked:
    """Needs a person: the entry stays in its queue as failed, also when it is a child (its caller waits)."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Released:
    """Handed back unrun: the attempt does not count. Claimable again after `delay` seconds."""

    delay: float = 0.0


Outcome = Done | Waiting | Continued | Cancelled | Retry | Failed | Parked | Released
