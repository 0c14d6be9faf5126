"""What the results were measured on, and with which versions."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

OURS = ("Django", "pipeteer-django", "pyzmq", "pydantic", "psycopg", "mysqlclient", "uvloop")
THEIRS = ("dbos", "oban", "psycopg", "uvloop", "pysqlite3-binary")


def machine() -> dict[str, str | int | float]:
    """Processor, cores, memory, system. What cannot be read is left out."""
    found: dict[str, str | int | float] = {"cores": os.cpu_count() or 0, "system": platform.platform()}
    if model := _first(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo")):
        found["processor"] = model
    if kilobytes := _first(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo")):
        found["memory_gib"] = round(int(kilobytes) / 2**20, 1)
    return found


def _first(pattern: str, path: Path) -> str:
    try:
        match = re.search(pattern, path.read_text(), re.MULTILINE)
    except OSError:
        return ""
    return match[1].strip() if match else ""


def versions(packages: tuple[str, ...] = OURS) -> dict[str, str]:
    """This Python's version and its packages'."""
    found = {"Python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def versions_there(python: str) -> dict[str, str]:
    """The same of the peers' Python."""
    code = "import json; from benchmarks import machine as m; print(json.dumps(m.versions(m.THEIRS)))"
    words = subprocess.run([python or sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return dict(json.loads(words))
