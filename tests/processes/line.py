"""The line between a worker and its database server, which a test can cut, or silence so that nothing breaks."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from django.db import connection

URLS = {"postgresql": ("TEST_POSTGRES_URL", "postgres", 5432), "mysql": ("TEST_MARIADB_URL", "mysql", 3306)}


def _server() -> tuple[int, Any]:
    """The family and the address of the server's socket."""
    settings = connection.settings_dict
    host, (_, _, usual) = settings["HOST"], URLS[connection.vendor]
    port = int(settings["PORT"] or usual)
    if not host.startswith("/"):
        return socket.AF_INET, (host or "127.0.0.1", port)
    return socket.AF_UNIX, f"{host}/.s.PGSQL.{port}" if connection.vendor == "postgresql" else host


class Wire:
    """One connection: passes bytes on, in both directions, until one end closes it or `judge` says no."""

    def __init__(self, line: Line, client: socket.socket) -> None:
        self._line, self._client = line, client
        self.hushed = False
        """Whether this connection alone is silent."""
        self.notes: dict[str, Any] = {}
        """What the line's judge remembers of it."""

    def run(self) -> None:
        """On a thread of its own."""
        family, address = _server()
        self._line.speaking.wait()
        with (
            self._client,
            socket.socket(family) as server,
            selectors.DefaultSelector() as selector,
            contextlib.suppress(OSError),
        ):
            server.connect(address)
            self._line.servers.add(server)
            selector.register(self._client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, self._client)
            while self._pass_on(selector, server):
                pass

    def _pass_on(self, selector: selectors.BaseSelector, server: socket.socket) -> bool:
        for key, _ in selector.select():
            # In silence all stays in the buffers of this machine's TCP, which acknowledges it.
            self._line.speaking.wait()
            data = key.fileobj.recv(65536)  # type: ignore[union-attr]
            from_server = key.fileobj is server
            if self._line.hush and self._line.hush in data:
                self.hushed = True
            if self.hushed:
                self._line.over.wait()
            if not data or (self._line.judge and self._line.judge(self, data, from_server)):
                return False
            key.data.sendall(data)
        return True


class Line:
    """Where it leads is `environment`. `judge(wire, data, from_server)`: whether to cut instead of passing on."""

    def __init__(self, judge: Callable[[Wire, bytes, bool], bool] | None = None) -> None:
        self.judge = judge
        self.speaking, self.over = threading.Event(), threading.Event()
        self.speaking.set()
        self.hush = b""
        """A connection that says this is silent from then on, alone."""
        self.servers: set[socket.socket] = set()
        """The ends at the server."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """For a worker whose database is at the other end. Nothing is encrypted, to be read on the way."""
        settings = connection.settings_dict
        variable, scheme, _ = URLS[connection.vendor]
        who = quote(settings["USER"] or "") + (f":{quote(settings['PASSWORD'])}" if settings["PASSWORD"] else "")
        port = self._listener.getsockname()[1]
        url = f"{scheme}://{who}@127.0.0.1:{port}/{settings['NAME']}"
        return {variable: url, "PGSSLMODE": "disable", "PGGSSENCMODE": "disable"}

    def silence(self) -> None:
        """From now on nothing comes through, and nothing breaks: not even a new connection is refused."""
        self.speaking.clear()

    def speak(self) -> None:
        """All that was held back comes through."""
        self.speaking.set()

    def forget(self) -> None:
        """What a server does after some time with a client that it no longer hears: end its sessions."""
        for server in self.servers:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """At the end."""
        self._listener.close()
        self.over.set()
        self.speaking.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=Wire(self, client).run, daemon=True).start()
