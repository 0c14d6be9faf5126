"""CURVE: who is not on the list hears nothing and wakes nobody. Real ZeroMQ, on an address others could reach."""

from __future__ import annotations

import logging
import queue
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from pipeteer_django.wakeups import Proxy, Waiter, answers, exposed, keys, link, listen, may_host, proxy, publish

from .hosts import Client, Hosts, outer_urls
from .raw import PATIENCE, Raw, Urls, eventually, free_port, line, proxy_process, running, send, silent
from .test_proxy import GREETING, LONG_FRAME, READY, _resident, _throw

STRANGERS = ["stranger", "bare", "lost"]
pytestmark = pytest.mark.once


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    return Hosts(tmp_path)


@pytest.fixture(params=["outside", "loopback"])
def far(request: pytest.FixtureRequest) -> Urls:
    if request.param == "outside":
        return outer_urls()
    return Urls(f"tcp://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}")


@pytest.fixture
def raw(far: Urls) -> Iterator[Raw]:
    made = Raw(far)
    yield made
    made.context.destroy(linger=0)


@contextmanager
def on_host(hosts: Hosts, name: str, urls: Urls) -> Iterator[None]:
    """This process is on that host."""
    with override_settings(PIPETEER={**urls.settings(), "CURVE_KEYS": hosts.folder(name)}):
        yield


@contextmanager
def hosted_here(hosts: Hosts, urls: Urls) -> Iterator[Proxy]:
    with on_host(hosts, "queue", urls):
        made = Proxy(*urls)
        assert made.start()
        try:
            yield made
        finally:
            made.stop()


def keyed(hosts: Hosts) -> dict[str, str]:
    """What the process that runs the proxy is told beside the addresses."""
    return {"CURVE_KEYS": str(hosts.folder("queue"))}


def test_hosts_on_the_list_wake_each_other(hosts: Hosts, far: Urls, raw: Raw) -> None:
    """Ours in two processes, and plain ZeroMQ with the same keys."""
    heard: queue.Queue[str] = queue.Queue()
    with proxy_process(far, **keyed(hosts)), on_host(hosts, "web", far), listen(heard.put):
        assert answers(PATIENCE)
        assert eventually(lambda: _published("ours") and not heard.empty())
        client = Client(raw, far, hosts, "queue")
        assert client.let_in() == [True, True]
        assert eventually(lambda: send(client.publisher, b"plain") and "plain" in heard.queue)
        assert eventually(lambda: _published("again") and bool(client.subscriber.poll(20)))


