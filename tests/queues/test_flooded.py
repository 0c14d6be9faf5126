"""Forged hints without end make a worker look at a bounded rate, and the first one at once."""

from __future__ import annotations

import asyncio
import time

import pytest

from pipeteer_django.queues.tickets import Settled
from pipeteer_django.queues.turn import Turn
from pipeteer_django.worker import worker as module
from pipeteer_django.worker.desk import Work
from pipeteer_django.worker.hesitation import Hesitation
from pipeteer_django.worker.worker import Worker
from tests.testapp.pipelines import double, quad

pytestmark = pytest.mark.once
SECONDS = 0.5


class Looks:
    """In a desk's place: counts, and never finds anything."""

    def __init__(self, worker: Worker) -> None:
        self.times: list[float] = []
        worker._desk.work = self  # type: ignore[method-assign, assignment]

    def __call__(self, work: Work) -> Turn:
        if work.look:
            self.times.append(time.monotonic())
        return Turn(Settled())


def flooded() -> tuple[int, float, float]:
    """Looks that a flood causes, in how many seconds, and how long the first hint waited."""

    async def run() -> tuple[int, float, float]:
        worker = Worker([double, quad], using="default")
        worker._loop, looks = asyncio.get_running_loop(), Looks(worker)
        worker._intake.next_look = worker._sweep_at = float("inf")
        began = time.monotonic()

        async def flood() -> None:
            while time.monotonic() < began + SECONDS:
                for _ in range(10):
                    worker._hear("double")
                    worker._hear_flood()
                await asyncio.sleep(0)
            worker.stop(0)

        flooding = asyncio.create_task(flood())
        while not await worker._finished():
            await worker._turn()
            await worker._rest()
        await flooding
        worker._database.shutdown()
        worker._crew.close()
        return len(looks.times), time.monotonic() - began, looks.times[0] - began

    return asyncio.run(run())


def test_a_flood() -> None:
    looks, seconds, _ = flooded()
    assert 1 <= looks <= seconds / module._CALM + 2


def test_a_worker_that_did_not_hold_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CALM", 0.0)
    monkeypatch.setattr(Hesitation, "pause", lambda self: 0.0)
    looks, seconds, _ = flooded()
    assert looks > seconds / 0.02 + 2


def test_the_first_hint_is_followed_at_once() -> None:
    """No timer is set for it."""

    async def run() -> tuple[bool, bool]:
        worker = Worker([double, quad], using="default")
        worker._loop = asyncio.get_running_loop()
        worker._intake.next_look = float("inf")
        worker._heed("double")
        first = worker._nudge.is_set()
        worker._nudge.clear()
        worker._hints.clear()
        worker._heeded = time.monotonic() + 60  # as if it had just looked, whatever the machine is doing
        worker._heed("double")
        worker._database.shutdown()
        worker._crew.close()
        return first, worker._nudge.is_set()

    assert asyncio.run(run()) == (True, False)
