"""Real daphne processes, real workers, real WebSockets."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from example_project.processes import free_ports
from pipeteer_django.wakeups.topics import CHANGES
from tests.conftest import ROOT, StartManage
from tests.processes.tools import configured, eventually, ready, stop
from tests.testapp.pipelines import quad

needs_wakeups = pytest.mark.skipif(not settings.PIPETEER["WAKEUPS"], reason="this leg of the tests has no wake-ups")
REDIS = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379")
SECRET = 987_654_321


def redis_answers() -> bool:
    host, _, port = REDIS.removeprefix("redis://").partition(":")
    with socket.socket() as caller:
        caller.settimeout(1)
        return caller.connect_ex((host, int(port.partition("/")[0] or 6379))) == 0


needs_redis = pytest.mark.skipif(
    os.environ.get("REQUIRE_REDIS") != "1" and not redis_answers(), reason=f"NO REDIS ANSWERS at {REDIS}"
)


@pytest.fixture
def layer() -> dict[str, str]:
    """The environment in which processes share a channel layer."""
    return {"PIPETEER_TEST_LAYER": f"{REDIS} pipeteer-test-{secrets.token_hex(4)}"}


class Daphne:
    """One ASGI process."""

    def __init__(self, port: int, process: Any) -> None:
        self.port, self.process = port, process

    def connect(self, client: Client, queues: str = "*", origin: str | None = None) -> ClientConnection:
        """A socket of somebody's."""
        cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())
        return connect(
            f"ws://127.0.0.1:{self.port}/ws/pipeteer/?queues={queues}",
            additional_headers={"Cookie": cookies},
            origin=origin or f"http://127.0.0.1:{self.port}",  # type: ignore[arg-type]
        )

    @property
    def memory(self) -> int:
        """Kilobytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])


StartDaphne = Callable[..., Daphne]


@pytest.fixture
def start_daphne(worker_env: dict[str, str]) -> Iterator[StartDaphne]:
    """`start_daphne(env={...})` starts one and waits until it answers."""
    with tempfile.TemporaryDirectory(prefix="pipeteer-log-") as folder, ExitStack() as stack:

        def start(env: dict[str, str] | None = None) -> Daphne:
            (port,) = free_ports(1)
            log = Path(folder) / f"daphne-{port}.log"
            with log.open("w") as out:
                process = subprocess.Popen(
                    [sys.executable, "-m", "daphne", "-p", str(port), "tests.testapp.asgi:application"],
                    env=worker_env | {"PIPETEER_TEST_HOSTS": "127.0.0.1"} | (env or {}),
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
            stack.callback(lambda: print(f"--- {log.name}\n{log.read_text()}"))
            stack.callback(process.wait)
            stack.callback(process.kill)

            def answers() -> bool:
                assert process.poll() is None, log.read_text()
                with socket.socket() as caller:
                    return caller.connect_ex(("127.0.0.1", port)) == 0

            eventually(answers, "daphne answers")
            return Daphne(port, process)

        yield start


@pytest.fixture
def boss(transactional_db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("boss"))
    return client


def hears(*sockets: ClientConnection, within: float = 30) -> None:
    """Enqueue, and again where nothing comes of it, until each has heard of both queues, and of nothing else."""
    for listening in sockets:
        heard: set[str] = set()
        deadline = time.monotonic() + within
        quad.enqueue(SECRET, output=str(SECRET))
        while heard < {"quad", "double"}:
            assert time.monotonic() < deadline, heard
            try:
                message = listening.recv(2)
            except TimeoutError:  # its subscription was still on the way
                quad.enqueue(SECRET, output=str(SECRET))
                continue
            assert str(SECRET) not in str(message)
            assert set(json.loads(message)) == {"changed"}
            heard |= set(json.loads(message)["changed"])
        assert heard == {"quad", "double"}


@needs_wakeups
def test_two_processes_without_redis(
    start_daphne: StartDaphne, start_worker: StartManage, boss: Client, transactional_db: None
) -> None:
    worker = start_worker("quad", "double")
    ready(worker)
    first, second = start_daphne(), start_daphne()
    with first.connect(boss) as one, second.connect(boss, "quad,double") as other:
        hears(one, other)
    stop(worker)


@needs_redis
@pytest.mark.parametrize("wakeups", [pytest.param(True, marks=needs_wakeups), False])
def test_with_redis(
    start_daphne: StartDaphne, start_worker: StartManage, boss: Client, layer: dict[str, str], wakeups: bool
) -> None:
    """Together with ZeroMQ, and instead of it: as if the worker were on another host."""
    env = layer | configured(WAKEUPS=wakeups)
    worker = start_worker("quad", "double", env=env)
    ready(worker)
    first, second = start_daphne(env), start_daphne(env)
    with first.connect(boss) as one, second.connect(boss) as other:
        hears(one, other)
    stop(worker)


@needs_redis
def test_a_process_that_ends_at_once_is_heard(
    start_daphne: StartDaphne, start_manage: StartManage, boss: Client, layer: dict[str, str]
) -> None:
    """What it changed reaches the layer before it is gone, also where the layer's host has a name."""
    env = layer | configured(WAKEUPS=False)
    named = {name: text.replace("127.0.0.1", "localhost") for name, text in layer.items()}
    with start_daphne(env).connect(boss, "quad") as listening:
        patient = "from pipeteer_django.live import relay; relay.EXIT_PATIENCE = 30"  # on a slow machine, too
        code = f"{patient}; from tests.testapp.pipelines import quad; quad.enqueue(1)"
        assert start_manage("shell", "--command", code, env=env | named).wait(60) == 0
        assert json.loads(listening.recv(30)) == {"changed": ["quad"]}


