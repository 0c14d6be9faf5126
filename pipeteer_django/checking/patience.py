"""Runs code that may never come to an end, or ask the process to exit."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class _Stop(BaseException):
    """Raised in the middle of code that takes too long."""


class _Work(threading.Thread, Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        # A daemon: what cannot be stopped does not keep the process from its end.
        super().__init__(name="pipeteer-check", daemon=True)
        self._work = work
        self.result: list[T] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result.append(self._work())
        except BaseException as error:
            self.error = error


def within(seconds: float, work: Callable[[], T]) -> T:
    """Call `work` on a thread of its own and return its result.

    Raises the Exception that it raises, RuntimeError for SystemExit and the like, TimeoutError if it is too slow. Such
    work is interrupted; if it does not let itself be, it is left behind.
    """
    thread = _Work(work)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        _interrupt(thread)
        raise TimeoutError(f"it did not come to an end within {seconds:g} s")
    if isinstance(thread.error, Exception):
        raise thread.error
    if thread.error is not None:  # what it asks for (SystemExit) is not for this process
        raise RuntimeError(f"it raised {type(thread.error).__name__}") from thread.error
    return thread.result[0]


def _interrupt(thread: threading.Thread) -> None:
    for _ in range(20):  # it may catch BaseException, and loop on
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_Stop))
        thread.join(0.1)
        if not thread.is_alive():
            return
