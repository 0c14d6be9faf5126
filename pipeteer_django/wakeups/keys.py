"""CURVE keys: who may publish and hear wake-ups, across hosts. `manage.py pipeteer_keys` makes them.

Each host has a folder of its own, which `PIPETEER["CURVE_KEYS"]` names:

    host.key_secret     this host's key pair
    proxy.key           the proxy's public key: by it a client knows that it talks to the proxy
    proxy.key_secret    only where the proxy may run: its key pair
    allowed/NAME.key    only where the proxy may run: the public keys of all hosts that may connect
"""

from __future__ import annotations

import logging
import os
import stat
import time
from pathlib import Path

import zmq
from django.core.exceptions import ImproperlyConfigured
from zmq.auth import load_certificate, load_certificates
from zmq.auth.thread import ThreadAuthenticator

from pipeteer_django import conf

logger = logging.getLogger(__name__)

HOST, PROXY, ALLOWED = "host.key_secret", "proxy.key", "allowed"
PROXY_SECRET = f"{PROXY}_secret"
_DOMAIN = "pipeteer"
_LENGTH = 40
"""Characters of a key, in ZeroMQ's base 85."""
_FRESH = 1.0
"""Seconds for which the allow-list is not read again: its changes need no restart, and storms of clients no reading."""
_CALM = 60.0
"""Seconds between two lines about clients that were refused."""

_Socket = zmq.Socket[bytes]
_Context = zmq.Context[_Socket]


def check_keys() -> None:
    """Raise ImproperlyConfigured unless the keys that a client needs are there, or none are configured."""
    if folder := _folder():
        _pair(folder / HOST)
        _public(folder / PROXY)


def may_host() -> bool:
    """Whether this host may run the proxy: it has the proxy's secret key, or no keys are configured."""
    folder = _folder()
    return folder is None or (folder / PROXY_SECRET).exists()


def exposed() -> list[Path]:
    """Files with secret keys that users of this machine may read who are neither their owner nor in their group."""
    folder = _folder()
    secrets = [folder / HOST, folder / PROXY_SECRET] if folder else []
    return [path for path in secrets if path.exists() and stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO]


def library_version() -> tuple[int, ...]:
    """That of libzmq, which is compiled into pyzmq."""
    return zmq.zmq_version_info()


def secure_client(connecting: _Socket) -> None:
    """To be called before it connects: it proves who it is, and hears only the proxy that it knows."""
    if folder := _folder():
        public, secret = _pair(folder / HOST)
        connecting.setsockopt(zmq.CURVE_SERVERKEY, _public(folder / PROXY))
        connecting.setsockopt(zmq.CURVE_PUBLICKEY, public)
        connecting.setsockopt(zmq.CURVE_SECRETKEY, secret)


def secure_server(binding: _Socket) -> None:
    """To be called before it binds: it lets in whom `doorkeeper` of the same context allows, and nobody without one."""
    if folder := _folder():
        public, secret = _pair(folder / PROXY_SECRET)
        if public != _public(folder / PROXY):
            raise _wrong(folder / PROXY_SECRET, f"and {PROXY} are not a pair, so no client would know this proxy")
        binding.setsockopt(zmq.CURVE_SERVER, 1)
        binding.setsockopt(zmq.CURVE_SECRETKEY, secret)
        binding.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN.encode())
        binding.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without it, no doorkeeper would mean an open door


def doorkeeper(context: _Context) -> ThreadAuthenticator | None:
    """Start the thread that asks the allow-list about each client of this context; None without keys."""
    folder = _folder()
    if folder is None:
        return None
    if not _allowed(folder):
        raise _wrong(folder / ALLOWED, "allows no host, so nobody could connect")
    keeper = ThreadAuthenticator(context)
    keeper.configure_curve_callback(_DOMAIN, AllowList(folder))
    keeper.start()
    keeper.pipe.setsockopt(zmq.SNDTIMEO, 1000)  # were it to break, the end of the process would wait for it for ever
    return keeper


def dismiss(keeper: ThreadAuthenticator) -> None:
    """End a doorkeeper, before its context ends: that waits for its sockets."""
    if not keeper.is_alive():
        # It broke, and its end of the pipe is gone: a word to it would wait for ever.
        keeper.pipe.close(linger=0)
        keeper.pipe = None  # type: ignore[assignment]
    keeper.stop()


class AllowList:
    """Answers whether a key is on the list, which is read again while it answers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keys: dict[bytes, bool] = {}
        self._read_at = self._said_at = float("-inf")

    def callback(self, domain: str, key: bytes) -> bool:
        """On the doorkeeper's thread, which would end by an exception: then nobody could connect any more."""
        now = time.monotonic()
        if now >= self._read_at + _FRESH:
            self._read_at, self._keys = now, self._read()
        if key not in self._keys and now >= self._said_at + _CALM:
            self._said_at = now
            logger.warning(
                "The wake-up proxy refused a client: its public key %s is not in %s. If it is one of your hosts, "
                "copy the folder again that manage.py pipeteer_keys made for this host.",
                key.decode("ascii", "replace"), self._folder / ALLOWED,
            )  # fmt: skip
        return key in self._keys

    def _read(self) -> dict[bytes, bool]:
        try:
            return _allowed(self._folder)
        except ImproperlyConfigured as error:
            logger.error("The wake-up proxy lets nobody in: %s", error)
            return {}


def _folder() -> Path | None:
    given = conf.settings().CURVE_KEYS
    if given is None:
        return None
    if not zmq.has("curve"):
        raise ImproperlyConfigured(
            f'settings.PIPETEER["CURVE_KEYS"] is {os.fspath(given)!r}, and this ZeroMQ was built without CURVE. '
            "Install pyzmq's own wheel: pip install --force-reinstall pyzmq."
        )
    return Path(given)


def _pair(path: Path) -> tuple[bytes, bytes]:
    public, secret = _load(path)
    if secret is None or len(secret) != _LENGTH:
        raise _wrong(path, "holds no secret key")
    return public, secret


def _public(path: Path) -> bytes:
    return _load(path)[0]


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = load_certificate(path)
    except (OSError, ValueError) as error:
        raise _wrong(path, f"cannot be read ({error})") from error
    if len(public) != _LENGTH:
        raise _wrong(path, "holds no CURVE key")
    return public, secret


def _allowed(folder: Path) -> dict[bytes, bool]:
    try:
        return load_certificates(folder / ALLOWED)
    except (OSError, ValueError) as error:
        raise _wrong(folder / ALLOWED, f"cannot be read ({error})") from error


def _wrong(path: Path, what: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(
        f'settings.PIPETEER["CURVE_KEYS"]: {path} {what}. manage.py pipeteer_keys makes a folder for each host: copy '
        "this host's to the place that CURVE_KEYS names."
    )
