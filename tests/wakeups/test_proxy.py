from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import zmq
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from pipeteer_django.wakeups import Proxy, Waiter, answers, link, publish

from .raw import PATIENCE, Raw, Urls, eventually, line, orphaning_proxy_process, proxy_process

Host = Callable[[Urls], AbstractContextManager["subprocess.Popen[str]"]]


def port(url: str) -> tuple[str, int]:
    return "127.0.0.1", int(url.rpartition(":")[2])


@pytest.fixture(params=["tcp", "ipc"])
def any_urls(request: pytest.FixtureRequest, urls: Urls, ipc_urls: Urls) -> Urls:
    return urls if request.param == "tcp" else ipc_urls


@pytest.mark.parametrize("host", [proxy_process, orphaning_proxy_process], ids=["plain", "orphan"])
def test_one_host_at_a_time_and_taken_over_when_killed(any_urls: Urls, host: Host) -> None:
    with override_settings(PIPETEER=any_urls.settings()), host(any_urls) as process:
        proxy = Proxy(*any_urls)
        assert not proxy.start()
        assert answers(PATIENCE)
        process.kill()
        process.wait()
        assert eventually(proxy.start, within=2)
        assert answers(PATIENCE)
        proxy.stop()


def test_connections_kept_open_by_an_orphan_are_given_up(urls: Urls, raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    """The killed host's forked child holds the other end of each connection, so nothing tells us but silence."""
    monkeypatch.setitem(link._OPTIONS, zmq.HEARTBEAT_IVL, 200)
    monkeypatch.setitem(link._OPTIONS, zmq.HEARTBEAT_TIMEOUT, 500)

    def connected() -> None:
        assert eventually(lambda: send_topic() and waiter.wait(0.05))

    def send_topic() -> bool:
        publish("quad")
        return True

    with Waiter(["quad"]) as waiter, orphaning_proxy_process(urls, connected) as process:
        process.kill()
        process.wait()
        while waiter.wait(0.3):
            pass
        with proxy_process(urls):
            connected()


def test_half_taken_leaves_nothing_bound(urls: Urls) -> None:
    with socket.create_server(port(urls.sub)):
        assert not Proxy(*urls).start()
        socket.create_server(port(urls.pub)).close()


def test_web_server_in_its_place(web_server: None, urls: Urls) -> None:
    assert not Proxy(*urls).start()
    assert not answers(0.5)


def test_nothing_in_its_place(urls: Urls) -> None:
    began = time.monotonic()
    assert not answers(0.2)
    assert time.monotonic() - began < 2


def test_stop_frees_the_addresses_and_it_starts_again(any_urls: Urls) -> None:
    proxy = Proxy(*any_urls)
    with override_settings(PIPETEER=any_urls.settings()):
        for _ in range(3):
            assert proxy.start()
            assert proxy.start()
            assert answers(PATIENCE)
            proxy.stop()
            proxy.stop()
            assert not answers(0.1)


def test_ipv6_loopback_and_names(urls: Urls) -> None:
    if not _has_ipv6():
        pytest.skip("no IPv6 here")
    mixed = Urls(urls.pub.replace("127.0.0.1", "[::1]"), urls.sub.replace("127.0.0.1", "localhost"))
    proxy = Proxy(*mixed)
    with override_settings(PIPETEER=mixed.settings()):
        assert proxy.start()
        assert answers(PATIENCE)
    proxy.stop()


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_signal_stops_a_stand_alone_proxy(urls: Urls) -> None:
    with proxy_process(urls) as process:
        process.send_signal(signal.SIGTERM)
        assert line(process) == "stopped"
        assert process.wait(PATIENCE) == 0


def test_signal_that_comes_before_run_is_not_lost(urls: Urls) -> None:
    proxy = Proxy(*urls)
    proxy.stop()
    assert proxy.run()
    assert proxy.start()
    proxy.stop()
    assert proxy.run()


def test_run_returns_when_another_has_the_address(proxy: Proxy, urls: Urls) -> None:
    assert not Proxy(*urls).run()


def test_ipc_never_deletes_a_file_of_somebody(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("data")
    with pytest.raises(ImproperlyConfigured, match="not a socket"):
        Proxy(f"ipc://{precious}", f"ipc://{tmp_path}/sub").start()
    assert precious.read_text() == "data"


def test_ipc_does_not_steal_from_a_foreign_listener(ipc_urls: Urls) -> None:
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(ipc_urls.pub.removeprefix("ipc://"))
        foreign.listen()
        assert not Proxy(*ipc_urls).start()


def test_unusable_address_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"cannot bind .*nowhere.*settings\.PIPETEER"):
        Proxy(f"ipc://{tmp_path}/nowhere/pub", f"ipc://{tmp_path}/sub").start()


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16 + 32)
READY = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03PUB"
LONG_FRAME = b"\x02" + (50 * 1024 * 1024).to_bytes(8, "big")


@pytest.mark.parametrize(
    "garbage",
    [
        os.urandom(100_000),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"",
        b"\xff" * 64,
        GREETING + os.urandom(10_000),
        GREETING + READY + LONG_FRAME + bytes(50 * 1024 * 1024),
        GREETING + READY + b"\x01" + bytes([255]) + bytes(255),
    ],
    ids=["random", "http", "nothing", "ones", "greeting", "50MB", "unfinished"],
)
def test_garbage_does_not_harm_it(urls: Urls, raw: Raw, garbage: bytes) -> None:
    with proxy_process(urls) as process:
        assert answers(PATIENCE)
        before = _resident(process.pid)
        for url in urls:
            _throw(garbage, port(url))
        assert answers(PATIENCE)
        assert _resident(process.pid) - before < 5 * 1024
        assert process.poll() is None


def test_huge_message_of_a_plain_publisher_does_not_harm_it(urls: Urls, raw: Raw) -> None:
    with proxy_process(urls) as process:
        subscriber = raw.subscriber()
        before = _resident(process.pid)
        raw.publisher_heard_by(b"").send(bytes(50 * 1024 * 1024))
        publisher = raw.publisher_heard_by(b"")
        publisher.send(b"quad")
        assert subscriber.recv() == b"quad"
        assert _resident(process.pid) - before < 5 * 1024


def _throw(garbage: bytes, address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        try:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except OSError:
            return  # it hung up, which is right


def _resident(pid: int) -> int:
    """Memory of the process in KiB; 0 where /proc does not tell."""
    if sys.platform != "linux":
        return 0
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])
