from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from pipeteer_django.wakeups import Proxy, Waiter, answers, check_url, listen, publish

REMOTE = "tcp://192.0.2.7:5555"


@pytest.mark.once
@pytest.mark.parametrize(
    "url",
    [
        "tcp://127.0.0.1:5555",
        "tcp://127.8.9.1:1",
        "tcp://localhost:65535",
        "tcp://[::1]:5555",
        "ipc:///run/p",
        "ipc://@p",
    ],
)
def test_this_machine_is_allowed(url: str) -> None:
    check_url(url)


@pytest.mark.once
@pytest.mark.parametrize(
    "url",
    [
        REMOTE,
        "tcp://queue-1.internal:5555",
        "tcp://0.0.0.0:5555",
        "tcp://[::]:5555",
        "tcp://eth0:5555",
        "tcp://127.evil.example:5555",
    ],
)
def test_leaving_the_machine_is_refused_with_the_remedy(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"CURVE keys.*pipeteer_keys.*CURVE_KEYS.*loopback.*ipc.*tunnel"):
        check_url(url)


@pytest.mark.once
@pytest.mark.parametrize(
    "url",
    [
        *["", "127.0.0.1:5555", "tcp://127.0.0.1", "tcp://127.0.0.1:0", "tcp://127.0.0.1:65536", "tcp://127.0.0.1:*"],
        *["tcp://127.0.0.1:5555\n", "tcp://127.0.0.1:\u0665", "inproc://x", "udp://127.0.0.1:1", "ipc://", "ipc://*"],
        *["ipc:///" + "x" * 200, "tcp://10.0.0.1:1;127.0.0.1:5555", "tcp://*:5555", "tcp://a;b:1", "tcp://h\u00f6st:1"],
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    for keys in (None, "/etc/pipeteer/keys"):
        with override_settings(PIPETEER={"CURVE_KEYS": keys}), pytest.raises(ImproperlyConfigured, match="PIPETEER"):
            check_url(url)


@pytest.mark.once
@pytest.mark.parametrize("url", [REMOTE, "tcp://queue-1.internal:5555", "tcp://0.0.0.0:5555", "tcp://[2001:db8::1]:5"])
def test_with_keys_other_machines_are_allowed(url: str) -> None:
    with override_settings(PIPETEER={"CURVE_KEYS": "/etc/pipeteer/keys"}):
        check_url(url)


@pytest.mark.once
def test_nothing_binds_or_listens_beyond_this_machine() -> None:
    with override_settings(PIPETEER={"PUB_URL": REMOTE, "SUB_URL": REMOTE}):
        publish("quad")  # never raises
        with pytest.raises(ImproperlyConfigured):
            listen(print)
        with pytest.raises(ImproperlyConfigured), Waiter(["quad"]):
            pass
        with pytest.raises(ImproperlyConfigured):
            answers(0.1)
        with pytest.raises(ImproperlyConfigured):
            Proxy(REMOTE, "tcp://127.0.0.1:5556")
