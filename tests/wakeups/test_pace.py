"""Floods of hints cost looks at a bounded rate, and the first hint no time. The clock is the test's."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from pipeteer_django import hearing
from pipeteer_django.wakeups import Pace, Proxy, Waiter, listen, publisher, subscriber
from pipeteer_django.wakeups import waiter as waiting_room
from pipeteer_django.wakeups.link import Bell, Link
from pipeteer_django.wakeups.pace import Allowance
from pipeteer_django.wakeups.topics import CHANGES

from .raw import PATIENCE, Raw, Urls, eventually, send

pytestmark = pytest.mark.once


EXPECTED = waiting_room.BURST + 10 / waiting_room.CALM
"""Looks in ten seconds of a flood."""


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_pace() -> None:
    clock = Clock()
    pace = Pace(0.05, 3, clock)
    pauses = []
    for _ in range(6):
        pauses.append(round(pace.pause(), 6))
        clock.sleep(pace.pause())
        pace.step()
    assert pauses == [0, 0, 0, 0.05, 0.05, 0.05]
    clock.sleep(0.15)
    assert [pace.pause(), pace.step(), pace.pause(), pace.step(), pace.pause()] == [0, None, 0, None, 0]


def test_allowance() -> None:
    clock = Clock()
    allowance = Allowance(10, 0.05, clock)
    assert allowance.left == 10
    allowance.spend(4)
    clock.sleep(0.04)
    allowance.spend(6)
    assert (allowance.left, round(allowance.pause, 6)) == (0, 0.01)
    clock.sleep(0.02)
    assert allowance.left == 10


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all waiters; their sleeping moves it."""
    made = Clock()

    async def sleep(seconds: float) -> None:
        made.sleep(seconds)

    monkeypatch.setattr(waiting_room, "time", type("Time", (), {"sleep": made.sleep, "monotonic": made}))
    monkeypatch.setattr(waiting_room.asyncio, "sleep", sleep)
    monkeypatch.setattr(waiting_room, "calm", lambda: Pace(waiting_room.CALM, waiting_room.BURST, made))
    return made


def hint(waiter: Waiter, topic: str = "quad") -> None:
    """As the subscriber's thread does."""
    waiter._hear(topic)


def test_a_flood_wakes_a_waiter_twenty_times_a_second(clock: Clock) -> None:
    waiter = Waiter(["quad"])
    began, looks = clock.now, 0
    while clock.now < began + 10:
        for _ in range(1000):
            hint(waiter)
        assert waiter.wait(2)
        looks += 1
        assert looks < 1000, "unbounded"
    assert looks == pytest.approx(EXPECTED, abs=1)


def test_a_flood_wakes_a_coroutine_twenty_times_a_second(clock: Clock) -> None:
    async def main() -> int:
        waiter, looks, began = Waiter(["quad"]), 0, clock.now
        while clock.now < began + 10:
            hint(waiter)
            assert await waiter.await_wake(2)
            looks += 1
            assert looks < 1000, "unbounded"
        return looks

    assert asyncio.run(main()) == pytest.approx(EXPECTED, abs=1)


def test_the_first_hints_cost_no_time(clock: Clock) -> None:
    waiter, began = Waiter(["quad"]), clock.now
    for _ in range(waiting_room.BURST):
        hint(waiter)
        assert waiter.wait(2)
    assert clock.now == began
    clock.sleep(waiting_room.CALM)
    hint(waiter)
    assert waiter.wait(2)
    assert clock.now == began + waiting_room.CALM


def test_a_pause_is_not_longer_than_the_timeout(clock: Clock) -> None:
    waiter = Waiter(["quad"])
    for _ in range(waiting_room.BURST):
        hint(waiter)
        waiter.wait(2)
    began = clock.now
    hint(waiter)
    assert waiter.wait(0.01)
    assert clock.now == pytest.approx(began + 0.01)


