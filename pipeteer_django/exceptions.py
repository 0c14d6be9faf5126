"""Everything that can go wrong by name. The docstring says when, the message says what to type next."""

from __future__ import annotations


class PipeteerError(Exception):
    """Base of all errors of pipeteer_django."""


class DefinitionError(PipeteerError):
    """A pipeline cannot be defined like this: found while Django loads, never at run time."""


class LateRegistration(DefinitionError):
    """A pipeline was decorated after the tables were generated, so it has none."""


class NotReady(PipeteerError):
    """A pipeline's tables were used before Django loaded its models."""


class InvalidValue(PipeteerError, ValueError):
    """A value does not fit its pipeline's type, or cannot be stored portably; the message holds the path inside it."""


class DuplicateKey(PipeteerError):
    """The queue already holds an entry with this key."""


class EntryChanged(PipeteerError):
    """The entry was claimed, settled, edited or deleted since it was loaded; nothing was written."""


class LeaseLost(PipeteerError):
    """This process no longer holds the entry: its epoch moved on. Whatever it wrote is rolled back."""


class LostTransaction(PipeteerError):
    """An atomic activity's body lost the transaction that its output should have been part of."""


class BrokenAtomicity(LostTransaction):
    """The body ended the transaction itself (raw COMMIT, DDL on MariaDB): it must not be retried."""


class NotInTransaction(PipeteerError):
    """This call cannot work inside `transaction.atomic()`."""


class RunFailed(PipeteerError):
    """The run was given up. `error` is its traceback; `.retry()` on its entry lets it run again."""

    def __init__(self, message: str, error: str = "") -> None:
        super().__init__(message)
        self.error = error


class RunGone(PipeteerError):
    """The run left its queue without an output: it was deleted."""


class StepFailed(PipeteerError):
    """A step of a workflow was given up.

    `type_name`, `message` and `traceback` are those of the child's exception, in whatever process it was raised.
    """

    def __init__(self, pipeline: str, type_name: str, message: str, traceback: str = "") -> None:
        super().__init__(f"{pipeline}: {type_name}: {message}")
        self.pipeline, self.type_name, self.message, self.traceback = pipeline, type_name, message, traceback


class ImpureWorkflow(PipeteerError):
    """The workflow's code and its recorded steps disagree: the run is parked, nothing else is affected."""


class NotDurable(PipeteerError):
    """The workflow used something that cannot be replayed; the message names the durable way."""


class EngineColumn(PipeteerError):
    """A column of an Input that only the engine may write."""
