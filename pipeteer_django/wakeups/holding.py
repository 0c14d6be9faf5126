"""Binding an address so that two processes never both have it, and a killed one's can be taken over at once."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator

import zmq
from django.core.exceptions import ImproperlyConfigured
from django.core.files import locks
from zmq.utils.monitor import recv_monitor_message

from .addresses import endpoint, is_name, leaves_machine, local_path


class AddressInUse(Exception):
    """Another process has the address, or another host."""


class Holding:
    """The operating system's handles that keep addresses ours: listening sockets and lock files."""

    def __init__(self) -> None:
        self._listeners: list[int] = []
        self._locks: list[int] = []

    def bind(self, zsocket: zmq.Socket[bytes], url: str) -> None:
        """Raises AddressInUse, and ImproperlyConfigured for an address that cannot be bound at all."""
        if path := local_path(url):
            self._lock(path)
        with zsocket.get_monitor_socket(zmq.EVENT_LISTENING) as monitor:
            with _explained(url):
                zsocket.bind(endpoint(url))
            self._listeners.append(recv_monitor_message(monitor)["value"])
            zsocket.disable_monitor()

    def release(self) -> None:
        """To be called after the sockets were closed."""
        self._listeners.clear()
        self._close_all(self._locks)

    def abandon(self) -> None:
        """In a forked child: let go of the copies, or the addresses stay taken when the parent is killed."""
        self._close_all(self._listeners)
        self._close_all(self._locks)

    def _lock(self, path: str) -> None:
        # ZeroMQ unlinks whatever is at the path before it binds: a living proxy's socket, or a file of the user's.
        with _explained(f"ipc://{path}"):
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._locks.append(lock)
        if not locks.lock(lock, locks.LOCK_EX | locks.LOCK_NB) or _answers(path):
            raise AddressInUse(f"ipc://{path}")

    @staticmethod
    def _close_all(handles: list[int]) -> None:
        while handles:
            with contextlib.suppress(OSError):
                os.close(handles.pop())


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Tells an address in use from one that needs another setting."""
    try:
        yield
    except (OSError, zmq.ZMQError) as error:
        # Addresses may move from host to host, and the settings are the same on all of them.
        if error.errno == zmq.EADDRINUSE or (error.errno == zmq.EADDRNOTAVAIL and leaves_machine(url)):
            raise AddressInUse(url) from error
        if is_name(url):
            raise ImproperlyConfigured(
                f"The wake-up proxy cannot bind {url}: that needs an address, not a name. Where the proxy runs write "
                "tcp://0.0.0.0:PORT or one of this host's addresses in settings.PIPETEER; anywhere else leave out "
                "proxy.key_secret, or set HOST_PROXY to False."
            ) from error
        raise ImproperlyConfigured(
            f"The wake-up proxy cannot bind {url}: {error}. Choose another address in settings.PIPETEER."
        ) from error


def _answers(path: str) -> bool:
    """Whether a process listens at `path`; raises ImproperlyConfigured if it holds something else than a socket."""
    if not os.path.exists(path):
        return False
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        raise ImproperlyConfigured(
            f"The wake-up proxy would delete {path}, which is not a socket. "
            "Choose another ipc:// path in settings.PIPETEER."
        )
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(1)
        return caller.connect_ex(path) not in {errno.ECONNREFUSED, errno.ENOENT}