def test_a_loop_of_waits_is_bounded_too(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of `pipeteer.wait` has a waiter of its own."""
    hearing._pace.cache_clear()
    monkeypatch.setattr(hearing, "calm", waiting_room.calm)

    class Hinted(Waiter):
        async def __aenter__(self) -> Waiter:
            hint(self, "mine")
            return self

        async def __aexit__(self, *exc_info: object) -> None:
            pass

    monkeypatch.setattr(hearing, "Waiter", Hinted)

    async def main() -> int:
        looks, began = 0, clock.now
        while clock.now < began + 10:
            assert await hearing.wait("mine", 2)
            looks += 1
            assert looks < 1000, "unbounded"
        return looks

    assert asyncio.run(main()) == pytest.approx(EXPECTED, abs=1)
    hearing._pace.cache_clear()


class Wire:
    """In a Link's place: as many messages as anybody takes, and a note of each rest."""

    def __init__(self, frames: list[list[bytes]], clock: Clock) -> None:
        self._frames, self._clock = frames, clock
        self.taken = 0

    def received(self, limit: int) -> Any:
        for _ in range(limit):
            self.taken += 1
            yield self._frames[self.taken % len(self._frames)]

    def rest(self, seconds: float) -> None:
        self._clock.sleep(seconds)


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[subscriber._Listener]:
    """One whose thread does nothing: the test does."""
    monkeypatch.setattr(subscriber._Listener, "_run", lambda self: None)
    made = subscriber._Listener("tcp://127.0.0.1:5556")
    yield made
    made._bell.close()


@pytest.mark.parametrize("frames", [[[b"quad"]], [[b"%d" % n] for n in range(10_000)]], ids=["one topic", "many"])
def test_a_listener_hears_so_much_in_a_second(listener: subscriber._Listener, frames: list[list[bytes]]) -> None:
    clock = Clock()
    listener._allowance = Allowance(subscriber.FLOOD, subscriber.WINDOW, clock)
    heard: list[str] = []
    floods: list[float] = []
    listener.add(subscriber.Subscription(listener), heard.append, False, lambda: floods.append(clock.now))
    wire, began = Wire(frames, clock), clock.now
    while clock.now < began + 10:
        listener._attend(wire)  # type: ignore[arg-type]
    assert wire.taken / subscriber.FLOOD == pytest.approx(10 / subscriber.WINDOW, abs=1)
    assert len(heard) <= wire.taken
    assert len(floods) == wire.taken / subscriber.FLOOD


def test_what_is_gathered_keeps_its_order(listener: subscriber._Listener) -> None:
    heard: list[str] = []
    listener.add(subscriber.Subscription(listener), heard.append, False, None)
    wire = Wire([[b"a"], [b"b"], [b"c"], [b"a"]], Clock())
    listener._allowance = Allowance(5, 0.05, Clock())  # b c a a b
    listener._attend(wire)  # type: ignore[arg-type]
    assert heard == ["c", "a", "b"]


def test_what_a_flood_drowns_is_told(proxy: Proxy, raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiter whose hint was never heard looks all the same."""
    monkeypatch.setattr(subscriber, "FLOOD", 100)
    stop = threading.Event()

    def pour() -> None:
        while not stop.is_set():
            for _ in range(1000):
                flood.send(b"forged", zmq.NOBLOCK)

    with Waiter(["never-sent"]) as waiter:
        flood = raw.publisher_heard_by(b"")
        pouring = threading.Thread(target=pour)
        pouring.start()
        try:
            assert waiter.wait(PATIENCE)
        finally:
            stop.set()
            pouring.join()


def test_malformed_messages_are_counted_in_one_line_a_minute(
    listener: subscriber._Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    monkeypatch.setattr(subscriber, "time", type("Time", (), {"monotonic": clock}))
    listener._allowance = Allowance(10, 0.05, clock)
    wire = Wire([[b"\xff\xfe"], [b"\x1fprobe 0"], [b"a", b"b"]], clock)
    began = clock.now
    with caplog.at_level(logging.DEBUG):
        while clock.now < began + 120.1:
            listener._attend(wire)  # type: ignore[arg-type]
    assert len(caplog.records) == 3
    dropped = sum(int(record.args[0]) for record in caplog.records if record.args)  # type: ignore[arg-type]
    assert wire.taken * 2 / 3 - 20 <= dropped <= wire.taken * 2 / 3 + 20


def test_probes_are_not_malformed(proxy: Proxy, raw: Raw, caplog: pytest.LogCaptureFixture) -> None:
    """Each worker that starts sends some."""
    heard = threading.Event()
    with listen(lambda topic: heard.set()):
        publisher = raw.publisher_heard_by(b"")
        assert eventually(
            lambda: send(publisher, b"\x1fprobe 01234567") and send(publisher, b"quad") and heard.is_set()
        )
    assert "no topic" not in caplog.text


class Subscribers(Wire):
    """Subscriptions without end."""

    connected_at = 0.0


@pytest.fixture
def publishing(monkeypatch: pytest.MonkeyPatch) -> Iterator[publisher._Publisher]:
    """One whose thread does nothing: the test does."""
    monkeypatch.setattr(publisher._Publisher, "_run", lambda self: None)
    made = publisher._Publisher("tcp://127.0.0.1:5555")
    yield made
    made._bell.close()


def test_subscriptions_without_end_cost_bounded_memory(publishing: publisher._Publisher) -> None:
    clock = Clock()
    publishing._allowance = Allowance(publisher.SUBSCRIPTIONS, publisher.WINDOW, clock)
    wire = Subscribers([[b"\x01%d" % n] for n in range(10 * publisher.MAX_PREFIXES)], clock)
    while wire.taken < 10 * publisher.MAX_PREFIXES:
        publishing._note_subscriptions(wire)  # type: ignore[arg-type]
        clock.sleep(publishing._allowance.pause)
    assert len(publishing._prefixes) <= publisher.MAX_PREFIXES + 2
    # And whoever could not be noted is heard of nevertheless.
    assert publishing._heard(b"whatever", 0)
    assert publishing._heard(CHANGES.encode() + b"quad", len(CHANGES))
    assert publishing._deaf_since is None


def test_subscriptions_are_noted_at_a_bounded_rate(publishing: publisher._Publisher) -> None:
    clock = Clock()
    publishing._allowance = Allowance(publisher.SUBSCRIPTIONS, publisher.WINDOW, clock)
    wire, began = Subscribers([[b"\x01a"], [b"\x00a"]], clock), clock.now
    while clock.now < began + 10:
        publishing._note_subscriptions(wire)  # type: ignore[arg-type]
        clock.sleep(publishing._allowance.pause if publishing._allowance.left <= 0 else 0.001)
    assert wire.taken <= publisher.SUBSCRIPTIONS * (10 / publisher.WINDOW + 1)


def test_prefixes_that_no_topic_has_are_not_kept(publishing: publisher._Publisher) -> None:
    publishing._note_subscription(b"x" * 129)
    publishing._note_subscription(b"x" * 128)
    assert publishing._prefixes == {b"x" * 128}


def test_a_listener_that_rests_hears_the_bell(urls: Urls) -> None:
    """Whoever stops it does not wait for a flood to end."""
    bell = Bell()
    link = Link(zmq.SUB, urls.sub, bell)
    try:
        threading.Timer(0.05, bell.ring).start()
        began = time.monotonic()
        link.rest(PATIENCE)
        while time.monotonic() < began + 0.05:  # the monitor spoke first
            link.rest(PATIENCE)
        assert time.monotonic() - began < PATIENCE / 2
    finally:
        link.close()
        bell.close()
