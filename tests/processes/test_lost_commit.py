"""COMMIT succeeds and its reply is lost: the worker finds out on a new connection, and nothing happens twice."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator

import pytest
from django.db import connection, transaction

from tests.conftest import StartManage
from tests.perils.pipelines import errand, linger
from tests.testapp.models import Ledger

from .tools import eventually, finished, log, outputs, ready, stop

pytestmark = pytest.mark.skipif(connection.vendor != "postgresql", reason="the cutter reads PostgreSQL's protocol")
EVERY = 7
"""Of the COMMITs that pass, every so many-th gets no reply."""


class Cutter:
    """Between a worker and the server: passes all on, and cuts the line instead of passing on that a COMMIT is done."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.commits = self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        settings = connection.settings_dict
        server = socket.create_connection((settings["HOST"] or "127.0.0.1", int(settings["PORT"] or 5432)))
        with client, server, selectors.DefaultSelector() as selector, contextlib.suppress(OSError):
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not data or (key.fileobj is server and self._cut(data)):
                        return
                    key.data.sendall(data)

    def _cut(self, reply: bytes) -> bool:
        if b"COMMIT\x00" not in reply:  # CommandComplete
            return False
        self.commits += 1
        if self.commits % EVERY:
            return False
        self.cuts += 1
        return True


@pytest.fixture
def cutter() -> Iterator[Cutter]:
    made = Cutter()
    yield made
    made.close()


def test_nothing_is_lost_or_doubled(start_worker: StartManage, cutter: Cutter) -> None:
    settings = connection.settings_dict
    user = settings["USER"] + (f":{settings['PASSWORD']}" if settings["PASSWORD"] else "")
    url = f"postgres://{user}@127.0.0.1:{cutter.port}/{settings['NAME']}"
    env = {"TEST_POSTGRES_URL": url, "PGSSLMODE": "disable", "PGGSSENCMODE": "disable"}  # to be read on the way
    worker = start_worker("errand", "linger_atomic", "linger", "--concurrency", "4", env=env)
    ready(worker)
    with transaction.atomic():
        for n in range(30):
            errand.enqueue(0.0, key=str(n))
            linger.enqueue(0.0, key=str(n))
    eventually(finished(errand, 30), "the errands are finished")
    eventually(finished(linger, 30), "the others are finished")
    assert cutter.cuts >= 10
    assert outputs(errand).keys() == outputs(linger).keys() == {str(n) for n in range(30)}
    # Without a crash there is no reason for a second run: what was committed is known to be.
    assert Ledger.objects.filter(name="linger_atomic").count() == 60
    assert Ledger.objects.filter(name="linger").count() == 30
    stop(worker)
    assert "given up\n" not in log(worker)
