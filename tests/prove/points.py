"""Every statement and every COMMIT of a process as a named point: first to list them, then to die at one of them."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

_STRING = re.compile(r"'(?:[^']|'')*'")
_NUMBER = re.compile(r"\b\d+(?:\.\d+)?\b|%s")
_LIST = re.compile(r"\?(?:\s*,\s*\?)+")
_ROWS = re.compile(r"\(\?\)(?:\s*,\s*\(\?\))+")
_THREADS = {"pipeteer-database": "database", "pipeteer-body": "body", "pipeteer-renewal": "renewal"}


@dataclass(frozen=True, slots=True)
class Point:
    """Before or after the n-th time that a kind of thread says something to the database.

    Not simply the n-th statement of all: threads overtake one another, and an idle worker looks more or less often.
    """

    thread: str
    statement: str
    """Without its values."""
    number: int
    side: str

    @property
    def name(self) -> str:
        """What `--point` takes."""
        return f"{self.thread}/{digest(self.statement)}/{self.number}/{self.side}"

    def __str__(self) -> str:
        return f"{self.side} {self.thread}'s {self.number}. {self.statement[:100]}"


@cache
def digest(statement: str) -> str:
    """A short name."""
    return hashlib.blake2s(statement.encode(), digest_size=4).hexdigest()


@cache
def shape(sql: str) -> str:
    """A statement without its values, so that it is the same in each run."""
    text = _NUMBER.sub("?", _STRING.sub("?", " ".join(sql.split())))
    return _ROWS.sub("(?)", _LIST.sub("?", text))


def thread_kind() -> str:
    """Which of the process's threads this is."""
    name = threading.current_thread().name
    return _THREADS.get(name.rsplit("_", 1)[0], name if name in ("person", "MainThread") else "other")


class Watch:
    """Notes the points that the process passes, and kills it (-9) at `deadly`, on the very thread that came there."""

    def __init__(self, deadly: str = "") -> None:
        self.passed: list[Point] = []
        self.statements: list[str] = []
        """What was executed, as it was, in order."""
        self._deadly = deadly
        self._counts: Counter[tuple[str, str]] = Counter()
        self._last: dict[str, str] = {}
        self._lock = threading.Lock()
        self._away = threading.local()

    @property
    def away(self) -> bool:
        """Whether what this thread does is not watched."""
        return getattr(self._away, "now", False)

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """What this thread does here is the test's own."""
        self._away.now = True
        try:
            yield
        finally:
            self._away.now = False

    def around(self, connection: Any, statement: str, do: Callable[[], Any]) -> Any:
        """Do it, between its two points."""
        if self.away:
            return do()
        thread, kind = thread_kind(), shape(statement)
        with self._lock:
            self.statements.append(statement)
            # An idle worker asks the same over and over.
            idle = self._last.get(thread) == kind and kind.startswith("SELECT") and not connection.in_atomic_block
            self._last[thread] = kind
            self._counts[thread, kind] += not idle
            number = self._counts[thread, kind]
        if idle:
            return do()
        self._pass(Point(thread, kind, number, "before"))
        result = do()
        self._pass(Point(thread, kind, number, "after"))
        return result

    def _pass(self, point: Point) -> None:
        if point.name == self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed.append(point)

    def install(self) -> None:
        """Watch all connections of this process, for good."""
        connection_created.connect(self._created, weak=False)
        for connection in connections.all(initialized_only=True):
            self._created(None, connection)
        self._patch("commit", lambda *_: "COMMIT")
        self._patch("rollback", lambda *_: "ROLLBACK")
        self._patch("set_autocommit", lambda autocommit, *_: "AUTOCOMMIT" if autocommit else "BEGIN")

    def _created(self, sender: Any, connection: Any, **kwargs: Any) -> None:
        if self._executes not in connection.execute_wrappers:
            connection.execute_wrappers.append(self._executes)

    def _executes(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        return self.around(context["connection"], sql, lambda: execute(sql, params, many, context))

    def _patch(self, name: str, says: Callable[..., str]) -> None:
        real = getattr(BaseDatabaseWrapper, name)

        def method(connection: Any, *arguments: Any, **options: Any) -> Any:
            said = says(*arguments, *options.values())
            if name == "set_autocommit" and connection.vendor == "sqlite":
                return real(connection, *arguments, **options)  # it says BEGIN by a cursor, and nothing else
            return self.around(connection, said, lambda: real(connection, *arguments, **options))

        setattr(BaseDatabaseWrapper, name, method)
