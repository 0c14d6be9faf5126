"""Start worker processes, stop them, and read what they cost from /proc."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def start(command: list[str], log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """A process in a group of its own, its words in `log`."""
    with log.open("ab") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, **(environment or {})}, start_new_session=True
        )


def stop(process: subprocess.Popen[bytes], *, kill: bool = False) -> None:
    """End the process group that `start` made: politely, unless `kill`."""
    for number, patience in ((signal.SIGTERM, 8), (signal.SIGKILL, 10)):
        if kill and number == signal.SIGTERM:
            continue
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used. 0 where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def machine_seconds() -> tuple[float, float]:
    """Busy time of all processors together, and all of their time. Zeros where there is no /proc."""
    try:
        fields = [int(word) / _TICKS for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return 0.0, 0.0
    return sum(fields) - fields[3] - fields[4], sum(fields)  # idle, and idle while a disk works


def memory_mb(pid: int) -> float:
    """Resident memory of a process. 0 where there is no /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
