"""`--processes N`: keeps N worker processes running, replacing one that died or whose event loop is stuck."""

from __future__ import annotations

import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from pipeteer_django.worker.deadline import patience
from pipeteer_django.worker.service import BEAT_FD, Options

logger = logging.getLogger("pipeteer_django.worker")

_RESPAWN = 0.5
"""Seconds before a process that died young is replaced; doubled each time, up to a minute."""


@dataclass(slots=True)
class Child:
    """One worker process and the pipe in which its event loop ticks."""

    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    pipe: int = -1
    started: float = 0.0
    heard: float = 0.0
    pause: float = _RESPAWN
    due: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Spawn it (no fork of this process's threads and connections)."""
        self.pipe, theirs = os.pipe()
        os.set_blocking(self.pipe, False)
        os.set_blocking(theirs, False)
        # A group of its own: Ctrl-C must reach it once only, through this process.
        self.process = subprocess.Popen(
            self.command,
            env={**os.environ, BEAT_FD: str(theirs)},
            pass_fds=[theirs],
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        os.close(theirs)
        self.started = self.heard = time.monotonic()

    def listen(self) -> None:
        """Take in its ticks."""
        try:
            if os.read(self.pipe, 4096):
                self.heard = time.monotonic()
        except BlockingIOError:
            pass

    def ended(self) -> int | None:
        """Its exit status once it is over, and room for the next."""
        code = self.process.poll() if self.process else None
        if code is not None:
            os.close(self.pipe)
            self.process = None
            lived = time.monotonic() - self.started
            self.pause = _RESPAWN if lived > 60 else min(60.0, self.pause * 2)
            self.due = time.monotonic() + (0.0 if lived > 60 else self.pause / 2)
        return code


class Supervisor:
    """Runs until stopped; with `drain` until every child has ended by itself."""

    def __init__(self, count: int, options: Options) -> None:
        self._children = [Child(_command(options)) for _ in range(count)]
        self._drain = options.drain
        self._stopping = False
        self._patience = patience()

    def run(self) -> None:
        """Watch the children."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        with selectors.DefaultSelector() as selector:
            while self._care_for_all(selector):
                for key, _ in selector.select(timeout=0.2):
                    key.data.listen()

    def _care_for_all(self, selector: Any) -> bool:
        """Look after every child; False once all are over for good."""
        left = [self._care(child, selector) for child in self._children]
        return any(left)

    def _care(self, child: Child, selector: Any) -> bool:
        """Look after one child; False once it is over for good."""
        if child.process is None:
            if self._stopping or child.due == float("inf"):
                return False
            if time.monotonic() >= child.due:
                child.start()
                selector.register(child.pipe, selectors.EVENT_READ, child)
                self._pass_on(child)  # a signal may have come while it was being started
            return True
        self._kill_if_stuck(child)
        pipe = child.pipe
        if child.process.poll() is not None:
            selector.unregister(pipe)
            self._note_end(child, child.ended() or 0)
        return True

    def _note_end(self, child: Child, code: int) -> None:
        if code == 0 and self._drain:
            child.due = float("inf")
        elif not self._stopping:
            logger.error("A worker process ended with status %d; starting another.", code)

    def _kill_if_stuck(self, child: Child) -> None:
        silent = time.monotonic() - child.heard
        if child.process and silent > self._patience:
            logger.error("Worker process %d has been stuck for %.0f s; killing it.", child.process.pid, silent)
            child.process.kill()
            child.heard = time.monotonic()

    def _stop(self, number: int, frame: Any) -> None:
        # A second signal is passed on too: the children then exit at once.
        self._stopping = True
        for child in self._children:
            self._pass_on(child)

    def _pass_on(self, child: Child) -> None:
        if self._stopping and child.process:
            child.process.send_signal(signal.SIGTERM)


def _command(options: Options) -> list[str]:
    command = [sys.executable, *_manage(), "pipeteer_worker", *options.ids]
    command += ["-v", str(options.verbosity), "--skip-checks"]
    if options.concurrency:
        command += ["--concurrency", str(options.concurrency)]
    if options.grace is not None:
        command += ["--grace", str(options.grace)]
    return [*command, "--drain"] if options.drain else command


def _manage() -> list[str]:
    """How this process was started: manage.py, or `python -m django`."""
    script = sys.argv[0]
    return [script] if script.endswith(".py") and "django/__main__" not in script else ["-m", "django"]


def supervise(count: int, options: Options) -> None:
    """Keep `count` workers running until SIGTERM."""
    Supervisor(count, options).run()
