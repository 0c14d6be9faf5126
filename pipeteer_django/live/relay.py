"""What this process changed goes to a channel layer, where the project has one that leaves the process."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import socket
import threading
import time
from typing import Any

from channels.layers import get_channel_layer
from django.conf import settings

from pipeteer_django.signals import rows_changed

logger = logging.getLogger("pipeteer_django.live")

GROUP = "pipeteer.live"
"""Every open socket is a member."""
PAUSE = 0.25
"""Seconds between two messages to the layer."""
EXIT_PATIENCE = 2.0
"""Seconds that the last message may hold up the end of the process."""
_IN_MEMORY = "channels.layers.InMemoryChannelLayer"


def layer_is_shared() -> bool:
    """Whether the project's channel layer reaches other processes."""
    layer = getattr(settings, "CHANNEL_LAYERS", {}).get("default", {})
    return bool(layer.get("BACKEND", _IN_MEMORY) != _IN_MEMORY)


def connect() -> None:
    """Called once, when Django is ready."""
    if layer_is_shared():
        rows_changed.connect(_hear, dispatch_uid="pipeteer_django.live")


class _Loop(asyncio.SelectorEventLoop):
    """Looks names of hosts up by itself: asyncio's executor takes nothing more once a process has begun to end."""

    async def getaddrinfo(self, *arguments: Any, **options: Any) -> Any:
        """As every loop, on this thread."""
        return socket.getaddrinfo(*arguments, **options)


class Relay:
    """The ids to tell, and the thread that tells them: no turn and no request waits for the layer."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._changed = threading.Condition()
        self._sending = False
        threading.Thread(target=self._run, name="pipeteer-relay", daemon=True).start()

    def add(self, ids: list[str]) -> None:
        """Tell these soon."""
        with self._changed:
            self._ids.update(ids)
            self._changed.notify_all()

    def flush(self, timeout: float) -> None:
        """Wait until everything was told, at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._ids and not self._sending, timeout)

    def _run(self) -> None:
        loop = _Loop()  # one for all messages: a layer keeps its connections by loop
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._ids))
                ids, self._ids, self._sending = sorted(self._ids), set(), True
            try:
                layer: Any = get_channel_layer()
                loop.run_until_complete(layer.group_send(GROUP, {"type": "pipeteer.changed", "pipelines": ids}))
            except Exception as error:
                logger.warning("The channel layer does not take changes; pages look by themselves: %s", error)
            with self._changed:
                self._sending = False
                self._changed.notify_all()
            time.sleep(PAUSE)


_relay: Relay | None = None
_guard = threading.Lock()


def _hear(pipelines: list[str], **kwargs: Any) -> None:
    """Receiver of rows_changed."""
    global _relay
    with _guard:
        if _relay is None:
            _relay = Relay()
    _relay.add(pipelines)


def _after_fork() -> None:
    """The thread stayed in the parent, and the lock may be held for ever in this copy."""
    global _relay, _guard
    _relay, _guard = None, threading.Lock()


@atexit.register
def _flush() -> None:
    if _relay is not None:
        _relay.flush(EXIT_PATIENCE)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
