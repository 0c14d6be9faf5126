"""One new entry does not make fifty idle workers query: who comes too late stands back, and leaves what was taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from pipeteer_django.pipelines.outcome import Done
from pipeteer_django.queues.claim import nothing_kept
from pipeteer_django.worker.desk import Desk, Work
from pipeteer_django.worker.hesitation import TAKEN, Hesitation
from pipeteer_django.worker.worker import Worker
from tests.queues import by_hand
from tests.testapp.pipelines import double, quad


def test_it_grows_to_a_bound_and_ends_with_the_first_find() -> None:
    hesitation = Hesitation()
    assert not hesitation.stands_back
    assert hesitation.pause() == 0
    longest = 0.0
    for _ in range(20):
        hesitation.in_vain()
        assert hesitation.stands_back
        assert hesitation.pause() > longest / 4  # random, between half of it and all
        longest = max(longest, hesitation.pause())
    assert 0.1 < longest <= 0.25
    hesitation.found()
    assert not hesitation.stands_back
    assert hesitation.pause() == 0


def hints_after(heard: list[str], before: Callable[[Hesitation], None]) -> tuple[set[str], bool]:
    """What an idle worker still has to follow after it has heard these, and whether it will look before its poll."""

    async def run() -> tuple[set[str], bool]:
        worker = Worker([double, quad], using="default")
        worker._loop = asyncio.get_running_loop()
        worker._intake.next_look = float("inf")
        before(worker._hesitation)
        for topic in heard:
            worker._hear(topic)
            await asyncio.sleep(0)  # what the subscriber's thread hands over is done
        return set(worker._hints), worker._next_look() < float("inf")

    return asyncio.run(run())


def test_who_stands_back_leaves_what_was_taken() -> None:
    assert hints_after(["double"], Hesitation.in_vain) == ({"double"}, True)
    assert hints_after(["double", TAKEN + "double"], Hesitation.in_vain) == (set(), False)
    assert hints_after(["double", "quad", TAKEN + "double"], Hesitation.in_vain) == ({"quad"}, True)
    # A hint after it is a new one.
    assert hints_after(["double", TAKEN + "double", "double"], Hesitation.in_vain) == ({"double"}, True)


def test_who_found_work_last_looks_all_the_same() -> None:
    """What was taken may be older than the hint: somebody must look."""
    assert hints_after(["double", TAKEN + "double"], Hesitation.found) == ({"double"}, True)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a desk publishes."""
    topics: list[str] = []
    monkeypatch.setattr("pipeteer_django.worker.desk.publish", topics.append)
    return topics


def follow(slots: int) -> int:
    """A worker with so many places follows a hint; returns how many entries it took."""
    desk = Desk([double, quad], using="default", label="me", kept=nothing_kept)
    work = Work([], slots, 10, True, look=True, hints=frozenset(["double"]), sweep=False)
    turn = desk.work(work)
    for claim in turn.claims:
        by_hand.settle(claim, Done(0))
    return len(turn.claims)


@pytest.mark.django_db(transaction=True)
def test_taken_is_said_only_by_who_leaves_nothing(told: list[str]) -> None:
    assert follow(5) == 0
    assert TAKEN + "double" not in told  # found nothing

    double.enqueue(1)
    assert follow(5) == 1
    assert told.count(TAKEN + "double") == 1
    told.clear()

    for number in range(3):
        double.enqueue(number)
    assert follow(3) == 3  # and has no place left for what may come with the next hint
    assert TAKEN + "double" not in told
