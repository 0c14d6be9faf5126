"""Random workflows, replayed wherever they may be interrupted, by their own code and by code that was changed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import hypothesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as how
from hypothesis import strategies as st

from pipeteer_django.pipelines import replay as replay_module
from pipeteer_django.pipelines.calls import CallFuture
from pipeteer_django.pipelines.outcome import Parked, Waiting
from pipeteer_django.pipelines.record import CANCEL, ENGINES, Record
from pipeteer_django.pipelines.replay import Outcome, Run, Spec
from pipeteer_django.pipelines.workflowcontext import WorkflowContext
from tests.pipelines.test_replay import History, Node, calls, comparable, double, halve, trees

CHANGES = ("other_argument", "other_activity", "call_left_out", "call_more", "other_order")
"""What may be done to a workflow's code, at one of its calls."""
_TURNS = 10_000
_REPLAYS_OF_ONE = 10
"""How many replays a random workflow takes, about."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the code: at its call number `at` it does something else than what was recorded."""

    kind: str
    at: int
    following: tuple[str, Any] = ("", 0)
    """The call after it."""


class Changed(Run):
    """A run of code that was changed."""

    def __init__(self, spec: Spec, record: Record, change: Change) -> None:
        super().__init__(spec, record)
        self.same = False
        """The call that was left out is followed by one just like it: to the record this is no change."""
        self._change = change
        self._made = -1
        self._left_out: tuple[Any, Any] | None = None

    def call(self, pipeline: Any, value: Any, **options: Any) -> CallFuture:
        """The call of the code, or what the change makes of it."""
        self._made += 1
        change = self._change
        self.same = self.same or self._left_out == (pipeline, value)
        self._left_out = None
        at, kind = self._made - change.at, change.kind
        if at == 0 and kind == "other_argument":
            value = value + 1_000_003
        elif at == 0 and kind == "other_activity":
            pipeline = halve if pipeline is double else double
        elif at == 0 and kind == "call_left_out":
            self._left_out = (pipeline, value)
            future = CallFuture(self._loop)
            future.set_result(0)
            return future
        elif at == 0 and kind == "call_more":
            super().call(double, 1_000_003)
        elif at == 0 and kind == "other_order":
            pipeline, value = (double if change.following[0] == "double" else halve), change.following[1]
        return super().call(pipeline, value, **options)


class Replays:
    """Counts the replays that agreed, and the changes of code that were caught."""

    def __init__(self) -> None:
        self.done = 0
        self.caught: Counter[str] = Counter()
        self.workflows = 0

    @property
    def report(self) -> str:
        """What was tried."""
        changes = ", ".join(f"{kind.replace('_', ' ')} {number:,}" for kind, number in sorted(self.caught.items()))
        return (
            f"{self.done:,} replays of {self.workflows:,} random workflows, none of them taken for other code; "
            f"{self.caught.total():,} changes of code, all caught ({changes})"
        )

    def round(self, number: int, seed: int) -> None:
        """About so many replays."""
        check = given(
            tree=st.recursive(calls, trees, max_leaves=12),
            chance=st.integers(0, 2**32),
            batch=st.integers(1, 3),
            cancel=st.none() | st.integers(1, 12),
        )(self._live)
        options = how(
            max_examples=max(10, number // _REPLAYS_OF_ONE),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        hypothesis.seed(seed)(options(check))()

    def _live(self, tree: Node, chance: int, batch: int, cancel: int | None) -> None:
        """One workflow's life. At each of its turns it is replayed, and so is some code that was changed."""

        async def main(value: int, ctx: WorkflowContext) -> Any:
            ctx.compensate(halve, 3)
            try:
                return await tree.run(ctx)
            finally:
                await ctx.call(double, 5)

        self.workflows += 1
        choice = random.Random(chance)
        # What a run drew before it was written down would be drawn anew: here it must be the same to be compared.
        with mock.patch.object(replay_module.secrets, "randbits", return_value=chance):
            for history in self._turns(History(main), choice, batch, cancel):
                self._change_the_code(history, choice)

    def _turns(self, history: History, choice: random.Random, batch: int, cancel: int | None) -> Iterator[History]:
        """The history after each turn. It must be told alike by the run in memory, by a replay before its outcome was
        written down, and by one after that."""
        warm = history.warm()
        try:
            for turn in range(_TURNS):
                outcome = warm.outcome()
                self._replay(history, comparable(outcome))
                warm.recorded(history.settle(outcome))
                if not isinstance(outcome, Waiting):
                    return
                if outcome.due is None or outcome.due > history.now:
                    self._replay(history, Waiting(due=outcome.due))
                yield history
                warm.feed(_events(history, outcome, choice, batch, cancelled=turn == cancel), history.now)
            raise AssertionError("It does not come to an end.")
        finally:
            warm.close()

    def _replay(self, history: History, expected: Any) -> None:
        assert comparable(history.replay()) == expected
        self.done += 1

    def _change_the_code(self, history: History, choice: random.Random) -> None:
        change = _some_change(history, choice)
        if change is None:
            return
        run = Changed(history.spec, Record([*history.steps], [*history.record.messages]), change)
        outcome = _run(run, history)
        if run.same:
            return
        assert isinstance(outcome, Parked), f"{change} was not noticed: {outcome}"
        assert outcome.failure.type_name == "ImpureWorkflow", outcome.failure
        self.caught[change.kind] += 1


def _events(history: History, outcome: Waiting, choice: random.Random, batch: int, *, cancelled: bool) -> list[Any]:
    """What happens next: some children end, a message comes, somebody cancels, time goes by."""
    events: list[Any] = []
    for index in choice.sample(history.open, min(batch, len(history.open))):
        error = "no luck" if choice.random() < 0.2 else None
        events.append(history.finish(index, choice.randrange(100), error))
    if choice.random() < 0.2:
        events.append(history.send("mail", choice.randrange(100)))
    if cancelled:
        events.append(history.send(CANCEL))
    if outcome.due and (not events or choice.random() < 0.3):
        history.wait_for_timer()
    return events


def _some_change(history: History, choice: random.Random) -> Change | None:
    """A change of the code before the place that the history has come to; None if it has made no call yet."""
    made = [(step.pipeline, step.param) for step in history.steps if step.pipeline not in ENGINES]
    if not made:
        return None
    kind, at = choice.choice(CHANGES), choice.randrange(len(made))
    if kind != "other_order":
        return Change(kind, at)
    following = next((call for call in made[at + 1 :] if call != made[at]), None)
    return Change(kind, at, following) if following else Change("other_activity", at)


def _run(run: Run, history: History) -> Outcome:
    try:
        run.start()
        run.feed(Record([*history.steps], [*history.record.messages]).new(), history.now)
        return run.outcome()
    finally:
        run.close()
