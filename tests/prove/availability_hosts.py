"""Hosts of our own: network namespaces on a bridge, in a sandbox that takes everything with it when it ends.

`sandboxed` runs a command in new network, process and mount namespaces: nothing in there reaches the machine's network,
and when it ends, in whatever way, the kernel ends every process and takes every interface away.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.databases import Unavailable

HERE = "web-1"
"""The host that is this process's own: it has the bridge."""
ADDRESSES = {
    "db-1": "10.0.0.11", "db-2": "10.0.0.12", "queue-1": "10.0.0.5", "worker-1": "10.0.0.21", "worker-2": "10.0.0.22",
    HERE: "10.0.0.31",
}  # fmt: skip
_TOOLS = ("unshare", "ip", "setpriv", "mount")
_SANDBOX = ("unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")
_PATIENCE = 30.0


def sandboxed(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run `command` in a sandbox; returns its exit status. Raises Unavailable where none can be made."""
    if os.geteuid() != 0:
        raise Unavailable("network namespaces need root")
    if lacking := [tool for tool in _TOOLS if not shutil.which(tool)]:
        raise Unavailable(f"not installed: {', '.join(lacking)} (Debian's util-linux and iproute2)")
    tried = subprocess.run([*_SANDBOX, "ip", "link", "add", "br0", "type", "bridge"], capture_output=True, text=True)
    if tried.returncode:
        raise Unavailable(f"no network namespaces here: {tried.stderr.strip()}")
    return subprocess.call([*_SANDBOX, *command], env=environment)


def reaping() -> None:
    """Go on in a child, while this process, the sandbox's first, buries everybody's orphans: a server that was killed
    must not stay as a zombie, because its successor would take it to be alive."""
    child = os.fork()
    if not child:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


class Network:
    """The hosts, and what can be done to them. Only inside a sandbox."""

    def __init__(self) -> None:
        Path("/run/netns").mkdir(exist_ok=True)
        _run("mount", "-t", "tmpfs", "none", "/run/netns")
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "br0", "type", "bridge")
        _run("ip", "address", "add", f"{ADDRESSES[HERE]}/24", "dev", "br0")
        _run("ip", "link", "set", "br0", "up")
        for name in ADDRESSES:
            if name != HERE:
                self._add(name)

    def _add(self, name: str) -> None:
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", name, "master", "br0", "up")
        _run("ip", "-n", name, "address", "add", f"{ADDRESSES[name]}/24", "dev", "eth0")
        _run("ip", "-n", name, "link", "set", "eth0", "up")
        _run("ip", "-n", name, "link", "set", "lo", "up")

    def start(
        self, host: str, command: Sequence[str], log: IO[bytes], *, user: str = "", cwd: str | Path = "/",
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:  # fmt: skip
        """A process on that host, as that user of the machine."""
        # A user's programs may be anywhere, this Python in root's home for one: he may read, and nothing more.
        reading = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", *reading] if user else []
        # Its own host name, too: workers are called by it.
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', host]
        there = ["ip", "netns", "exec", host] if host != HERE else []
        return subprocess.Popen(
            [*there, *named, *as_user, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd,
            env=dict(environment) if environment is not None else None, start_new_session=True,
        )  # fmt: skip

    def kill(self, host: str, only: str = "") -> None:
        """kill -9 of all processes of a host, or of those whose command matches, until none is left."""
        deadline = time.monotonic() + _PATIENCE
        while left := [pid for pid in self._processes(host) if re.search(only, _command(pid))]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{host}: processes {left} survive kill -9")
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.02)

    def _processes(self, host: str) -> list[int]:
        return [int(pid) for pid in _run("ip", "netns", "pids", host).split()]

    def cut(self, host: str) -> None:
        """Pull its network cable: nothing arrives, nobody is told."""
        _run("ip", "link", "set", host, "down")

    def plug(self, host: str) -> None:
        """Put the cable back."""
        _run("ip", "link", "set", host, "up")

    def part(self, host: str, others: Sequence[str]) -> None:
        """Let nothing through between one host and some others, while the rest reach it."""
        for other in others:
            _run("ip", "-n", host, "route", "add", "blackhole", f"{ADDRESSES[other]}/32")

    def rejoin(self, host: str, others: Sequence[str]) -> None:
        """Undo `part`."""
        for other in others:
            _run("ip", "-n", host, "route", "del", "blackhole", f"{ADDRESSES[other]}/32")


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":  # the first process of a sandbox: `python -m tests.prove.availability_hosts MODULE ARGS`
    reaping()
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])
