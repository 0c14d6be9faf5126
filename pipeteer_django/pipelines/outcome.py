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


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception as text, so that it crosses processes: a child's becomes StepFailed in its parent."""

    type_name: str
    message: str
    traceback: str

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
        return cls(_storable(type(error).__name__), shorten(_storable(message), 2_000), shorten(_storable(text)))

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
class RecordedStep:
    """A row of a workflow's Step table, as a replay needs it."""

    id: int
    index: int
    pipeline: str
    param: Any
    child_id: int | None
    result: Any
    error: dict[str, str] | None
    done_at: datetime | None
    order: int | None


@dataclass(frozen=True, slots=True)
class Call:
    """A call that a workflow made and that no Step records yet. `param` is the JSON of `value`."""

    index: int
    pipeline: Pipeline[Any, Any]
    value: Any
    param: Any


@dataclass(frozen=True, slots=True)
class Consumed:
    """An event that was fed to the workflow for the first time: the Step it came from and its place in the sequence."""

    step_id: int
    order: int


@dataclass(frozen=True, slots=True)
class Done:
    """The function returned `value`, checked and in the form its Output column takes."""

    value: Any
    consumed: tuple[Consumed, ...] = ()
    open_steps: tuple[RecordedStep, ...] = ()
    """Steps still outstanding when a workflow ended: they are cancelled."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The workflow suspended: these calls are new, these events were consumed."""

    calls: tuple[Call, ...] = ()
    consumed: tuple[Consumed, ...] = ()
    due: datetime | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed; the next may start after `delay` seconds."""

    failure: Failure
    delay: float


@dataclass(frozen=True, slots=True)
class Failed:
    """Given up: a root stays in its queue as failed, a child delivers StepFailed to its caller."""

    failure: Failure
    open_steps: tuple[RecordedStep, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Parked:
    """Needs a person: the entry stays in its queue as failed, also when it is a child (its caller waits)."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Released:
    """Handed back unrun: the attempt does not count. Claimable again after `delay` seconds."""

    delay: float = 0.0


Outcome = Done | Waiting | Retry | Failed | Parked | Released
