"""A run in memory and its replay, on whatever database, see the very same values."""

from __future__ import annotations

from typing import Any

import pytest

from pipeteer_django import WorkflowContext
from pipeteer_django.pipelines.outcome import Call, Done, NewStep, Waiting
from pipeteer_django.queues.claim import plain
from tests.queues import by_hand
from tests.queues.clockwork import Clockwork
from tests.testapp.pipelines import record, scripted, scripted_child

pytestmark = pytest.mark.django_db

VALUES = {
    "names": {"b": 1, "aa": 2, "a": {"\U0001f600": 1, "\ue000": 2, "x": {"\u00e9": 1, "zz": 2}}},
    "large floats": [1e16, -1e23, {"x": 1.5e300}],
    "minus zero": [-0.0, {"x": -0.0}],
    "a float": 1e23,
}


async def echo(x: Any, ctx: WorkflowContext) -> Any:
    return x


@pytest.mark.parametrize("name", VALUES)
def test_of_a_result(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What came from a call decides what is called next; then the worker is started anew."""

    async def main(x: Any, ctx: WorkflowContext) -> Any:
        got = await ctx.call(scripted_child, VALUES[name])
        await ctx.call(record, repr(got))
        return got

    assert survives(monkeypatch, main, None) == VALUES[name]


@pytest.mark.parametrize("name", VALUES)
def test_of_a_message(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    async def main(x: Any, ctx: WorkflowContext) -> Any:
        got = await ctx.receive("news", Any)
        await ctx.call(record, repr(got))
        return got

    assert survives(monkeypatch, main, None, news=VALUES[name]) == VALUES[name]


@pytest.mark.parametrize("name", VALUES)
def test_of_the_value_of_a_child_that_was_born_claimed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    async def child(x: Any, ctx: WorkflowContext) -> Any:
        await ctx.call(record, repr(x))
        return x

    async def main(x: Any, ctx: WorkflowContext) -> Any:
        return await ctx.call(scripted_child, VALUES[name])

    assert survives(monkeypatch, main, None, child=child) == VALUES[name]


@pytest.mark.django_db(transaction=True)
def test_many_large_values_in_one_turn() -> None:
    """MariaDB closes the connection at a statement of more than 16 MiB: the turn would be tried again for ever."""
    value = "x" * 1_000_000
    record.enqueue_many(value for _ in range(20))
    runs = plain(scripted.Input, "default")
    scripted.enqueue_many(range(20))
    by_hand.turn([(claim, Waiting((calling(value),))) for claim in by_hand.claim_all(scripted)])
    entries = by_hand.claim_all(record)
    assert len(entries) == 40
    turn = by_hand.turn([(claim, Done(value)) for claim in entries])
    assert len(turn.settled.done) == 40
    assert [len(text) for text in record.Output.objects.values_list("value", flat=True)] == [len(value)] * 20
    assert scripted.Step.objects.filter(result=value).count() == runs.filter(deliveries=1).count() == 20


def calling(value: str) -> NewStep:
    return NewStep(0, "record", value, call=Call(record, value))


def survives(monkeypatch: pytest.MonkeyPatch, main: Any, value: Any, *, child: Any = echo, **messages: Any) -> Any:
    """The result of a run whose worker is started anew when it waits for `record`."""
    work = Clockwork(1000, monkeypatch)
    work.serves = frozenset({"scripted", "scripted_child"})
    work.play((scripted, main), (scripted_child, child))
    run = scripted.enqueue(value, key="run")
    work.run(scripted)
    for name, message in messages.items():
        scripted.send("run", name, message)
    work.run(scripted, scripted_child)
    assert record.Input.objects.count() == 1
    work.forget()
    work.run()
    assert list(scripted.Input.objects.values_list("error", flat=True)) == [], "it is still in its queue"
    return run.result(timeout=0)
