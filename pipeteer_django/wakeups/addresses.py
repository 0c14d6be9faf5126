"""Where wake-ups may travel: this machine only, by loopback TCP or a local socket."""

from __future__ import annotations

import ipaddress
import os
import re

import zmq
from django.core.exceptions import ImproperlyConfigured

_TCP = re.compile(r"tcp://(?P<host>\[[^\[\]]+\]|[^\[\]:/]+):(?P<port>[0-9]{1,5})")


def check_url(url: str) -> None:
    """Raise ImproperlyConfigured unless `url` is loopback TCP (127.0.0.0/8, localhost, [::1]) or ipc://."""
    if url.startswith("ipc://"):
        _check_path(url)
    elif not (match := _TCP.fullmatch(url)) or not 0 < int(match["port"]) < 65536:
        raise ImproperlyConfigured(
            f"settings.PIPETEER: {url!r} is not an address for wake-ups. "
            "Write tcp://127.0.0.1:5555 (host and port) or ipc:///path/to/a/socket."
        )
    elif not _is_loopback(match["host"]):
        raise ImproperlyConfigured(
            f"settings.PIPETEER: {url!r} leaves this machine, and wake-ups are neither authenticated nor encrypted. "
            "Other addresses need CURVE keys, which this version does not have. "
            "Use a loopback address (tcp://127.0.0.1:5555), ipc://, or a tunnel that ends on loopback."
        )


def endpoint(url: str) -> str:
    """The checked `url` as ZeroMQ takes it."""
    check_url(url)
    return url.replace("tcp://localhost:", "tcp://127.0.0.1:")  # ZeroMQ cannot bind to a name


def local_path(url: str) -> str | None:
    """The file of an ipc:// address; None for TCP and for Linux's abstract names (ipc://@name), which have none."""
    path = url.removeprefix("ipc://")
    return None if path == url or path.startswith("@") else path


def _check_path(url: str) -> None:
    path = url.removeprefix("ipc://")
    if path in {"", "@", "*"}:
        raise ImproperlyConfigured(f"settings.PIPETEER: {url!r} names no socket. Write ipc:///path/to/a/socket.")
    if not zmq.has("ipc"):
        raise ImproperlyConfigured(
            f"settings.PIPETEER: this platform's ZeroMQ has no ipc ({url!r}). Use tcp://127.0.0.1:5555."
        )
    if len(os.fsencode(path)) > zmq.IPC_PATH_MAX_LEN:
        raise ImproperlyConfigured(
            f"settings.PIPETEER: the path in {url!r} is longer than the {zmq.IPC_PATH_MAX_LEN} bytes "
            "the operating system allows for a socket. Use a shorter path."
        )


def _is_loopback(host: str) -> bool:
    if host in {"localhost", "[::1]"}:
        return True
    try:
        return ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False
