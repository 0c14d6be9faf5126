"""Where wake-ups may travel: by loopback TCP or a local socket on this machine, and beyond it only with keys."""

from __future__ import annotations

import ipaddress
import os
import re

import zmq
from django.core.exceptions import ImproperlyConfigured

from pipeteer_django import conf

_TCP = re.compile(r"tcp://(?P<host>\[[^\[\]]+\]|[A-Za-z0-9._-]+|\*):(?P<port>[0-9]{1,5})")
_ANY = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
"""Where a client finds a proxy that listens on all of this host's addresses."""


def check_url(url: str) -> None:
    """Raise ImproperlyConfigured unless wake-ups may travel by `url`.

    That is loopback TCP (127.0.0.0/8, localhost, [::1]) or ipc://, and with CURVE_KEYS any other TCP address.
    """
    if url.startswith("ipc://"):
        _check_path(url)
    elif not (match := _TCP.fullmatch(url)) or not 0 < int(match["port"]) < 65536:
        raise ImproperlyConfigured(
            f"settings.PIPETEER: {url!r} is not an address for wake-ups. "
            "Write tcp://127.0.0.1:5555 (host and port) or ipc:///path/to/a/socket."
        )
    elif match["host"] == "*":
        raise ImproperlyConfigured(
            f"settings.PIPETEER: nobody can connect to {url!r}. Write tcp://0.0.0.0:{match['port']} where the proxy "
            "runs, and the address or name of that host on all others."
        )
    elif conf.settings().CURVE_KEYS is None and not _is_loopback(match["host"]):
        raise ImproperlyConfigured(
            f"settings.PIPETEER: {url!r} leaves this machine, and without CURVE keys wake-ups are neither "
            "authenticated nor encrypted. Make keys with `manage.py pipeteer_keys FOLDER HOST ...`, copy each host's "
            'folder there, and name it in PIPETEER["CURVE_KEYS"]. Or use a loopback address (tcp://127.0.0.1:5555), '
            "ipc://, or a tunnel that ends on loopback."
        )


def endpoint(url: str) -> str:
    """The checked `url` as a ZeroMQ socket binds it."""
    return url.replace("tcp://localhost:", "tcp://127.0.0.1:")  # ZeroMQ cannot bind to a name


def destination(url: str) -> str:
    """The checked `url` as a ZeroMQ socket connects to it."""
    for any_address, own in _ANY.items():
        url = url.replace(f"tcp://{any_address}:", f"tcp://{own}:")
    return endpoint(url)


def leaves_machine(url: str) -> bool:
    """Whether the checked `url` is a TCP address other than loopback."""
    match = _TCP.fullmatch(url)
    return match is not None and not _is_loopback(match["host"])


def is_name(url: str) -> bool:
    """Whether the checked `url` is TCP to a host's name instead of an address."""
    match = _TCP.fullmatch(url)
    return match is not None and match["host"] != "localhost" and not _is_address(match["host"])


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


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
