"""Is there a proxy that works? Asked by sending something through it."""

from __future__ import annotations

import secrets
import time

import zmq

from pipeteer_django import conf

from .addresses import destination
from .link import check_client, prepare
from .topics import PROBE


def answers(timeout: float) -> bool:
    """Whether a proxy at the configured addresses forwards within `timeout` seconds.

    Raises ImproperlyConfigured for addresses that `check_url` refuses, and where there are keys but not all.
    """
    probe = PROBE + secrets.token_hex(8).encode()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        heard = _connect(context, zmq.SUB, conf.settings().SUB_URL)
        heard.setsockopt(zmq.SUBSCRIBE, probe)
        said = _connect(context, zmq.XPUB, conf.settings().PUB_URL)
        return _comes_back(probe, said, heard, time.monotonic() + timeout)
    finally:
        context.destroy(linger=0)


def _connect(context: zmq.Context[zmq.Socket[bytes]], kind: int, url: str) -> zmq.Socket[bytes]:
    check_client(url)
    connected = prepare(context, kind, url)
    connected.connect(destination(url))
    return connected


def _comes_back(probe: bytes, said: zmq.Socket[bytes], heard: zmq.Socket[bytes], deadline: float) -> bool:
    poller = zmq.Poller()
    poller.register(said, zmq.POLLIN)
    poller.register(heard, zmq.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        ready = dict(poller.poll(int(left * 1000) + 1))
        if said in ready and said.recv_multipart() == [b"\x01" + probe]:
            said.send(probe)
        if heard in ready and heard.recv_multipart() == [probe]:
            return True
    return False