def test_refused_by_the_server(start_daphne: StartDaphne, boss: Client) -> None:
    daphne = start_daphne(configured(WAKEUPS=True))
    for client, queues, origin in [
        (Client(), "quad", None),
        (boss, "nowhere", None),
        (boss, "quad", "http://evil.example"),
        (boss, "quad", "null"),
    ]:
        with pytest.raises(InvalidStatus) as refused, daphne.connect(client, queues, origin):
            pass
        assert refused.value.response.status_code == 403
        assert "quad" not in refused.value.response.body.decode()
    with daphne.connect(boss, "quad"):
        pass


@pytest.mark.parametrize("size", [5_000, 50_000_000])
def test_who_speaks_is_disconnected(start_daphne: StartDaphne, boss: Client, size: int) -> None:
    """However much it has to say."""
    daphne = start_daphne(configured(WAKEUPS=True))
    before = daphne.memory
    with daphne.connect(boss, "quad") as talking, pytest.raises(ConnectionClosed):
        talking.send(b"x" * size)
        talking.recv(10)
    assert daphne.memory - before < 50_000


@needs_wakeups
def test_a_flood_on_the_wire(start_daphne: StartDaphne, start_manage: StartManage, boss: Client) -> None:
    """10,000 changes a second through the proxy, forged ones among them: few messages, and memory stays as it was."""
    start_manage("pipeteer_proxy")
    daphne = start_daphne()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        flood = context.socket(zmq.PUB)
        flood.connect(settings.PIPETEER["PUB_URL"])
        with daphne.connect(boss, "quad,double") as listening:

            def begun() -> bool:
                flood.send(f"{CHANGES}quad".encode())
                try:
                    return bool(listening.recv(0.1))
                except TimeoutError:
                    return False

            eventually(begun, "changes arrive")
            before, began, sent = daphne.memory, time.monotonic(), 0
            while time.monotonic() < began + 5:
                for number in range(100):
                    flood.send(f"{CHANGES}{'quad' if number % 2 else secrets.token_hex(40)}".encode(), zmq.NOBLOCK)
                    sent += 1
                time.sleep(0.008)
            flood.send(f"{CHANGES}double".encode())
            messages = 0
            while "double" not in json.loads(listening.recv(10))["changed"]:
                messages += 1
            print(f"{sent} sent, {messages} messages, {daphne.memory - before} kB more")
            assert sent > 10_000
            assert messages <= 26
            assert daphne.memory - before < 8_000
    finally:
        context.destroy(linger=0)
