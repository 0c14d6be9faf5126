from __future__ import annotations

import threading
import time

import pytest
import zmq
from django.test import override_settings

from pipeteer_django.wakeups import Proxy, flush, publish
from pipeteer_django.wakeups.publisher import MAX_PENDING

from .raw import PATIENCE, Raw, Urls, eventually, finish, line, proxy_process, running, silent, start


def publisher_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pipeteer-publisher"]


def test_plain_subscriber_hears_one_frame(proxy: Proxy, raw: Raw) -> None:
    subscriber = raw.subscriber()
    publish("Bestellung-é")
    assert subscriber.recv_multipart() == ["Bestellung-é".encode()]
    assert flush(PATIENCE)


def test_prefix_subscriber_hears_its_own(proxy: Proxy, raw: Raw) -> None:
    subscriber = raw.subscriber(b"qu")
    publish("double")
    publish("quad")
    assert subscriber.recv() == b"quad"
    assert silent(subscriber)


def test_works_over_ipc(ipc_urls: Urls) -> None:
    raw = Raw(ipc_urls)
    with override_settings(PIPETEER=ipc_urls.settings()), proxy_process(ipc_urls):
        subscriber = raw.subscriber()
        publish("quad")
        assert subscriber.recv() == b"quad"
    raw.context.destroy(linger=0)


def test_twenty_short_lived_processes_give_twenty_wake_ups(proxy: Proxy, urls: Urls, raw: Raw) -> None:
    subscriber = raw.subscriber()
    processes = [start(f"publish('run-{n}')", urls) for n in range(20)]
    for process in processes:
        finish(process)
    assert {subscriber.recv() for _ in range(20)} == {b"run-%d" % n for n in range(20)}
    assert silent(subscriber)


def test_killed_and_restarted_proxy_is_found_again(urls: Urls, raw: Raw) -> None:
    for life in range(3):
        topic = f"life-{life}"
        with proxy_process(urls) as process:
            subscriber = raw.subscriber()
            assert eventually(lambda: _arrives(topic, subscriber))  # noqa: B023
            process.kill()
            process.wait()
            subscriber.close()
            publish("nobody-hears-this")


def _arrives(topic: str, subscriber: zmq.Socket[bytes]) -> bool:
    publish(topic)
    while subscriber.poll(50):
        if subscriber.recv() == topic.encode():
            return True
    return False


def test_pending_topics_are_coalesced_in_order(urls: Urls, raw: Raw) -> None:
    for _ in range(100):
        publish("a")
        publish("b")
    publish("c")
    subscriber = raw.bound_subscriber()
    assert [subscriber.recv() for _ in range(3)] == [b"a", b"b", b"c"]
    assert silent(subscriber)


def test_pending_topics_are_bounded_and_the_newest_kept(urls: Urls, raw: Raw) -> None:
    for n in range(5 * MAX_PENDING):
        publish(f"output-{n}")
    subscriber = raw.bound_subscriber()
    heard = [subscriber.recv()]
    while subscriber.poll(300):
        heard.append(subscriber.recv())
    assert len(heard) <= MAX_PENDING
    assert heard[-1] == b"output-%d" % (5 * MAX_PENDING - 1)


def test_threads_publish_together(urls: Urls, raw: Raw) -> None:
    subscriber = raw.bound_subscriber()
    threads = [threading.Thread(target=_publish_many, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {f"{n}-{i}".encode() for n in range(8) for i in range(100)}
    assert {subscriber.recv() for _ in range(800)} == expected
    assert len(publisher_threads()) == 1


def _publish_many(n: int) -> None:
    for i in range(100):
        publish(f"{n}-{i}")


def test_flush_says_whether_all_left(urls: Urls, raw: Raw) -> None:
    assert flush(0)
    publish("quad")
    assert not flush(0.1)
    assert raw.bound_subscriber().recv() == b"quad"
    assert flush(PATIENCE)


def test_what_nobody_subscribed_to_is_dropped(proxy: Proxy, raw: Raw) -> None:
    publish("nobody")
    assert flush(PATIENCE)
    subscriber = raw.subscriber()
    assert eventually(lambda: _published("somebody") and bool(subscriber.poll(50)))
    assert subscriber.recv() == b"somebody"


@pytest.mark.parametrize("topic", ["", "x" * 129, "a\nb", "\ud800", None])
def test_invalid_topic_is_dropped_without_a_word(proxy: Proxy, raw: Raw, topic: str) -> None:
    subscriber = raw.subscriber()
    publish(topic)
    publish("quad")
    assert subscriber.recv() == b"quad"


def test_nothing_answers_publish_returns_at_once(urls: Urls) -> None:
    began = time.monotonic()
    for n in range(1000):
        publish(f"output-{n}")
    assert time.monotonic() - began < 1


def test_nothing_answers_process_ends_soon(urls: Urls) -> None:
    assert _seconds_to_end(urls) < 1


def test_web_server_answers_process_ends_soon(web_server: None, urls: Urls) -> None:
    assert _seconds_to_end(urls) < 2


def _seconds_to_end(urls: Urls) -> float:
    with running("publish('quad'); print('end', flush=True)", urls) as process:
        assert line(process) == "end"
        began = time.monotonic()
        assert process.wait(PATIENCE) == 0
        return time.monotonic() - began


def test_without_wake_ups_nothing_starts(urls: Urls) -> None:
    with override_settings(PIPETEER={**urls.settings(), "WAKEUPS": False}):
        publish("quad")
        assert publisher_threads() == []
        assert flush(0)


def _published(topic: str) -> bool:
    publish(topic)
    return True
