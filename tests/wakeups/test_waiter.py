from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import zmq
from django.test import override_settings

from pipeteer_django.wakeups import Proxy, Waiter, listen
from pipeteer_django.wakeups import waiter as waiting_room

from .raw import PATIENCE, Raw, Urls, proxy_process

ROUNDS = 500


def test_its_topics_wake_it_others_do_not(proxy: Proxy, raw: Raw) -> None:
    with Waiter(["my-output", "other"]) as waiter:
        publisher = raw.publisher_heard_by(b"")
        publisher.send(b"my-output-2")
        assert not waiter.wait(0.2)
        publisher.send(b"other")
        assert waiter.wait(PATIENCE)
        assert not waiter.wait(0)


def test_topic_between_look_and_wait_is_not_lost(proxy: Proxy, raw: Raw) -> None:
    with Waiter(["quad"]) as waiter, Waiter(["quad"]) as witness:
        raw.publisher_heard_by(b"").send(b"quad")
        assert witness.wait(PATIENCE)  # and therefore, by now, the other has been called
        assert waiter.wait(0)


class Database:
    """A number that another thread commits and then hints at, as soon as the last one was seen."""

    def __init__(self, publisher: zmq.Socket[bytes]) -> None:
        self.value, self.seen = 0, threading.Semaphore()
        self._publisher = publisher

    def write(self) -> None:
        for value in range(1, ROUNDS + 1):
            assert self.seen.acquire(timeout=PATIENCE)
            self.value = value
            self._publisher.send(b"quad")


@pytest.fixture
def unpaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many hints in so short a time are heeded only here."""
    monkeypatch.setattr(waiting_room, "BURST", 100 * ROUNDS)


@contextmanager
def writing(raw: Raw) -> Iterator[Database]:
    database = Database(raw.publisher_heard_by(b""))
    thread = threading.Thread(target=database.write)
    thread.start()
    yield database
    thread.join()


@pytest.mark.usefixtures("unpaced")
def test_subscribe_look_wait_misses_nothing(proxy: Proxy, raw: Raw) -> None:
    with Waiter(["quad"]) as waiter, writing(raw) as database:
        for value in range(1, ROUNDS + 1):
            while database.value != value:
                assert waiter.wait(PATIENCE)
            database.seen.release()


@pytest.mark.usefixtures("unpaced")
def test_subscribe_look_await_misses_nothing(proxy: Proxy, raw: Raw) -> None:
    async def read(waiter: Waiter, database: Database) -> None:
        for value in range(1, ROUNDS + 1):
            while database.value != value:
                assert await waiter.await_wake(PATIENCE)
            database.seen.release()

    with Waiter(["quad"]) as waiter, writing(raw) as database:
        asyncio.run(read(waiter, database))


def test_async_waiter_leaves_the_loop_free(proxy: Proxy, raw: Raw) -> None:
    async def main() -> None:
        async with Waiter(["quad"]) as waiter:
            waiting = asyncio.create_task(waiter.await_wake(PATIENCE))
            publisher = await asyncio.to_thread(raw.publisher_heard_by, b"")
            publisher.send(b"quad")
            assert await waiting

    asyncio.run(main())


def test_cancelled_wait_loses_nothing(proxy: Proxy, raw: Raw) -> None:
    async def main() -> None:
        async with Waiter(["quad"]) as waiter:
            publisher = await asyncio.to_thread(raw.publisher_heard_by, b"")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waiter.await_wake(PATIENCE), 0.05)
            publisher.send(b"quad")
            assert await waiter.await_wake(PATIENCE)
            assert not await waiter.await_wake(0.01)

    asyncio.run(main())


@pytest.mark.parametrize("wakeups", [True, False])
def test_without_a_proxy_it_is_a_timeout(urls: Urls, wakeups: bool) -> None:
    with override_settings(PIPETEER={**urls.settings(), "WAKEUPS": wakeups}), Waiter(["quad"]) as waiter:
        began = time.monotonic()
        assert not waiter.wait(0.1)
        assert not asyncio.run(waiter.await_wake(0.1))
        assert 0.2 <= time.monotonic() - began < 5


def test_cheap_to_make(urls: Urls) -> None:
    listen(print).close()
    began = time.monotonic()
    for _ in range(300):
        with Waiter(["quad"]):
            pass
    assert time.monotonic() - began < 2


def test_thousands_of_topics_survive_a_restart_of_the_proxy(urls: Urls, raw: Raw) -> None:
    with Waiter(f"output-{n}" for n in range(5000)) as waiter:
        for _ in range(2):
            with proxy_process(urls):
                raw.publisher_heard_by(b"").send(b"output-4999")
                assert waiter.wait(PATIENCE)


def test_entering_nothing_but_a_web_server_is_bounded(web_server: None, urls: Urls) -> None:
    began = time.monotonic()
    with override_settings(PIPETEER={"PUB_URL": urls.sub, "SUB_URL": urls.pub}), Waiter(["quad"]):
        assert time.monotonic() - began < 2


@pytest.mark.once
def test_a_string_is_not_a_list_of_topics() -> None:
    with pytest.raises(TypeError, match=r"Waiter\(\['quad'\]\)"):
        Waiter("quad")
