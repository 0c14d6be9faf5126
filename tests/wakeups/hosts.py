"""Several hosts on one machine: an address that is not loopback, and a folder of keys for each of them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import zmq
from zmq.auth import load_certificate
from zmq.utils.monitor import recv_monitor_message

from pipeteer_django.wakeups.keyring import Keyring

from .raw import PATIENCE, Raw, Urls, free_port

REFUSALS = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_DISCONNECTED,
}  # fmt: skip


def outer_address() -> str:
    """An address of this machine by which others reach it. Nothing is sent: UDP only looks up the way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("NOT TESTED: this machine has no way out, so no address but loopback")
        found = str(asking.getsockname()[0])
    if found.startswith("127."):
        pytest.skip("NOT TESTED: this machine has no address but loopback")
    return found


def outer_urls() -> Urls:
    address = outer_address()
    return Urls(f"tcp://{address}:{free_port()}", f"tcp://{address}:{free_port()}")


class Hosts:
    """`queue` runs the proxy; `queue` and `web` are on its list, `stranger` is not, and `lost` knows another proxy."""

    def __init__(self, folder: Path) -> None:
        self.ring, other = Keyring(folder / "keys"), Keyring(folder / "other")
        for name in ("queue", "web", "stranger"):
            self.ring.add(name)
        other.add("lost")
        self.ring.let_host("queue")
        self.ring.spread()
        (self._allowed / "stranger.key").unlink()
        self.lost = other.of("lost")
        # On the list with its own key, so that only the proxy's is wrong.
        (self._allowed / "lost.key").write_bytes((self.lost / "host.key").read_bytes())

    @property
    def _allowed(self) -> Path:
        return self.ring.of("queue") / "allowed"

    def let_in(self, name: str) -> None:
        """Put it on the list of the proxy that runs."""
        (self._allowed / f"{name}.key").write_bytes((self.ring.of(name) / "host.key").read_bytes())

    def folder(self, name: str) -> Path:
        return self.lost if name == "lost" else self.ring.of(name)

    def equip(self, plain: zmq.Socket[bytes], name: str) -> None:
        """Give a plain ZeroMQ socket this host's keys; `bare` has none."""
        if name == "bare":
            return
        folder = self.folder(name)
        public, secret = load_certificate(folder / "host.key_secret")
        assert secret is not None
        server, _ = load_certificate(folder / "proxy.key")
        plain.curve_publickey, plain.curve_secretkey, plain.curve_serverkey = public, secret, server


class Client:
    """A publisher and a subscriber on a host of that name, plain ZeroMQ both."""

    def __init__(self, raw: Raw, urls: Urls, hosts: Hosts, name: str) -> None:
        self.publisher, self.subscriber = raw.socket(zmq.XPUB), raw.socket(zmq.SUB)
        self.subscriber.setsockopt(zmq.SUBSCRIBE, b"")
        self._monitors = []
        for made, url in ((self.publisher, urls.pub), (self.subscriber, urls.sub)):
            hosts.equip(made, name)
            self._monitors.append(made.get_monitor_socket(REFUSALS_OR_SUCCESS))
            made.connect(url)

    def let_in(self) -> list[bool]:
        """What became of the first handshake of each of the two."""
        return [self._outcome(monitor) == zmq.EVENT_HANDSHAKE_SUCCEEDED for monitor in self._monitors]

    def heard_anything(self) -> bool:
        """Whether a handshake is over, one way or the other, after a moment."""
        return any(monitor.poll(300) for monitor in self._monitors)

    def close(self) -> None:
        for made, monitor in zip((self.publisher, self.subscriber), self._monitors, strict=True):
            made.disable_monitor()
            monitor.close()
            made.close()

    @staticmethod
    def _outcome(monitor: zmq.Socket[bytes]) -> int:
        assert monitor.poll(int(PATIENCE * 1000)), "no handshake, and no refusal either"
        return int(recv_monitor_message(monitor)["event"])


REFUSALS_OR_SUCCESS = sum(int(event) for event in REFUSALS) | int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
