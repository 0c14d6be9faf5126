"""Listening: one thread and one socket per process hear every topic and call whoever asked."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq
from django.core.signals import setting_changed

from pipeteer_django import conf

from .addresses import check_url
from .link import Bell, Link, check_client
from .pace import Allowance
from .topics import CHANGES, PROBE, decode

logger = logging.getLogger(__name__)

IDLE = 5.0
"""Seconds the thread outlives its last subscription, so that a web process does not reconnect for every request."""
WINDOW = 0.05
FLOOD = 800
"""Messages in one WINDOW (seconds) that are heard; where there are more, some are left unheard."""
BRISK = 50
"""After so many in one WINDOW, those that follow are gathered."""
GATHER = 0.002
"""Seconds for which they are: one by one they would cost five times as much."""
QUIET = 60.0
"""Seconds between two lines about malformed messages."""


def listen(
    callback: Callable[[str], None], *, changes: bool = False, flooded: Callable[[], None] | None = None
) -> Subscription:
    """Call `callback(topic)` for every wake-up, in a thread of this process, until the subscription is closed.

    With `changes` it is not called for wake-ups, but with the ids of pipelines that have rows that changed.
    In a flood some wake-ups are left unheard; then `flooded()` is called, every 50 ms: any topic may have news.
    The callbacks must be quick and must not block; what they raise is logged. With `WAKEUPS` off they are never called.
    Raises ImproperlyConfigured for an address that `check_url` refuses, and where there are CURVE keys but not all.
    """
    if not conf.settings().WAKEUPS:
        return Subscription(None)
    check_url(conf.settings().SUB_URL)
    with _guard:
        listener = _running()
        subscription = Subscription(listener)
        listener.add(subscription, callback, changes, flooded)
    return subscription


def reset() -> None:
    """Stop the thread; subscriptions still open hear nothing more. The next `listen` starts anew."""
    global _listener
    with _guard:
        listener, _listener = _listener, None
    if listener is not None:
        listener.stop()


class Subscription:
    """What `listen` returns; a context manager. A forked child hears nothing through it and makes its own."""

    def __init__(self, listener: _Listener | None) -> None:
        self._listener = listener

    def close(self) -> None:
        """Stop listening. A call already under way in the other thread may still end after this returns."""
        if self._listener is not None:
            with _guard:
                self._listener.forget(self)

    @property
    def settled(self) -> bool:
        """Whether it is known by now if a proxy answers."""
        return self._listener is None or self._listener.settled.is_set()

    def settle(self, timeout: float) -> bool:
        """Wait until that is known, at most `timeout` seconds."""
        return self._listener is None or self._listener.settled.wait(timeout)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Listener:
    """The callbacks, all guarded by `_guard`, and the thread that calls them.

    One subscription to everything, filtered here: a thousand topics resubscribed after each reconnect are a storm.
    """

    def __init__(self, url: str) -> None:
        self.callbacks: dict[Subscription, Callable[[str], None]] = {}
        self.for_changes: set[Subscription] = set()
        """Those of the callbacks that are called for changes, and only for them."""
        self.for_floods: dict[Subscription, Callable[[], None]] = {}
        self._minds_changes = False
        self._allowance = Allowance(FLOOD, WINDOW)
        self.settled = threading.Event()
        self.ended = False
        self._url = url
        self._bell = Bell()
        self._stopping = False
        self._idle_since = time.monotonic()
        self._malformed = 0
        self._said_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="pipeteer-subscriber", daemon=True)
        self._thread.start()

    def add(
        self,
        subscription: Subscription,
        callback: Callable[[str], None],
        changes: bool,
        flooded: Callable[[], None] | None,
    ) -> None:
        self.callbacks[subscription] = callback
        if flooded is not None:
            self.for_floods[subscription] = flooded
        if changes:
            self.for_changes.add(subscription)
            self._bell.ring()

    def forget(self, subscription: Subscription) -> None:
        self.callbacks.pop(subscription, None)
        self.for_changes.discard(subscription)
        self.for_floods.pop(subscription, None)
        if not self.callbacks:
            self._idle_since = time.monotonic()
        self._bell.ring()

    def stop(self) -> None:
        self._stopping = True
        self._bell.ring()
        if threading.current_thread() is not self._thread:
            self._thread.join(1)

    def _run(self) -> None:
        try:
            link = Link(zmq.SUB, self._url, self._bell)
            try:
                self._serve(link)
            finally:
                link.close()
        except Exception as error:
            logger.exception("Wake-ups are heard no more, work is found by polling: %s", error)
        self.ended = True
        self.settled.set()
        self._bell.close()

    def _serve(self, link: Link) -> None:
        while not self._finished():
            self._mind_changes(link)
            link.poll(None if self.callbacks else IDLE)
            if link.refused or link.connected_at is not None:
                self.settled.set()
            self._attend(link)

    def _attend(self, link: Link) -> None:
        """Hear what has arrived, as far as there is an allowance."""
        received = list(link.received(self._allowance.left))
        self._allowance.spend(len(received))
        topics = [decode(frames) for frames in received if not frames[0].startswith(PROBE)]
        self._count_malformed(topics.count(None))
        # Each once, where it came last: one topic may take back what another said before.
        for topic in reversed(dict.fromkeys(filter(None, reversed(topics)))):
            self._hear(topic)
        left = self._allowance.left
        if left <= 0:
            if received:
                self._tell_of_flood()
            link.rest(self._allowance.pause)
        elif left <= FLOOD - BRISK:
            link.rest(GATHER)

    def _tell_of_flood(self) -> None:
        with _guard:
            told = list(self.for_floods.values())
        for flooded in told:
            _call(flooded, "a flood of wake-ups")

    def _mind_changes(self, link: Link) -> None:
        """Subscribe to changes while somebody here wants them; that is how publishers know."""
        if self._minds_changes != bool(self.for_changes):
            self._minds_changes = bool(self.for_changes)
            link.socket.setsockopt(zmq.SUBSCRIBE if self._minds_changes else zmq.UNSUBSCRIBE, CHANGES.encode())

    def _finished(self) -> bool:
        with _guard:  # decided where `listen` looks, so that no subscription joins a thread that is ending
            idle = not self.callbacks and time.monotonic() >= self._idle_since + IDLE
            self.ended = self.ended or self._stopping or idle
        return self.ended

    def _count_malformed(self, more: int) -> None:
        self._malformed += more
        if self._malformed and time.monotonic() >= self._said_at + QUIET:
            logger.warning(
                "Dropped %d wake-ups that hold no topic. Does something else send to the proxy?", self._malformed
            )
            self._malformed, self._said_at = 0, time.monotonic()

    def _hear(self, topic: str) -> None:
        changed = topic.startswith(CHANGES)
        with _guard:
            callbacks = [call for who, call in self.callbacks.items() if changed == (who in self.for_changes)]
        for callback in callbacks:
            _call(callback, f"the wake-up for {topic!r}", topic.removeprefix(CHANGES) if changed else topic)


def _call(callback: Callable[..., None], on: str, *topic: str) -> None:
    try:
        callback(*topic)
    except Exception:
        logger.exception("%r failed on %s; the others were called.", callback, on)


_listener: _Listener | None = None
_guard = threading.RLock()


def _running() -> _Listener:
    global _listener
    if _listener is None or _listener.ended:
        check_client(conf.settings().SUB_URL)
        _listener = _Listener(conf.settings().SUB_URL)
    return _listener


def _after_fork() -> None:
    """The thread stayed in the parent, and its lock may be held for ever in this copy."""
    global _listener, _guard
    _listener, _guard = None, threading.RLock()


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting == "PIPETEER":
        reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(reset)
setting_changed.connect(_on_setting_changed)
