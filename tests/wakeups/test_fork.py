"""A forked child has neither the thread nor a usable connection of its parent, and makes its own."""

from __future__ import annotations

import os

import pytest

from pipeteer_django.wakeups import Proxy

from .raw import Raw, Urls, finish, start

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def test_child_and_parent_publish(proxy: Proxy, urls: Urls, raw: Raw) -> None:
    subscriber = raw.subscriber()
    body = """
        publish("before")
        assert flush(10)
        child = os.fork()
        publish("parent" if child else "child")
        if child:
            assert os.waitpid(child, 0)[1] == 0
            publish("after")
    """
    finish(start(body, urls))
    assert {subscriber.recv() for _ in range(4)} == {b"before", b"parent", b"child", b"after"}


def test_child_of_multiprocessing_flushes_although_it_skips_atexit(proxy: Proxy, urls: Urls, raw: Raw) -> None:
    subscriber = raw.subscriber()
    body = """
        import multiprocessing
        publish("parent")
        child = multiprocessing.get_context("fork").Process(target=publish, args=("child",))
        child.start()
        child.join()
        assert child.exitcode == 0
    """
    finish(start(body, urls))
    assert {subscriber.recv() for _ in range(2)} == {b"parent", b"child"}


def test_forks_in_the_middle_of_publishing(proxy: Proxy, urls: Urls, raw: Raw) -> None:
    """Whatever lock another thread held at the fork, the child's publish returns."""
    subscriber = raw.subscriber(b"child-")
    body = """
        import threading
        stop = threading.Event()
        def storm():
            while not stop.is_set():
                publish("storm")
                with Waiter(["storm"]):
                    pass
        threads = [threading.Thread(target=storm) for _ in range(3)]
        for thread in threads:
            thread.start()
        children = []
        for n in range(30):
            child = os.fork()
            if not child:
                publish(f"child-{n}")
                ok = flush(10)
                with Waiter(["quad"]) as waiter:
                    waiter.wait(0.01)
                os._exit(0 if ok else 1)
            children.append(child)
        codes = [os.waitpid(child, 0)[1] for child in children]
        stop.set()
        for thread in threads:
            thread.join()
        assert codes == [0] * 30, codes
    """
    finish(start(body, urls))
    while subscriber.poll(200):
        assert subscriber.recv().startswith(b"child-")


def test_child_listens_for_itself(proxy: Proxy, urls: Urls, raw: Raw) -> None:
    body = """
        import threading
        heard = threading.Event()
        inherited = listen(lambda topic: heard.set())
        assert inherited.settle(10)
        child = os.fork()
        if not child:
            heard = threading.Event()
            inherited.close()
            listen(lambda topic: heard.set())
        woken = heard.wait(15)
        if not child:
            os._exit(0 if woken else 1)
        assert woken
        assert os.waitpid(child, 0)[1] == 0
    """
    process = start(body, urls)
    publisher = raw.publisher()
    while process.poll() is None:
        publisher.send(b"quad")
        publisher.poll(50)
        while publisher.poll(0):
            publisher.recv()
    finish(process)


def test_child_of_a_host_does_not_stop_its_proxy(proxy: Proxy, urls: Urls) -> None:
    proxy.stop()
    body = """
        conf = settings.PIPETEER
        proxy = Proxy(conf["PUB_URL"], conf["SUB_URL"])
        assert proxy.start()
        child = os.fork()
        if not child:
            proxy.stop()
            sys.exit(0 if not Proxy(conf["PUB_URL"], conf["SUB_URL"]).start() else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert answers(10)
        proxy.stop()
    """
    finish(start(body, urls))
