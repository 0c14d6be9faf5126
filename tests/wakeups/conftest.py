"""Every test has addresses and raw sockets of its own."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from django.conf import settings
from django.test import override_settings

from pipeteer_django.wakeups import Proxy

from .raw import Raw, Urls, free_port

if not settings.configured:
    settings.configure()


@pytest.fixture
def urls() -> Iterator[Urls]:
    found = Urls(f"tcp://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}")
    with override_settings(PIPETEER=found.settings()):
        yield found


@pytest.fixture
def ipc_urls(tmp_path_factory: pytest.TempPathFactory) -> Urls:
    folder: Path = tmp_path_factory.mktemp("ipc")
    return Urls(f"ipc://{folder}/pub", f"ipc://{folder}/sub")


@pytest.fixture
def proxy(urls: Urls) -> Iterator[Proxy]:
    made = Proxy(*urls)
    assert made.start()
    yield made
    made.stop()


@pytest.fixture
def raw(urls: Urls) -> Iterator[Raw]:
    made = Raw(urls)
    yield made
    made.context.destroy(linger=0)


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web_server(urls: Urls) -> Iterator[None]:
    """Something else lives at PUB_URL."""
    socketserver.TCPServer.allow_reuse_address = True
    address = ("127.0.0.1", int(urls.pub.rpartition(":")[2]))
    with socketserver.ThreadingTCPServer(address, Quiet) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()
