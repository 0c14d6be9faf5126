from __future__ import annotations

import logging
import queue
import threading

import pytest
import zmq
from django.test import override_settings

from pipeteer_django.wakeups import Proxy, Waiter, listen, subscriber

from .raw import PATIENCE, Raw, Urls, eventually, proxy_process, send


def subscriber_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pipeteer-subscriber"]


def test_plain_publisher_wakes_us(proxy: Proxy, raw: Raw) -> None:
    heard: queue.Queue[str] = queue.Queue()
    publisher = raw.publisher(zmq.PUB)
    with listen(heard.put):
        assert eventually(lambda: send(publisher, b"quad") and not heard.empty())
    assert heard.get() == "quad"


def test_malformed_frames_are_dropped(proxy: Proxy, raw: Raw, caplog: pytest.LogCaptureFixture) -> None:
    heard: queue.Queue[str] = queue.Queue()
    with listen(heard.put), caplog.at_level(logging.DEBUG, logger="pipeteer_django.wakeups"):
        publisher = raw.publisher_heard_by(b"")
        for frames in ([b"a", b"b"], [b""], [b"x" * 129], [b"\xff\xfe"], [b"a\nb"], [b"quad"]):
            publisher.send_multipart(frames)
        assert heard.get(timeout=PATIENCE) == "quad"
    assert "wake-ups that hold no topic" in caplog.text


def test_callback_that_raises_does_not_stop_the_others(
    proxy: Proxy, raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    heard: queue.Queue[str] = queue.Queue()
    with listen(_broken), listen(heard.put):
        publisher = raw.publisher_heard_by(b"")
        publisher.send(b"one")
        publisher.send(b"two")
        assert [heard.get(timeout=PATIENCE) for _ in range(2)] == ["one", "two"]
    assert "_broken" in caplog.text


def _broken(topic: str) -> None:
    raise RuntimeError(topic)


def test_nothing_is_heard_after_close(proxy: Proxy, raw: Raw) -> None:
    heard: queue.Queue[str] = queue.Queue()
    closed: queue.Queue[str] = queue.Queue()
    subscription = listen(closed.put)
    with listen(heard.put):
        publisher = raw.publisher_heard_by(b"")
        subscription.close()
        subscription.close()
        publisher.send(b"quad")
        assert heard.get(timeout=PATIENCE) == "quad"
    assert closed.empty()


def test_callback_may_close_its_own_subscription(proxy: Proxy, raw: Raw) -> None:
    closed = threading.Event()

    def once(topic: str) -> None:
        subscription.close()
        closed.set()

    subscription = listen(once)
    raw.publisher_heard_by(b"").send(b"quad")
    assert closed.wait(PATIENCE)


def test_thread_outlives_the_last_subscription_a_little(
    proxy: Proxy, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "IDLE", 0.3)
    for _ in range(50):
        listen(print).close()
    assert len(subscriber_threads()) == 1
    assert eventually(lambda: subscriber_threads() == [])

    heard: queue.Queue[str] = queue.Queue()
    with listen(heard.put):
        raw.publisher_heard_by(b"").send(b"quad")
        assert heard.get(timeout=PATIENCE) == "quad"


def test_subscriptions_open_while_threads_end(proxy: Proxy, raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    """No subscription may be left with a thread that has just decided to end."""
    monkeypatch.setattr(subscriber, "IDLE", 0.001)
    for _ in range(200):
        listen(print).close()
    heard: queue.Queue[str] = queue.Queue()
    with listen(heard.put):
        publisher = raw.publisher(zmq.PUB)
        assert eventually(lambda: send(publisher, b"quad") and not heard.empty())


def test_killed_and_restarted_proxy_is_found_again(urls: Urls, raw: Raw) -> None:
    heard: queue.Queue[str] = queue.Queue()
    with listen(heard.put):
        for life in (b"one", b"two", b"three"):
            with proxy_process(urls):
                raw.publisher_heard_by(b"").send(life)
                assert heard.get(timeout=PATIENCE) == life.decode()


def test_many_listeners_share_one_connection(proxy: Proxy, raw: Raw) -> None:
    waiters = [Waiter([f"output-{n}"]).__enter__() for n in range(100)]
    assert len(subscriber_threads()) == 1
    publisher = raw.publisher_heard_by(b"")
    for n in range(100):
        publisher.send(b"output-%d" % n)
    assert all(waiter.wait(PATIENCE) for waiter in waiters)
    for waiter in waiters:
        waiter.__exit__()


def test_without_wake_ups_nothing_starts(urls: Urls) -> None:
    with override_settings(PIPETEER={**urls.settings(), "WAKEUPS": False}), listen(print):
        assert subscriber_threads() == []
