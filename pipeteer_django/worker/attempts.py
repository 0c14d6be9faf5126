"""Running one claimed entry: from the stored value to an outcome. Nothing here touches the queue tables."""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC
from functools import partial
from typing import Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async
from django.db import DatabaseError, InterfaceError, connections

from pipeteer_django.conf import settings
from pipeteer_django.exceptions import BrokenAtomicity, InvalidValue, LeaseLost
from pipeteer_django.pipelines import replay
from pipeteer_django.pipelines.activity import Activity
from pipeteer_django.pipelines.calls import Spec
from pipeteer_django.pipelines.context import Context, EntryLogger
from pipeteer_django.pipelines.outcome import LOST_WORKER, Done, Failed, Failure, Outcome, Parked, Released, Retry
from pipeteer_django.pipelines.references import ModelReference
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.pipelines.workflow import Workflow
from pipeteer_django.queues.atomic import run_atomic
from pipeteer_django.queues.claim import Claim
from pipeteer_django.queues.database import Strategy, durable, is_by_server, session_id, tidy
from pipeteer_django.queues.tickets import Settled

logger = logging.getLogger("pipeteer_django.worker")

Ended = Outcome | Settled | None
"""An outcome for the next turn; what an atomic activity settled itself; None: no longer ours."""

_NAMESPACE = uuid.UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")


@dataclass(slots=True)
class Attempt:
    """One try at one claim, as the worker keeps it while it runs."""

    claim: Claim
    app: Any
    using: str
    abandoned: bool = False
    """Set when the worker no longer waits for it: an atomic body must not commit any more."""
    session: Any = None
    """The database session of an atomic body under way."""
    begun: bool = False
    """Whether an atomic body was entered."""
    ended: bool = False
    """Whether it returned a value."""

    @property
    def activity(self) -> Activity[Any, Any]:
        """The claim's pipeline, which is known to be an activity."""
        assert isinstance(self.claim.pipeline, Activity)
        return self.claim.pipeline

    def after_error(self, error: BaseException) -> Retry | Failed:
        """What follows when it raised this."""
        return self.activity.after_error(error, self.claim.attempt, self.claim.max_attempts)


def refuse(claim: Claim) -> Outcome | None:
    """What happens to a claim that cannot be run at all."""
    if claim.crashes >= settings().MAX_CRASHES:
        text = (
            f"{LOST_WORKER} {claim.crashes} times while it ran this entry (killed, out of memory, crashed or "
            "stuck). Look at the worker's logs, then retry it."
        )
        return Parked(Failure("Crashed", text, text))
    if claim.caller and registry.get(claim.caller) is None:
        return Released(delay=random.uniform(5, 10))  # newer code than ours may know its caller
    return None


def decode(claim: Claim) -> Any:
    """The typed value; raises InvalidValue where the stored one no longer fits the code."""
    return claim.pipeline.input.from_stored(claim.value)


def run_workflow(claim: Claim) -> Outcome:
    """Replay a workflow over its record. Pure: no I/O."""
    try:
        return replay.run(spec_of(claim), claim.record, claim.now)
    except InvalidValue as error:
        return Parked(Failure.of(error))


def spec_of(claim: Claim) -> Spec:
    """What a claimed workflow is a run of; raises InvalidValue where its value no longer fits the code."""
    workflow = claim.pipeline
    assert isinstance(workflow, Workflow)
    return Spec(
        function=_two_parameters(claim),
        value=decode(claim),
        pipeline=workflow.id,
        key=claim.key,
        run_id=claim.id,
        input=workflow.input,
        output=workflow.output,
        messages=workflow.messages,
        started_at=claim.started_at,
    )


def _two_parameters(claim: Claim) -> Callable[[Any, Any], Any]:
    """The workflow's function, whichever of its two parameters it leaves out."""
    signature, function = claim.pipeline.signature, claim.pipeline.function
    if signature.parameter and signature.context:
        return function
    if signature.parameter:
        return lambda value, ctx: function(value)
    return lambda value, ctx: function(ctx) if signature.context else function()


def _arguments(attempt: Attempt, value: Any) -> list[Any]:
    signature = attempt.claim.pipeline.signature
    return ([value] if signature.parameter else []) + ([_context(attempt)] if signature.context else [])


# Activities


def run_on_thread(attempt: Attempt, commit: Strategy = durable) -> Ended:
    """Run an activity on this thread, in a transaction where it is atomic; an async body gets a loop of its own."""
    tidy()
    try:
        if attempt.activity.atomic:
            return run_atomic(attempt.claim, attempt.using, lambda: _atomic_body(attempt), commit)
        return Done(_call(attempt))
    except LeaseLost:
        return None
    except Misfit as error:
        return Parked(Failure.of(error.__cause__ or error))
    except BadResult as error:
        return Failed(Failure.of(error.__cause__ or error))
    except BrokenAtomicity as error:
        return Parked(Failure.of(error))
    except BaseException as error:
        return _not_the_bodys_fault(attempt, error) or attempt.after_error(error)
    finally:
        attempt.session = None
        tidy()


