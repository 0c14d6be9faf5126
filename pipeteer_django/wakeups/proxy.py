"""The proxy: what publishers say on one address, subscribers hear on the other. One process hosts it."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import weakref

import zmq
from zmq.auth.thread import ThreadAuthenticator

from .addresses import check_url
from .holding import AddressInUse, Holding
from .keys import dismiss, doorkeeper, secure_server
from .topics import MAX_FRAME_BYTES

logger = logging.getLogger(__name__)

_Context = zmq.Context[zmq.Socket[bytes]]


class Proxy:
    """Forwards wake-ups from `pub_url` to `sub_url`. Raises ImproperlyConfigured for addresses `check_url` refuses."""

    def __init__(self, pub_url: str, sub_url: str) -> None:
        check_url(pub_url)
        check_url(sub_url)
        self.pub_url, self.sub_url = pub_url, sub_url
        self._context: _Context | None = None
        self._doorkeeper: ThreadAuthenticator | None = None
        self._holding = Holding()
        self._stopping = False
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()

    def start(self) -> bool:
        """Bind and forward in a daemon thread. False, with nothing bound, if another process or host has an address.

        Raises ImproperlyConfigured if an address cannot be bound for another reason, or without the proxy's keys.
        """
        self._stopping = False
        return self._start()

    def stop(self) -> None:
        """End forwarding and free both addresses. May be called twice, and by a signal handler."""
        self._stopping = True
        context, self._context = self._context, None
        if context is not None:
            _started.discard(self)
            self._dismiss()
            context.term()  # ends zmq.proxy in its thread, and returns when that has closed the sockets
            self._holding.release()

    def run(self) -> bool:
        """Forward until `stop()`, which a signal handler may call, also before this. False if an address is in use."""
        if self._stopping:
            return True
        if not self._start():
            return False
        if not self._stopping:
            self._ended.get()  # unlike a lock or an Event it may be filled by a signal handler of this very thread
        self.stop()
        return True

    def _start(self) -> bool:
        if self._context is not None:
            return True
        context: _Context = zmq.Context()
        with contextlib.ExitStack() as undo:
            undo.callback(self._holding.release)
            undo.callback(context.destroy, linger=0)
            undo.callback(self._dismiss)
            ends = _end(context, zmq.XSUB, self.pub_url), _end(context, zmq.XPUB, self.sub_url)
            try:
                self._holding.bind(ends[0], self.pub_url)
                self._holding.bind(ends[1], self.sub_url)
            except AddressInUse as taken:
                logger.debug("Not hosting the proxy: %s is in use.", taken)
                return False
            # After the addresses are ours, because others try that all the time; who comes meanwhile comes again.
            self._doorkeeper = doorkeeper(context)
            self._ended = queue.SimpleQueue()
            threading.Thread(target=_forward, args=(*ends, self._ended), name="pipeteer-proxy", daemon=True).start()
            undo.pop_all()
        self._context = context
        _started.add(self)
        return True

    def _dismiss(self) -> None:
        keeper, self._doorkeeper = self._doorkeeper, None
        if keeper is not None:
            dismiss(keeper)

    def _abandon(self) -> None:
        self._holding.abandon()
        if self._context is not None:
            _not_ours.append((self._context, self._doorkeeper))
            self._context = self._doorkeeper = None


def _end(context: _Context, kind: int, url: str) -> zmq.Socket[bytes]:
    end = context.socket(kind)
    end.setsockopt(zmq.LINGER, 0)
    end.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    end.setsockopt(zmq.BACKLOG, 1000)
    end.setsockopt(zmq.IPV6, int("[" in url))
    secure_server(end)
    return end


def _forward(frontend: zmq.Socket[bytes], backend: zmq.Socket[bytes], ended: queue.SimpleQueue[None]) -> None:
    try:
        zmq.proxy(frontend, backend)
    except zmq.ContextTerminated:
        pass
    except Exception:
        logger.exception("The wake-up proxy broke; work is found by polling until another process hosts one.")
    finally:
        frontend.close()
        backend.close()
        ended.put(None)


_started: weakref.WeakSet[Proxy] = weakref.WeakSet()
_not_ours: list[tuple[_Context, ThreadAuthenticator | None]] = []
"""The parent's contexts in a forked child: kept, because collecting them would close sockets that live on."""


def _after_fork() -> None:
    for proxy in list(_started):
        proxy._abandon()
    _started.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
