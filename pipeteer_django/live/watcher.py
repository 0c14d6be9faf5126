"""A socket that says "something changed", to somebody who may know: the base of those of the admin and of your own."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Coroutine
from typing import Any, ClassVar

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.http import HttpRequest

from pipeteer_django.conf import settings
from pipeteer_django.live.bridge import bridge
from pipeteer_django.live.relay import GROUP, layer_is_shared
from pipeteer_django.live.requests import request_of

logger = logging.getLogger("pipeteer_django.live")

RECHECK = 30.0
"""Seconds after which it is asked again whether this user may still hear of this."""
MOST_PER_USER = 50
"""Sockets of one user, or one session, in this process."""

OVER = 4000
"""There is nothing more to come."""
NOT_ASKED = 4400
"""The client said something."""
REFUSED = 4403
"""It may not, or no longer."""

_open: Counter[Any] = Counter()


class Watcher(AsyncWebsocketConsumer):  # type: ignore[misc]
    """Watches pipelines. Permission is asked before the socket is accepted, and again every half minute.

    It only ever speaks: a client that says anything is disconnected. What it hears is a set of ids of pipelines, kept
    until the next message is due, so that a flood of changes costs neither memory nor messages.
    """

    pause: ClassVar[float] = 0.25
    """Seconds between two messages."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.watched: frozenset[str] = frozenset()
        self._who: Any = None
        self._counted = False
        self._news: set[str] = set()
        self._woken = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # What subclasses say

    def permitted(self, request: HttpRequest) -> frozenset[str]:
        """The ids of the pipelines that this request may watch; none: it is refused. The ORM may be used."""
        raise NotImplementedError

    async def tell(self, news: frozenset[str]) -> None:
        """Say that these changed."""
        await self.send(json.dumps({"changed": sorted(news)}))

    # Its life

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As every consumer; whatever ends it, nothing of it stays behind."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()

    async def connect(self) -> None:
        """Accept the socket, or refuse it without saying why."""
        if settings().WAKEUPS or layer_is_shared():  # else nothing would ever be heard, and a page had better poll
            self.watched = await self._ask()
        if not self.watched or (self._who is not None and _open[self._who] >= MOST_PER_USER):
            await self.end(REFUSED)
            return
        _open[self._who] += 1
        self._counted = True
        bridge().join(self.hear)
        if self.channel_layer is not None:
            self.groups = [GROUP]  # left by itself in the end
            await self.channel_layer.group_add(GROUP, self.channel_name)
        await self.accept()
        self._tasks = [asyncio.create_task(self._go_on(way)) for way in (self._tell_news(), self._ask_again())]

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Nothing is to be said here."""
        await self.end(NOT_ASKED)

    async def send(self, *arguments: Any, **options: Any) -> None:
        """As every consumer; a page that was left just now, its disconnect still on the way, is no error."""
        try:
            await super().send(*arguments, **options)
        except Exception as error:
            logger.debug("A live page could not be told: %r", error)

    async def end(self, code: int) -> None:
        """Close the socket, and say nothing more."""
        self.watched = frozenset()
        await self.close(code)

    def _leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        bridge().leave(self.hear)
        if self._counted:
            _open[self._who] -= 1
            if not _open[self._who]:
                del _open[self._who]

    # Permission

    async def _ask(self) -> frozenset[str]:
        found: frozenset[str] = await database_sync_to_async(self._ask_now)()
        return found

    def _ask_now(self) -> frozenset[str]:
        request = request_of(self.scope)
        self._who = self._who or request.user.pk or request.session.session_key
        return self.permitted(request)

    async def _ask_again(self) -> None:
        while True:
            await asyncio.sleep(RECHECK)
            self.watched = await self._ask()
            if not self.watched:
                await self.end(REFUSED)
                return

    # News

    def hear(self, ids: frozenset[str]) -> None:
        """Called on the event loop, by the bridge and the channel layer."""
        if news := self.watched & ids:
            self._news |= news
            self._woken.set()

    async def pipeteer_changed(self, event: dict[str, Any]) -> None:
        """What the channel layer brings."""
        self.hear(frozenset(event["pipelines"]))

    async def _tell_news(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            news, self._news = frozenset(self._news) & self.watched, set()
            if news:
                await self.tell(news)
            await asyncio.sleep(self.pause)

    async def _go_on(self, way: Coroutine[Any, Any, None]) -> None:
        """What fails here, a database that is away for example, ends the socket: its page polls and comes again."""
        try:
            await way
        except Exception:
            logger.exception("A live page's socket failed.")
            await self.end(1011)
