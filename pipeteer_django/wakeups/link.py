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

from .addresses import endpoint
from .topics import MAX_FRAME_BYTES

logger = logging.getLogger(__name__)

_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED
_OPTIONS = {
    zmq.MAXMSGSIZE: MAX_FRAME_BYTES,
    zmq.RECONNECT_IVL: 100,  # milliseconds, as all here
    zmq.RECONNECT_IVL_MAX: 1000,
    # A connection can outlive a killed proxy, in a child that it forked: only silence tells.
    zmq.HEARTBEAT_IVL: 2000,
    zmq.HEARTBEAT_TIMEOUT: 5000,
}


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


def prepare(context: zmq.Context[zmq.Socket[bytes]], kind: int, url: str) -> zmq.Socket[bytes]:
    """A socket that, once it is connected to `url`, reconnects for ever."""
    prepared = context.socket(kind)
    for option, value in _OPTIONS.items():
        prepared.setsockopt(option, value)
    prepared.setsockopt(zmq.IPV6, int("[" in url))
    if kind == zmq.XPUB:
        prepared.setsockopt(zmq.IMMEDIATE, 1)  # a lost connection takes its subscriptions with it
        prepared.setsockopt(zmq.XPUB_NODROP, 1)  # a full pipe says so
    return prepared


class Link:
    """Used by one thread only. Raises ImproperlyConfigured for an address that `check_url` refuses."""

    connected_at: float | None = None
    """Monotonic time of the handshake while connected."""
    refused = False
    """The last try to connect failed."""

    def __init__(self, kind: int, url: str, bell: Bell) -> None:
        self._url = endpoint(url)
        self._bell = bell
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = prepare(self._context, kind, self._url)
        if kind == zmq.SUB:
            self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._monitor = self.socket.get_monitor_socket(_EVENTS)
        self.socket.connect(self._url)  # last: on loopback the handshake may be over before the next line
        self._poller = zmq.Poller()
        for source in (self.socket, self._monitor, bell):
            self._poller.register(source, zmq.POLLIN)

    def poll(self, timeout: float | None) -> None:
        """Wait until something happens, at most `timeout` seconds."""
        self._poller.poll(None if timeout is None else math.ceil(timeout * 1000))
        self._bell.silence()
        with contextlib.suppress(zmq.Again):
            while True:
                self._note(recv_monitor_message(self._monitor, zmq.NOBLOCK)["event"])

    def received(self, limit: int = 1000) -> Iterator[list[bytes]]:
        """What has arrived; never waits. At most `limit`, so that a flood cannot keep its thread from anything else."""
        with contextlib.suppress(zmq.Again):
            for _ in range(limit):
                yield self.socket.recv_multipart(zmq.NOBLOCK)

    def close(self, linger: float = 0) -> None:
        """Close; what is still in the pipe has `linger` seconds to leave."""
        self._context.destroy(linger=int(linger * 1000))

    def _note(self, event: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.connected_at, self.refused = time.monotonic(), False
            logger.debug("Connected to the proxy at %s.", self._url)
            return
        if not self.refused:
            logger.info("No proxy answers at %s: wake-ups are off until one does, polling goes on.", self._url)
        self.connected_at, self.refused = None, True
