"""One connection to the proxy, as its thread sees it: the socket, what its monitor says, and a bell."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import time
from collections.abc import Iterator

import zmq
from zmq.utils.monitor import recv_monitor_message

from .addresses import check_url, destination
from .keys import check_keys, secure_client
from .topics import MAX_FRAME_BYTES

logger = logging.getLogger(__name__)

_NOT_LET_IN = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED | _NOT_LET_IN
_OPTIONS = {
    zmq.MAXMSGSIZE: MAX_FRAME_BYTES,
    zmq.RECONNECT_IVL: 100,  # milliseconds, as all here
    zmq.RECONNECT_IVL_MAX: 1000,
    zmq.CONNECT_TIMEOUT: 3000,  # a host that is gone sends nothing back, and another may have its address soon
    # A connection can outlive a killed proxy, in a child that it forked: only silence tells.
    zmq.HEARTBEAT_IVL: 2000,
    zmq.HEARTBEAT_TIMEOUT: 5000,
    zmq.HEARTBEAT_TTL: 15000,  # and a host that vanished leaves no connection behind at the proxy
}
_NO_ANSWER = logging.INFO, "No proxy answers at %s, or one with other CURVE_KEYS than here"
_REASONS = {
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): (
        logging.WARNING,
        "The proxy at %s refuses this host's key. Copy the folder allowed/ that manage.py pipeteer_keys made to its "
        "host",
    ),
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): (
        logging.WARNING,
        "What answers at %s is not a proxy, or only one of both sides has CURVE_KEYS",
    ),
}
REDIAL = 5.0
"""Seconds without any sign from a connection that is to be made, after which it is begun anew."""


class Bell:
    """Wakes a thread that polls. Any thread may ring; ringing never blocks."""

    def __init__(self) -> None:
        self._ear, self._button = socket.socketpair()
        self._ear.setblocking(False)
        self._button.setblocking(False)

    def ring(self) -> None:
        with contextlib.suppress(OSError):  # full: it is ringing already; closed: nobody is left to wake
            self._button.send(b"!")

    def silence(self) -> None:
        with contextlib.suppress(OSError):
            self._ear.recv(65536)

    def fileno(self) -> int:
        return self._ear.fileno()

    def close(self) -> None:
        self._ear.close()
        self._button.close()


def check_client(url: str) -> None:
    """Raise ImproperlyConfigured for an address that `check_url` refuses, and where there are keys but not all."""
    check_url(url)
    check_keys()


def prepare(context: zmq.Context[zmq.Socket[bytes]], kind: int, url: str) -> zmq.Socket[bytes]:
    """A socket that, once it is connected to the checked `url`, reconnects for ever. With keys, it proves itself."""
    prepared = context.socket(kind)
    for option, value in _OPTIONS.items():
        prepared.setsockopt(option, value)
    prepared.setsockopt(zmq.IPV6, int("[" in url))
    if kind == zmq.XPUB:
        prepared.setsockopt(zmq.IMMEDIATE, 1)  # a lost connection takes its subscriptions with it
        prepared.setsockopt(zmq.XPUB_NODROP, 1)  # a full pipe says so
    secure_client(prepared)
    return prepared


class Link:
    """Used by one thread only. Raises ImproperlyConfigured where `check_client` does."""

    connected_at: float | None = None
    """Monotonic time of the handshake while connected."""
    refused = False
    """The last try to connect failed."""

    def __init__(self, kind: int, url: str, bell: Bell) -> None:
        check_client(url)
        self._url = url
        self._bell = bell
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = prepare(self._context, kind, url)
        if kind == zmq.SUB:
            self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._monitor = self.socket.get_monitor_socket(_EVENTS)
        self._heard_at = time.monotonic()
        """When the monitor said something last."""
        self.socket.connect(destination(url))  # last: on loopback the handshake may be over before the next line
        self._poller, self._resting = zmq.Poller(), zmq.Poller()
        for source in (self._monitor, bell):
            self._poller.register(source, zmq.POLLIN)
            self._resting.register(source, zmq.POLLIN)
        self._poller.register(self.socket, zmq.POLLIN)

    def poll(self, timeout: float | None) -> None:
        """Wait until something happens, at most `timeout` seconds."""
        self._poll(self._poller, timeout)

    def rest(self, timeout: float) -> None:
        """`poll`, whatever arrives meanwhile: that waits, and where it is too much, the proxy drops it."""
        self._poll(self._resting, timeout)

    def received(self, limit: int = 1000) -> Iterator[list[bytes]]:
        """What has arrived; never waits. At most `limit`, so that a flood cannot keep its thread from anything else."""
        with contextlib.suppress(zmq.Again):
            for _ in range(limit):
                yield self.socket.recv_multipart(zmq.NOBLOCK)

    def close(self, linger: float = 0) -> None:
        """Close; what is still in the pipe has `linger` seconds to leave."""
        self._context.destroy(linger=int(linger * 1000))

    def _poll(self, poller: zmq.Poller, timeout: float | None) -> None:
        if self.connected_at is None:
            timeout = self._redial() if timeout is None else min(timeout, self._redial())
        poller.poll(None if timeout is None else math.ceil(timeout * 1000))
        self._bell.silence()
        with contextlib.suppress(zmq.Again):
            while True:
                self._note(recv_monitor_message(self._monitor, zmq.NOBLOCK)["event"])

    def _redial(self) -> float:
        """Begin again where ZeroMQ has given up: after a refusal, or an answer that is not ZeroMQ, it is for good.

        Returns the seconds until that is to be asked again.
        """
        now = time.monotonic()
        if now >= self._heard_at + REDIAL:
            with contextlib.suppress(zmq.ZMQError):
                self.socket.disconnect(destination(self._url))
            self.socket.connect(destination(self._url))
            self._heard_at = now
        return self._heard_at + REDIAL - now

    def _note(self, event: int) -> None:
        self._heard_at = time.monotonic()
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.connected_at, self.refused = self._heard_at, False
            logger.debug("Connected to the proxy at %s.", self._url)
            return
        if not self.refused:
            level, words = _REASONS.get(event, _NO_ANSWER)
            logger.log(level, f"{words}: wake-ups are off until that changes, polling goes on.", self._url)
        self.connected_at, self.refused = None, True
