"""`--reload`: a worker that starts again when code changes, as runserver does, and first hands back what it runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from typing import Any

from django.utils import autoreload

from pipeteer_django.worker.service import Options, leave, serve
from pipeteer_django.worker.worker import Worker

_GRACE = 1.0
_CHANGED = 3
"""The exit status by which Django's reloader asks to be started again."""


class _Keeper:
    """Knows the worker that runs on another thread, and stops it."""

    def __init__(self) -> None:
        self._kept: tuple[Worker, asyncio.AbstractEventLoop] | None = None

    def keep(self, worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
        self._kept = worker, loop

    def stop(self) -> None:
        if self._kept is None:
            return
        worker, loop = self._kept
        with contextlib.suppress(RuntimeError):  # its loop is closed: it has ended
            loop.call_soon_threadsafe(worker.stop, _GRACE)
            worker.stopped.wait(timeout=_GRACE + 4)


def serve_reloading(options: Options) -> None:
    """Run a worker in a child process, a new one whenever a file of the project changes."""
    if os.environ.get(autoreload.DJANGO_AUTORELOAD_ENV) == "true":
        _serve_until_change(options)
    else:
        _start_again_and_again()


def _serve_until_change(options: Options) -> None:
    keeper = _Keeper()
    status = 0
    try:
        autoreload.run_with_reloader(serve, options, keeper.keep)
    except SystemExit as ended:
        status = int(ended.code or 0)
    # Now, because the interpreter's own end waits for bodies and refuses the worker's threads any more work.
    keeper.stop()
    leave(status)


def _start_again_and_again() -> None:
    """Not Django's own parent process: that one kills its child where it is asked to stop."""
    children: list[subprocess.Popen[bytes]] = []
    signals: list[int] = []

    def pass_on() -> None:
        if signals and children:
            children[-1].send_signal(signal.SIGTERM)

    def on_signal(number: int, frame: Any) -> None:
        signals.append(number)
        pass_on()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    status = _CHANGED
    while status == _CHANGED and not signals:
        environment = {**os.environ, autoreload.DJANGO_AUTORELOAD_ENV: "true"}
        children[:] = [subprocess.Popen(autoreload.get_child_arguments(), env=environment, process_group=0)]
        pass_on()  # the signal may have come while it was being started
        status = children[0].wait()
    sys.exit(0 if signals else status)
