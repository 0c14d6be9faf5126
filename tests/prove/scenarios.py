"""What the prover crashes. People look before they act: after a crash they do only what was not done."""

from __future__ import annotations

import asyncio
from typing import Any

from django.contrib.auth.models import User
from django.test import Client

from pipeteer_django import Context, StepFailed, WorkflowContext
from pipeteer_django.models import Queue
from pipeteer_django.queues.claim import plain
from tests.admin.conftest import url
from tests.admin_values.browser import Page
from tests.prove.worlds import Scenario, World
from tests.testapp.models import Ledger
from tests.testapp.pipelines import (
    Flaky,
    approval,
    approve,
    double,
    fan,
    mailbox,
    parent,
    quad,
    record,
    record_flaky,
    recording,
    rounds,
    scripted,
    trace,
)


def rows(pipeline: Any, name: str = "Input") -> Any:
    """All rows of one of its tables."""
    return plain(pipeline.models[name], "default")


def asleep(pipeline: Any) -> bool:
    """Whether a run waits for somebody, and nothing else is under way."""
    return bool(rows(pipeline).filter(suspended=True, available_at=None).exists())


def asked() -> bool:
    """Whether a person is asked something, by a run that sleeps."""
    return bool(rows(approve).exists() and asleep(scripted))


def answer(world: World) -> None:
    """Say yes to what is asked."""
    world.when(lambda: rows(approve).exists() or not rows(scripted).exists())
    with world.unseen():
        key = rows(approve).values_list("key", flat=True).first()
    if key is not None:
        approve.push(key, True)


# Activities


def activity(world: World) -> None:
    """A plain one, whose effect may be there twice."""
    world.once(trace, "plain")


def atomic(world: World) -> None:
    """Two in one queue."""
    world.once(record, "one", "a")
    world.once(record, "two", "b", output="mine")


def fails_once(world: World) -> None:
    """What the first attempt writes must not be left."""
    world.once(record_flaky, 1)


def flaky(failures: int, ctx: Context) -> int:
    """Instead of what returns the number of its attempt, which a crash may well change."""
    Ledger.objects.create(name="flaky", run_id=ctx.run_id)
    if ctx.attempt <= failures:
        raise Flaky("once")
    return 0


# Workflows


def call(world: World) -> None:
    """One after the other."""
    world.once(quad, 1)


def atomic_steps(world: World) -> None:
    """Atomic children, which wake their caller in a transaction of their own."""
    world.once(recording, 2)


def parallel(world: World) -> None:
    """Children that run and end together."""
    world.once(fan, 3)


def child_workflow(world: World) -> None:
    """A workflow that calls a workflow."""
    world.once(parent, 1)


def again(world: World) -> None:
    """continue_as_new."""
    world.once(rounds, 1)


def start(world: World) -> None:
    """Whatever the scenario has made of this workflow."""
    world.once(scripted, 1)


async def timed(x: int, ctx: WorkflowContext) -> str:
    """A timer, a timeout, and what is random."""
    await ctx.sleep(0.01)
    try:
        async with asyncio.timeout(0.01):
            await ctx.receive("never", str)
    except TimeoutError:
        ctx.random.random()
        return await ctx.call(record, "late")
    return "in time"


# Messages


def write_to_mailbox(world: World) -> None:
    """A run that waits for two messages, and one that sends the first."""
    world.once(mailbox, 1)


def and_send(world: World) -> None:
    """The sender begins once the other is there; the second message is a person's."""
    world.once(scripted, 1)
    world.when(lambda: rows(mailbox, "Message").filter(name="note").exists())
    if not world.is_so(lambda: rows(mailbox, "Message").filter(name="approved").exists()):
        mailbox.send("a", "approved", True)


async def sender(x: int, ctx: WorkflowContext) -> str:
    """Writes to the other."""
    await ctx.send(mailbox, "a", "note", "hello")
    return await ctx.call(record, "sent")


# People


def ask(world: World) -> None:
    """A question."""
    world.once(approval, "really?")


def push(world: World) -> None:
    """An answer."""
    world.when(lambda: rows(approve).exists() or rows(approval, "Output").exists())
    with world.unseen():
        key = rows(approve).values_list("key", flat=True).first()
    if key is not None:
        approve.push(key, True)


async def to_be_cancelled(x: int, ctx: WorkflowContext) -> str:
    """Has something to undo, and waits for ever."""
    await ctx.call(record, "done")
    ctx.compensate(record, "undone")
    await ctx.call(approve, "?")
    return "never"


def cancel(world: World) -> None:
    """While it waits."""
    world.when(lambda: asked() or rows(scripted, "Message").exists())
    if not world.is_so(lambda: rows(scripted, "Message").exists()):
        scripted.cancel("a")


async def to_be_corrected(x: int, ctx: WorkflowContext) -> str:
    """What it writes depends on its first step."""
    first = await ctx.call(double, x)
    await ctx.call(record, f"got {first}")
    await ctx.call(approve, "?")
    return f"approved {first}"


