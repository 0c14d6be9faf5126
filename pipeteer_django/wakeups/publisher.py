"""Publishing: hand over a topic and go on; a thread of this process sees it out."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from multiprocessing.util import Finalize
from typing import Any

import zmq
from django.core.signals import setting_changed

from pipeteer_django import conf

from .link import Bell, Link
from .pace import Allowance
from .topics import CHANGES, MAX_TOPIC_BYTES, encode

logger = logging.getLogger(__name__)

MAX_PENDING = 1000
"""Topics kept while no proxy answers; beyond it the oldest are dropped."""
MAX_PREFIXES = 10_000
"""Subscriptions that are told apart; where there are more, everything counts as subscribed to."""
WINDOW = 0.05
SUBSCRIPTIONS = 2000
"""Subscriptions in one WINDOW (seconds) that are taken note of; others wait for the next."""
SETTLE = 0.3
"""Seconds a topic waits, once connected, for somebody to subscribe to it; after that nobody hears it: dropped."""
CALM = 0.1
"""Seconds between two times that the same change is told: a busy worker changes rows a thousand times a second."""
RETRY = 0.02
"""Seconds between two looks at topics that cannot leave yet."""
EXIT_PATIENCE = 0.8
"""Seconds that pending topics may hold up the end of the process."""
REFUSED_PATIENCE = 0.2
"""The same when nothing answers."""
LINGER = 0.2
"""Seconds for the network layer to send what it was given, at the end."""

_CHANGES = CHANGES.encode()


def publish(topic: str) -> None:
    """Hint that `topic` has news. Returns at once and never raises; from any thread, process or transaction state."""
    try:
        if conf.settings().WAKEUPS:
            _running().add(encode(topic))
    except Exception:
        # The caller's transaction has committed: nothing here may look like its failure.
        logger.debug("Dropped a wake-up for %r.", topic, exc_info=True)


def flush(timeout: float) -> bool:
    """Wait until all published topics left this process, at most `timeout` seconds. False: some are still here."""
    publisher = _publisher
    return publisher is None or publisher.flush(timeout)


def reset(patience: float = 0) -> None:
    """Stop the thread, giving pending topics `patience` seconds to leave; the next `publish` starts anew."""
    global _publisher
    with _guard:
        publisher, _publisher = _publisher, None
    if publisher is not None:
        publisher.stop(patience)


class _Publisher:
    """The pending topics and the thread that sends them.

    The socket is an XPUB, on the wire the same as a PUB, because it sees the proxy's subscriptions arrive. What a PUB
    sends before they do is lost in silence: all a short-lived process would ever send.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._bell = Bell()
        self._changed = threading.Condition()
        self._pending: dict[bytes, float] = {}  # with the monotonic time of publication
        self._sending = False
        self._leaving: tuple[float, float] | None = None
        self._prefixes: set[bytes] = set()
        self._allowance = Allowance(SUBSCRIPTIONS, WINDOW)
        self._told: dict[bytes, float] = {}
        """When a change was last told."""
        self._deaf_since: float | None = None
        """Connected since then, and nobody has asked for changes."""
        self._thread = threading.Thread(target=self._run, name="pipeteer-publisher", daemon=True)
        self._thread.start()

    def add(self, frame: bytes) -> None:
        if frame.startswith(_CHANGES) and (frame in self._pending or self._nobody_looks()):
            return  # without the lock: what is still pending leaves later than this
        with self._changed:
            self._pending.setdefault(frame, time.monotonic())
            self._trim()
        self._bell.ring()

    def flush(self, timeout: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._empty() or not self._thread.is_alive(), timeout)
            return self._empty()

    def stop(self, patience: float) -> None:
        self._leaving = time.monotonic(), patience
        self._bell.ring()
        self._thread.join(patience + LINGER + 1)

    def _run(self) -> None:
        try:
            link = Link(zmq.XPUB, self._url, self._bell)
            try:
                self._serve(link)
            finally:
                link.close(LINGER)
        except Exception as error:
            logger.exception("This process publishes no more wake-ups, work is found by polling: %s", error)
        self._bell.close()

    def _serve(self, link: Link) -> None:
        while not self._finished(link):
            if self._allowance.left > 0:
                link.poll(self._patience(link))
            else:
                link.rest(self._allowance.pause)
            self._note_subscriptions(link)
            self._send(link)

    def _finished(self, link: Link) -> bool:
        if self._leaving is None:
            return False
        since, patience = self._leaving
        limit = min(patience, REFUSED_PATIENCE) if link.refused else patience
        return not self._pending or time.monotonic() >= since + limit

    def _nobody_looks(self) -> bool:
        since = self._deaf_since
        return since is not None and time.monotonic() > since + SETTLE

    def _patience(self, link: Link) -> float | None:
        waiting = self._pending and link.connected_at is not None
        return RETRY if waiting or self._leaving else None

    def _note_subscriptions(self, link: Link) -> None:
        for frame, *_ in link.received(self._allowance.left):
            self._allowance.spend(1)
            if frame[:1] == b"\x01":
                self._note_subscription(frame[1:])
            elif frame[:1] == b"\x00":
                self._prefixes.discard(frame[1:])
        asked = any(prefix.startswith(_CHANGES) for prefix in self._prefixes)
        self._deaf_since = None if asked else link.connected_at

    def _note_subscription(self, prefix: bytes) -> None:
        if len(self._prefixes) >= MAX_PREFIXES:
            self._prefixes |= {b"", _CHANGES}
        elif len(prefix) <= MAX_TOPIC_BYTES:  # no topic begins with a longer one
            self._prefixes.add(prefix)

    def _send(self, link: Link) -> None:
        if link.connected_at is None:
            return
        with self._changed:
            # Taken before it is sent: a topic published meanwhile is new, not the one that is just leaving.
            taken, self._pending, self._sending = self._pending, {}, True
        kept = {frame: published for frame, published in taken.items() if not self._left(frame, link, published)}
        with self._changed:
            self._pending, self._sending = kept | self._pending, False
            self._trim()
            if not self._pending:
                self._changed.notify_all()

    def _left(self, frame: bytes, link: Link, published: float) -> bool:
        """Send `frame` if someone hears it; whether it is done with."""
        now, change, connected_at = time.monotonic(), frame.startswith(_CHANGES), link.connected_at or 0.0
        if change and now < self._told.get(frame, 0.0) + CALM:
            return False
        if not self._heard(frame, len(_CHANGES) if change else 0):
            return now > (connected_at if change else max(published, connected_at)) + SETTLE
        with contextlib.suppress(zmq.Again):
            link.socket.send(frame, zmq.NOBLOCK)
            if change:
                self._told[frame] = now
            return True
        return False

    def _heard(self, frame: bytes, shortest: int) -> bool:
        """Whether somebody has subscribed to a beginning of it that has at least so many bytes."""
        lengths = range(shortest, len(frame) + 1)
        return bool(self._prefixes) and any(frame[:length] in self._prefixes for length in lengths)

    def _trim(self) -> None:
        while len(self._pending) > MAX_PENDING:
            del self._pending[next(iter(self._pending))]

    def _empty(self) -> bool:
        return not self._pending and not self._sending


_publisher: _Publisher | None = None
_guard = threading.RLock()  # re-entrant, as the condition above: a signal handler may publish


def _running() -> _Publisher:
    global _publisher
    with _guard:
        if _publisher is None:
            _publisher = _Publisher(conf.settings().PUB_URL)
            # Unlike atexit this also runs at the end of multiprocessing's children.
            Finalize(None, reset, args=(EXIT_PATIENCE,), exitpriority=0)
        return _publisher


def _after_fork() -> None:
    """The thread stayed in the parent, and its locks may be held for ever in this copy."""
    global _publisher, _guard
    _publisher, _guard = None, threading.RLock()


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting == "PIPETEER":
        reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
setting_changed.connect(_on_setting_changed)