@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_hear_nothing_and_wake_nobody(hosts: Hosts, far: Urls, raw: Raw, name: str) -> None:
    heard: queue.Queue[str] = queue.Queue()
    with proxy_process(far, **keyed(hosts)), on_host(hosts, "web", far), listen(heard.put):
        stranger = Client(raw, far, hosts, name)
        assert stranger.let_in() == [False, False]
        send(stranger.publisher, b"forged")
        assert eventually(lambda: _published("quad") and not heard.empty())
        assert silent(stranger.subscriber)
        assert "forged" not in set(heard.queue)


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_of_our_own_hears_nothing_and_goes_on(
    hosts: Hosts, far: Urls, raw: Raw, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A host with wrong keys (or, on loopback, none): no wake-ups, no exception, a line that says why."""
    if name == "bare" and "127.0.0.1" not in far.pub:
        pytest.skip("refused before it starts: see test_addresses.py")
    settings = {**far.settings(), "CURVE_KEYS": None if name == "bare" else hosts.folder(name)}
    with proxy_process(far, **keyed(hosts)), override_settings(PIPETEER=settings):
        with caplog.at_level(logging.INFO, "pipeteer_django.wakeups"), Waiter(["quad"]) as waiter:
            publish("quad")
            listed = Client(raw, far, hosts, "web")
            assert listed.let_in() == [True, True]
            for _ in range(10):
                listed.publisher.send(b"quad")
            assert eventually(lambda: len(caplog.records) >= 2)  # the one that publishes, the one that listens
            assert not waiter.wait(0)
            assert silent(listed.subscriber, 0) or {listed.subscriber.recv()} == {b"quad"}
        assert not answers(0.3)
    words = {"stranger": "refuses this host's key", "bare": "CURVE_KEYS", "lost": "other CURVE_KEYS"}
    assert words[name] in caplog.text


def test_without_the_list_strangers_would_be_let_in(
    hosts: Hosts, far: Urls, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above can fail: a mutant whose doorkeeper lets in every key."""
    with hosted_here(hosts, far):
        assert Client(raw, far, hosts, "stranger").let_in() == [False, False]
    monkeypatch.setattr(keys.AllowList, "callback", lambda self, domain, key: True)
    with hosted_here(hosts, far):
        assert Client(raw, far, hosts, "stranger").let_in() == [True, True]


def test_without_a_doorkeeper_nobody_comes_in(
    hosts: Hosts, far: Urls, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeroMQ's own default would be to let in every key if nobody answers."""
    monkeypatch.setattr(proxy, "doorkeeper", lambda context: None)
    with hosted_here(hosts, far):
        assert Client(raw, far, hosts, "web").let_in() == [False, False]
    monkeypatch.setattr(keys.zmq, "ZAP_ENFORCE_DOMAIN", zmq.LINGER)  # the mutant does not insist
    with hosted_here(hosts, far):
        assert Client(raw, far, hosts, "stranger").let_in() == [True, True]


def test_a_host_that_is_put_on_the_list_needs_no_restart(
    hosts: Hosts, far: Urls, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeroMQ never tries again after a refusal."""
    monkeypatch.setattr(link, "REDIAL", 0.1)
    monkeypatch.setattr(keys, "_FRESH", 0.0)
    heard = threading.Event()
    with proxy_process(far, **keyed(hosts)), on_host(hosts, "stranger", far), listen(lambda topic: heard.set()):
        stranger = Client(raw, far, hosts, "stranger")
        assert stranger.let_in() == [False, False]
        hosts.let_in("stranger")
        assert eventually(lambda: _published("quad") and heard.is_set())


def test_a_host_that_is_taken_off_the_list_is_not_let_in_again(
    hosts: Hosts, far: Urls, raw: Raw, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(keys, "_FRESH", 0.0)
    with hosted_here(hosts, far):
        client = Client(raw, far, hosts, "web")
        assert client.let_in() == [True, True]
        kept = shutil.copytree(hosts.folder("web"), tmp_path / "kept")
        assert not hosts.ring.remove("web")
        hosts.ring.spread()
        shutil.copytree(kept, hosts.folder("web"))
        assert Client(raw, far, hosts, "web").let_in() == [False, False]


def test_a_list_that_cannot_be_read_lets_nobody_in_until_it_can(
    hosts: Hosts, far: Urls, raw: Raw, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The doorkeeper's thread must not end by it."""
    monkeypatch.setattr(keys, "_FRESH", 0.0)
    allowed = hosts.folder("queue") / "allowed"
    with hosted_here(hosts, far):
        allowed.rename(allowed.with_name("elsewhere"))
        assert Client(raw, far, hosts, "web").let_in() == [False, False]
        assert "lets nobody in" in caplog.text
        allowed.with_name("elsewhere").rename(allowed)
        assert Client(raw, far, hosts, "web").let_in() == [True, True]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_doorkeeper_that_broke_keeps_the_door_shut_and_can_be_dismissed(
    hosts: Hosts, far: Urls, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: keys.AllowList, domain: str, key: bytes) -> bool:
        raise RuntimeError("broken")

    monkeypatch.setattr(keys.AllowList, "callback", broken)
    with hosted_here(hosts, far) as proxy:
        eager = Client(raw, far, hosts, "web")  # not answered, and ZeroMQ waits half a minute
        keeper = proxy._doorkeeper
        assert keeper is not None
        assert eventually(lambda: not keeper.is_alive())
        assert not eager.heard_anything()
        assert not Client(raw, far, hosts, "queue").heard_anything()


def test_refusals_are_logged_once_a_minute(hosts: Hosts, far: Urls, raw: Raw, caplog: pytest.LogCaptureFixture) -> None:
    with hosted_here(hosts, far):
        for _ in range(5):
            client = Client(raw, far, hosts, "stranger")
            assert client.let_in() == [False, False]
            client.close()
    assert caplog.text.count("refused a client: its public key") == 1


def test_a_host_without_the_secret_does_not_host(hosts: Hosts, far: Urls) -> None:
    with on_host(hosts, "web", far):
        assert not may_host()
        with pytest.raises(ImproperlyConfigured, match=r"proxy\.key_secret.*pipeteer_keys"):
            Proxy(*far).start()
    with on_host(hosts, "queue", far):
        assert may_host()
    with override_settings(PIPETEER={}):
        assert may_host()


def test_an_address_of_another_host_is_not_hosted_here(hosts: Hosts) -> None:
    """Settings may be the same everywhere, and an address may move."""
    elsewhere = Urls("tcp://192.0.2.77:5555", "tcp://192.0.2.77:5556")
    with on_host(hosts, "queue", elsewhere):
        assert not Proxy(*elsewhere).start()


def test_a_name_is_not_bound(hosts: Hosts) -> None:
    names = Urls("tcp://queue-1.invalid:5555", "tcp://queue-1.invalid:5556")
    with (
        on_host(hosts, "queue", names),
        pytest.raises(ImproperlyConfigured, match=r"an address, not a name.*0\.0\.0\.0"),
    ):
        Proxy(*names).start()


def test_all_addresses_of_a_host(hosts: Hosts, far: Urls, raw: Raw) -> None:
    """The host of the proxy says 0.0.0.0, and connects to itself by it; the others name the host."""
    everywhere = Urls(*("tcp://0.0.0.0:" + url.rpartition(":")[2] for url in far))
    with hosted_here(hosts, everywhere):
        assert answers(PATIENCE)
        assert Client(raw, far, hosts, "web").let_in() == [True, True]


@pytest.mark.parametrize("missing", ["allowed", "proxy.key_secret", "proxy.key", "host.key_secret"])
def test_what_is_missing_is_named(hosts: Hosts, missing: str) -> None:
    urls = Urls(f"tcp://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}")
    path = hosts.folder("queue") / missing
    path.rename(path.with_name("elsewhere"))
    with on_host(hosts, "queue", urls), pytest.raises(ImproperlyConfigured, match=rf"{missing}.*pipeteer_keys"):
        Proxy(*urls).start()
        keys.check_keys()


def test_an_empty_list_is_no_list(hosts: Hosts) -> None:
    urls = Urls(f"tcp://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}")
    for path in (hosts.folder("queue") / "allowed").iterdir():
        path.unlink()
    with on_host(hosts, "queue", urls), pytest.raises(ImproperlyConfigured, match="allows no host"):
        Proxy(*urls).start()
    with override_settings(PIPETEER=urls.settings()):
        assert Proxy(*urls).start()  # what was bound is free again


@pytest.mark.parametrize("content", ["", 'public-key = "short"', 'public-key = "' + "x" * 40 + '"'])
def test_a_file_that_is_no_key(hosts: Hosts, content: str) -> None:
    path = hosts.folder("web") / "host.key_secret"
    path.write_text(content)
    urls = Urls("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5556")
    with on_host(hosts, "web", urls), pytest.raises(ImproperlyConfigured, match=r"host\.key_secret"), listen(print):
        pass


def test_the_keys_of_another_proxy_do_not_fit(hosts: Hosts) -> None:
    (hosts.folder("queue") / "proxy.key").write_bytes((hosts.lost / "proxy.key").read_bytes())
    urls = Urls(f"tcp://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}")
    with on_host(hosts, "queue", urls), pytest.raises(ImproperlyConfigured, match="not a pair"):
        Proxy(*urls).start()


def test_secrets_that_others_may_read(hosts: Hosts) -> None:
    folder = hosts.folder("queue")
    with override_settings(PIPETEER={"CURVE_KEYS": folder}):
        assert exposed() == []
        (folder / "proxy.key_secret").chmod(0o640)
        assert exposed() == []
        (folder / "proxy.key_secret").chmod(0o604)
        assert exposed() == [folder / "proxy.key_secret"]
    with override_settings(PIPETEER={}):
        assert exposed() == []


HOLDING_AND_FORKING = """
conf = settings.PIPETEER
proxy = Proxy(conf["PUB_URL"], conf["SUB_URL"])
assert proxy.start()
if not os.fork():
    proxy.stop()    # not the child's to stop
    del proxy
    os._exit(0)
os.wait()
print("up", flush=True)
sys.stdin.readline()
proxy.stop()
print("stopped", flush=True)
"""


def test_a_forked_child_leaves_the_door_alone(hosts: Hosts, far: Urls, raw: Raw) -> None:
    with running(HOLDING_AND_FORKING, far, **keyed(hosts)) as process:
        assert line(process) == "up"
        assert Client(raw, far, hosts, "web").let_in() == [True, True]
        assert Client(raw, far, hosts, "stranger").let_in() == [False, False]
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert line(process) == "stopped"


CURVE_GREETING = GREETING.replace(b"NULL" + bytes(16), b"CURVE" + bytes(15))


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        bytes(range(256)) * 400,
        GREETING + READY + LONG_FRAME + bytes(50 * 1024 * 1024),
        GREETING + READY + (b"\x01\xfa" + bytes(250)) * 200_000,
        CURVE_GREETING + b"\x04\xc8\x05HELLO" + bytes(194),
        CURVE_GREETING + LONG_FRAME + bytes(50 * 1024 * 1024),
        CURVE_GREETING + (b"\x01\xfa" + bytes(250)) * 200_000,
    ],
    ids=["http", "bytes", "50MB", "endless", "false hello", "50MB instead of hello", "endless instead of hello"],
)
def test_who_has_no_key_cannot_make_it_grow(hosts: Hosts, far: Urls, garbage: bytes) -> None:
    """Without keys, a message that never ends would: there whoever connects is trusted that far."""
    with proxy_process(far, **keyed(hosts)) as process, on_host(hosts, "web", far):
        assert answers(PATIENCE)
        before = _resident(process.pid)
        for url in far:
            host, _, number = url.removeprefix("tcp://").rpartition(":")
            _throw(garbage, (host, int(number)))
        assert answers(PATIENCE)
        assert _resident(process.pid) - before < 5 * 1024
        assert process.poll() is None


def _published(topic: str) -> bool:
    publish(topic)
    return True