def on_branch(number: int) -> bool:
    """Whether the run has come so far, or is over."""
    return not rows(scripted).filter(branch__lt=number).exists()


def correct(world: World) -> None:
    """Another result for the first step; then the answer."""
    if not world.is_so(lambda: on_branch(1)):
        world.when(asked)
        scripted.correct("a", step=0, value=20)
    answer(world)


def rerun_live(world: World) -> None:
    """From the second step, while it waits; then the answer."""
    if not world.is_so(lambda: on_branch(1)):
        world.when(asked)
        scripted.rerun("a", from_step=1)
    answer(world)


def restart(world: World) -> None:
    """From the beginning, while it waits; then the answer."""
    if not world.is_so(lambda: on_branch(1)):
        world.when(asked)
        rows_of_users = scripted.Input.objects.filter(key="a")
        rows_of_users.restart()
    answer(world)


def rerun_finished(world: World) -> None:
    """A run that is over, from its second step."""
    world.when(lambda: rows(recording, "Output").exists())
    if not world.is_so(lambda: rows(recording).exists() or rows(recording, "Output").count() > 1):
        recording.rerun("a", from_step=1)


async def careful(x: int, ctx: WorkflowContext) -> str:
    """Its question is taken out of the queue."""
    try:
        await ctx.call(approve, "?")
    except StepFailed as failed:
        return await ctx.call(record, failed.type_name)
    return "answered"


def delete(world: World) -> None:
    """A child, by the ORM."""
    world.when(lambda: asked() or rows(scripted, "Step").filter(pipeline="record").exists() or on_branch(9))
    approve.Input.objects.all().delete()


def held(world: World) -> None:
    """An entry that nobody claims yet."""
    world.once(record, "one")


def hold() -> None:
    """The queue is held."""
    Queue.objects.create(pipeline="record", held=True)


def edit(world: World) -> None:
    """The admin's form, saved; then the queue goes on."""
    with world.unseen():
        client = Client()
        client.force_login(User.objects.get())
        entry = rows(record).first()
        page = url(record.Input, "change", entry.pk) if entry and entry.value == "one" else ""
        shown = dict(Page(client.get(page).content.decode()).pairs) if page else {}
    if page:
        client.post(page, shown | {"value": "two"})
    Queue.objects.update(held=False)


def consume(world: World) -> None:
    """What the consumer writes and that it has consumed are one."""
    world.when(lambda: rows(record, "Output").count() == 2)
    for name in ("output", "mine"):
        with record.consume(name) as entry:
            if entry is not None:
                Ledger.objects.create(name=f"consumed {entry.value}", run_id=entry.run_id)


_ASKS = [scripted, double, record, approve]

_CONSUMED = ["one", "two", "consumed one", "consumed two"]
_STEPS = ["step 0", "step 1"]

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("activity", [trace], activity, ["plain"]),
        Scenario("atomic", [record], atomic, ["one", "two"], ["one", "two"]),
        Scenario("retry", [record_flaky], fails_once, [0], ["flaky"], code={record_flaky: flaky}),
        Scenario("call", [quad, double], call, [4]),
        Scenario("call_cold", [quad, double], call, [4], warm=False),
        Scenario("atomic_steps", [recording, record], atomic_steps, [2], _STEPS),
        Scenario("all", [fan, double], parallel, [[0, 2, 4]], concurrency=4, loose=True),
        Scenario("child", [parent, quad, double], child_workflow, [5]),
        Scenario("continue", [rounds, double], again, [0]),
        Scenario("timers", [scripted, record], start, ["late"], ["late"], code={scripted: timed}),
        Scenario(
            "messages", [scripted, mailbox, record], write_to_mailbox, ["sent", ["hello", True]], ["sent"], and_send,
            code={scripted: sender},
        ),
        Scenario("push", [approval, approve], ask, ["yes"], (), push),
        Scenario("cancel", _ASKS, start, (), ["done", "undone"], cancel, code={scripted: to_be_cancelled}),
        Scenario(
            "correct", _ASKS, start, ["approved 20"], ["got 2", "got 20"], correct, code={scripted: to_be_corrected}
        ),
        Scenario("rerun", [recording, record], atomic_steps, [2, 2], [*_STEPS, "step 1"], rerun_finished),
        Scenario(
            "rerun_live", _ASKS, start, ["approved 2"], ["got 2"] * 2, rerun_live, code={scripted: to_be_corrected}
        ),
        Scenario("restart", _ASKS, start, ["approved 2"], ["got 2"] * 2, restart, code={scripted: to_be_corrected}),
        Scenario("delete", _ASKS, start, ["Deleted"], ["Deleted"], delete, code={scripted: careful}),
        Scenario("admin_edit", [record], held, ["two"], ["two"], edit, prepare=hold),
        Scenario("consume", [record], atomic, ["one", "two"], _CONSUMED, consume),
    )
}  # fmt: skip
