"""Starting and stopping `manage.py` in the background, for the demo and for `make dev`."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent

Process = subprocess.Popen[bytes]


def manage(*arguments: str, log: IO[str] | None = None) -> Process:
    """Start `manage.py`, in a process group of its own; its output goes to `log`, or where ours goes."""
    return subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "manage.py"), *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log and subprocess.STDOUT,
        start_new_session=True,
    )


def stop(processes: Iterable[Process], grace: float = 10.0) -> None:
    """Ask them, and what they started, to stop; kill what still runs after `grace` seconds."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        os.killpg(process.pid, signal.SIGTERM)
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
        # A reloader that is asked to stop may leave its child behind.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def stop_on_sigterm() -> None:
    """Treat SIGTERM as Ctrl-C, so that nothing is left running."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on, below the range from which outgoing connections get theirs."""
    with ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            candidate = held.enter_context(socket.socket())
            try:
                candidate.bind(("127.0.0.1", port := random.randrange(20_000, 32_000)))
            except OSError:
                continue
            ports.append(port)
        return ports
