"""Sockets of a test: logged in as somebody, opened as a browser would."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from channels.db import database_sync_to_async
from channels.testing import WebsocketCommunicator
from django.test import Client

from pipeteer_django.live.bridge import bridge
from pipeteer_django.live.routing import application

ORIGIN = "http://testserver"


def headers(client: Client, origin: str | None = ORIGIN) -> list[tuple[bytes, bytes]]:
    """What a browser sends with the handshake."""
    cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())
    found = [(b"host", b"testserver"), (b"cookie", cookies.encode())]
    return found if origin is None else [*found, (b"origin", origin.encode())]


async def orm(function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """Call it on a thread whose database connection is closed after that, so that the test database can go."""
    return await database_sync_to_async(function)(*arguments, **more)


async def refused(path: str, client: Client, origin: str | None = ORIGIN, sockets: Any = ()) -> bool:
    """Whether it is refused before it was accepted, without a word."""
    communicator = WebsocketCommunicator(application(None, sockets), path, headers(client, origin))
    connected, code = await communicator.connect(5)
    if connected:
        await communicator.disconnect()
    else:
        assert code in (None, 1000, 4403)
    return not connected


@contextlib.asynccontextmanager
async def socket(path: str, client: Client, sockets: Any = ()) -> AsyncIterator[WebsocketCommunicator]:
    """An open one."""
    communicator = WebsocketCommunicator(application(None, sockets), path, headers(client))
    assert (await communicator.connect(5))[0]
    try:
        yield communicator
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await communicator.disconnect()


def say_changed(*ids: str) -> None:
    """As if the proxy had said it. Called on the loop, whose bridge it is."""
    for id in ids:
        bridge()._hear(id)


async def told(communicator: WebsocketCommunicator) -> Any:
    """The next message."""
    return json.loads(await communicator.receive_from(5))


async def closed(communicator: WebsocketCommunicator, within: float = 5) -> int:
    """The code with which the server closes it; messages before that are skipped."""
    while (message := await communicator.receive_output(within))["type"] != "websocket.close":
        pass
    return int(message["code"])
