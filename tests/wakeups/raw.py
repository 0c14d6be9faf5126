"""The other end of every test: plain ZeroMQ, plain sockets and processes, none of it pipeteer_django's own code."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import zmq

PATIENCE = 20.0
"""Seconds after which a test gives up on what should take milliseconds."""

ROOT = Path(__file__).resolve().parents[2]
CONFIGURE = """
import json, os, sys
from django.conf import settings
settings.configure(PIPETEER=json.loads(os.environ["WAKEUP_SETTINGS"]))
from pipeteer_django.wakeups import *
"""


class Urls(NamedTuple):
    pub: str
    sub: str

    def settings(self) -> dict[str, str]:
        return {"PUB_URL": self.pub, "SUB_URL": self.sub}


def free_port() -> int:
    """Below the range of outgoing connections: in it, one that retries for ever in the end connects to itself."""
    while True:
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", port := random.randrange(10_000, 32_000)))
            return port


class Raw:
    """Raw sockets that are closed together."""

    def __init__(self, urls: Urls) -> None:
        self.urls = urls
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []

    def socket(self, kind: int) -> zmq.Socket[bytes]:
        made = self.context.socket(kind)
        self._sockets.append(made)  # collected, it would take with it what it has just been given to send
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.RCVTIMEO, int(PATIENCE * 1000))
        return made

    def publisher(self, kind: int = zmq.XPUB) -> zmq.Socket[bytes]:
        made = self.socket(kind)
        made.connect(self.urls.pub)
        return made

    def publisher_heard_by(self, prefix: bytes) -> zmq.Socket[bytes]:
        """A publisher whose messages get through to a subscriber of `prefix`."""
        made = self.publisher()
        while made.recv() != b"\x01" + prefix:
            pass
        return made

    def subscriber(self, prefix: bytes = b"") -> zmq.Socket[bytes]:
        """A subscriber that hears from now on; needs a running proxy."""
        made = self.socket(zmq.SUB)
        made.setsockopt(zmq.SUBSCRIBE, prefix)
        made.connect(self.urls.sub)
        self.publisher_heard_by(prefix).close()
        return made

    def bound_subscriber(self) -> zmq.Socket[bytes]:
        """A subscriber in the proxy's place: whoever connects sees its subscription with the handshake."""
        made = self.socket(zmq.SUB)
        made.setsockopt(zmq.SUBSCRIBE, b"")
        made.bind(self.urls.pub)
        return made


def send(publisher: zmq.Socket[bytes], frame: bytes) -> bool:
    publisher.send(frame)
    return True


def silent(subscriber: zmq.Socket[bytes], seconds: float = 0.3) -> bool:
    return not subscriber.poll(int(seconds * 1000))


def eventually(done: Callable[[], bool], every: float = 0.02, within: float = PATIENCE) -> bool:
    deadline = time.monotonic() + within
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def start(body: str, urls: Urls, **more: object) -> subprocess.Popen[str]:
    """A process with these addresses in its settings and all of `pipeteer_django.wakeups` imported."""
    environment = {"WAKEUP_SETTINGS": json.dumps({**urls.settings(), **more}), "PYTHONPATH": str(ROOT)}
    code = CONFIGURE + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def running(body: str, urls: Urls, **more: object) -> Iterator[subprocess.Popen[str]]:
    process = start(body, urls, **more)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for the end; what it printed. Fails if it failed."""
    try:
        out, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, out
    return out.strip()


PROXY = """
import signal
conf = settings.PIPETEER
proxy = Proxy(conf["PUB_URL"], conf["SUB_URL"])
signal.signal(signal.SIGTERM, lambda *_: proxy.stop())
assert proxy.start()
print("up", flush=True)
assert proxy.run()
print("stopped", flush=True)
"""


PROXY_WITH_ORPHAN = """
conf = settings.PIPETEER
proxy = Proxy(conf["PUB_URL"], conf["SUB_URL"])
assert proxy.start()
sys.stdin.readline()    # when told to, fork a child that outlives its killed parent, until the pipe is closed
if os.fork():
    print("up", flush=True)
sys.stdin.read()
"""


@contextmanager
def orphaning_proxy_process(
    urls: Urls, connected: Callable[[], None] = lambda: None
) -> Iterator[subprocess.Popen[str]]:
    """A host that forks a child, after `connected()` returned."""
    with running(PROXY_WITH_ORPHAN, urls) as process:
        connected()
        assert process.stdin is not None
        process.stdin.write("fork\n")
        process.stdin.flush()
        assert line(process) == "up"
        yield process


@contextmanager
def proxy_process(urls: Urls, **more: object) -> Iterator[subprocess.Popen[str]]:
    with running(PROXY, urls, **more) as process:
        assert line(process) == "up"
        yield process
