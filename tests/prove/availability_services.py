"""Units of docs/deployment as systemd would run them, on hosts of ours."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.prove.availability_cluster import FILES
from tests.prove.availability_hosts import Network

ROOT = FILES.parent.parent
PYTHON = "/srv/shop/venv/bin/python"


class Service:
    """One unit on one host: started, started again when it ends (`Restart=always`), and stopped."""

    def __init__(self, network: Network, unit: str, host: str, environment: Mapping[str, str], folder: Path) -> None:
        self.host, self.log, self.restarts = host, folder / f"{unit.partition('.')[0].rstrip('@')}-{host}.log", 0
        self._network, self._environment = network, environment
        self._command = command_of(unit, environment)
        assert option(unit, "Restart") == "always"
        self._pause, self._patience = float(option(unit, "RestartSec")), float(option(unit, "TimeoutStopSec"))
        self._ended: float | None = None
        self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        environment = os.environ | dict(self._environment)
        with self.log.open("ab") as log:
            return self._network.start(self.host, self._command, log, cwd=ROOT, environment=environment)

    def keep(self) -> None:
        """Call it now and then: starts it again a while after it has ended."""
        if self._process.poll() is None:
            return
        self._ended = self._ended or time.monotonic()
        if time.monotonic() >= self._ended + self._pause:
            self._ended, self.restarts = None, self.restarts + 1
            self._process = self._started()

    def stop(self) -> int | None:
        """Its exit status, or None if it had to be killed after `TimeoutStopSec`."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(self._patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return None

    @property
    def said(self) -> str:
        """All that it has logged."""
        return self.log.read_text(errors="replace")


def option(unit: str, name: str) -> str:
    """What a unit file says; it must say it once."""
    (value,) = re.findall(rf"^{name}=(.*)$", (FILES / unit).read_text(), re.MULTILINE)
    return str(value)


def command_of(unit: str, environment: Mapping[str, str]) -> list[str]:
    """A unit's ExecStart as systemd reads it, with this Python for the one in /srv."""
    first, *rest = option(unit, "ExecStart").split()
    assert first == PYTHON
    words: list[str] = []
    for word in rest:
        if word.startswith("$") and not word.startswith("${"):  # a word of its own becomes several
            words += environment[word[1:]].split()
        else:
            words.append(re.sub(r"\$\{(\w+)\}", lambda name: environment[name[1]], word))
    return [sys.executable, *words]
