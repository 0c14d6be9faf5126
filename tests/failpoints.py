"""Named points of a worker process at which it kills or stops itself: `PIPETEER_FAILPOINT=kill:body_end:2:double`.

That is: what to do (`kill`, `stop`), where, at which pass (the first if left out), in which pipeline (any if left out).
A stopped process goes on from that very point when somebody sends it SIGCONT.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues import atomic, turn
from pipeteer_django.signals import attempt_started

VARIABLE = "PIPETEER_FAILPOINT"
POINTS = (
    "before_claim_commit",
    "after_claim",
    "body_start",
    "body_end",
    "before_settle",
    "before_commit",
    "after_commit",
)
"""In the order in which an entry meets them."""

_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def failpoint(action: str, point: str, number: int = 1, pipeline: str = "") -> dict[str, str]:
    """The environment for such a worker."""
    assert action in _SIGNALS
    assert point in POINTS
    return {VARIABLE: f"{action}:{point}:{number}:{pipeline}"}


class Failpoint:
    """One point, and how often it will yet be passed unharmed."""

    def __init__(self, action: str, point: str, number: str = "1", pipeline: str = "") -> None:
        self._signal, self._point, self._left, self._pipeline = _SIGNALS[action], point, int(number), pipeline
        self._lock = threading.Lock()

    def reach(self, point: str, pipelines: set[str]) -> None:
        """Called wherever a point is."""
        if point != self._point or (self._pipeline and self._pipeline not in pipelines):
            return
        with self._lock:
            self._left -= 1
            now = self._left == 0
        if now:
            os.write(1, f"<failpoint {point}>\n".encode())
            # To this thread: it must not get one step further.
            signal.pthread_kill(threading.get_ident(), self._signal)


def install() -> None:
    """Arm the failpoint that the environment names, if any."""
    if VARIABLE in os.environ:
        _hook(Failpoint(*os.environ[VARIABLE].split(":")).reach)


def _hook(reach: Callable[[str, set[str]], None]) -> None:
    def claimed(sender: Any, **kwargs: Any) -> None:
        reach("after_claim", {sender.id})

    attempt_started.connect(claimed, weak=False)
    for pipeline in registry:
        pipeline.function = _around(pipeline.function, pipeline.id, reach)
    transaction = threading.local()
    _watch_settle(reach, transaction)
    _watch_claim(transaction)
    _watch_commit(reach, transaction)


def _around(function: Callable[..., Any], id: str, reach: Callable[[str, set[str]], None]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        reach("body_start", {id})
        value = function(*arguments)
        reach("body_end", {id})
        return value

    @functools.wraps(function)
    async def call_async(*arguments: Any) -> Any:
        reach("body_start", {id})
        value = await function(*arguments)
        reach("body_end", {id})
        return value

    return call_async if registry.find(id).kind == "workflow" or getattr(registry.find(id), "is_async", False) else call


def _watch_settle(reach: Callable[[str, set[str]], None], transaction: threading.local) -> None:
    real = turn.settle

    def settle(tickets: Any, **options: Any) -> Any:
        reach("before_settle", {ticket.pipeline.id for ticket in tickets})
        settled = real(tickets, **options)
        transaction.settles = {ticket.pipeline.id for ticket in settled.done}
        if settled.claims:
            transaction.claims = {claim.pipeline.id for claim in settled.claims}
        return settled

    turn.settle = atomic.settle = settle


def _watch_claim(transaction: threading.local) -> None:
    real = turn.claim

    def claim(pipeline: Any, *arguments: Any, **options: Any) -> Any:
        claimed = real(pipeline, *arguments, **options)
        if claimed.claims:
            transaction.claims = {pipeline.id}
        return claimed

    turn.claim = claim


def _watch_commit(reach: Callable[[str, set[str]], None], transaction: threading.local) -> None:
    real = BaseDatabaseWrapper.commit

    def commit(connection: Any) -> None:
        settles = transaction.__dict__.pop("settles", set())
        claims = transaction.__dict__.pop("claims", set())
        if claims:
            reach("before_claim_commit", claims)
        if settles:
            reach("before_commit", settles)
        real(connection)
        if settles:
            reach("after_commit", settles)

    BaseDatabaseWrapper.commit = commit