def _atomic_body(attempt: Attempt) -> Any:
    attempt.begun = True
    attempt.session = session_id(attempt.using)
    value = _call(attempt)
    attempt.ended = True
    if attempt.abandoned:
        raise LeaseLost("The worker gave this attempt up before its body ended.")
    return value


def _not_the_bodys_fault(attempt: Attempt, error: BaseException) -> Released | Retry | None:
    """What follows when the database failed around an atomic body, which is then as if it had never run."""
    if not attempt.activity.atomic:
        return None
    if not attempt.begun and isinstance(error, (DatabaseError, InterfaceError)):
        # No connection, or somebody's lock on the row: nothing was tried, so no attempt is charged.
        logger.warning(
            "%s %r could not begin: %s", attempt.activity.id, attempt.claim.key, " ".join(str(error).split())
        )
        return Released(delay=random.uniform(0.5, 1.5))
    if attempt.ended and is_by_server(error):
        return Retry(Failure.of(error), attempt.activity.delay_after(attempt.claim.attempt))
    return None


def _call(attempt: Attempt) -> Any:
    return checked(attempt, bound(attempt)())


def bound(attempt: Attempt) -> Callable[[], Any]:
    """The body with its arguments, to be called on this thread; raises Misfit."""
    arguments = _arguments(attempt, _loaded(attempt))
    function = attempt.activity.function
    if attempt.activity.is_async:
        function = async_to_sync(_with_timeout(attempt))
    return partial(function, *arguments)


def _with_timeout(attempt: Attempt) -> Callable[..., Any]:
    async def call(*arguments: Any) -> Any:
        async with asyncio.timeout(attempt.activity.timeout):
            return await attempt.activity.function(*arguments)

    return call


class Misfit(Exception):
    """The stored value does not fit (its cause says why): not an error of the body."""


class BadResult(Exception):
    """The result does not fit the annotation (its cause says why); it would not fit the next time either."""


def checked(attempt: Attempt, result: Any) -> Any:
    """What the body returned, in the form its Output column takes; raises BadResult."""
    try:
        return attempt.activity.output.check(result)
    except InvalidValue as error:
        raise BadResult from error


def _loaded(attempt: Attempt) -> Any:
    try:
        value = decode(attempt.claim)
        return _row(value, attempt.using) if isinstance(value, ModelReference) else value
    except InvalidValue as error:
        raise Misfit from error


def _row(reference: ModelReference, using: str) -> Any:
    row = reference.model._base_manager.using(using).filter(pk=reference.pk).first()
    if row is None:
        raise InvalidValue(f"value: {reference.model._meta.label} {reference.pk} does not exist any more.")
    return row


def _context(attempt: Attempt) -> Context:
    claim = attempt.claim
    # To the millisecond, which is what fixtures keep: the same key on whatever machine the run goes on.
    created_at = claim.created_at.astimezone(UTC).isoformat(timespec="milliseconds")
    return Context(
        key=claim.key,
        run_id=claim.id,
        attempt=claim.attempt,
        idempotency_key=str(uuid.uuid5(_NAMESPACE, f"{claim.pipeline.id} {claim.id} {created_at}")),
        log=EntryLogger(claim.pipeline.id, claim.key),
        app=attempt.app,
    )


async def run_on_loop(attempt: Attempt) -> Ended:
    """Run a plain async activity on the worker's loop; its ORM calls get a thread, and a connection, of their own."""
    async with ThreadSensitiveContext() as context:
        try:
            value = await _on_thread_if_row(attempt)
            arguments = _arguments(attempt, value)
            result = await _within(attempt.activity.timeout, attempt.activity.function(*arguments))
            return Done(checked(attempt, result))
        except Misfit as error:
            return Parked(Failure.of(error.__cause__ or error))
        except BadResult as error:
            return Failed(Failure.of(error.__cause__ or error))
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _cancelled_by_worker():
                return None
            return attempt.after_error(error)
        finally:
            if context in SyncToAsync.context_to_thread_executor:
                await sync_to_async(connections.close_all)()


async def _within(timeout: float | None, body: Coroutine[Any, Any, Any]) -> Any:
    if timeout is None:
        return await body
    async with asyncio.timeout(timeout):
        return await body


async def _on_thread_if_row(attempt: Attempt) -> Any:
    if attempt.activity.input.kind == "model":
        return await sync_to_async(_loaded)(attempt)
    return _loaded(attempt)


def _cancelled_by_worker() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
