"""`--processes 2`: children are replaced, and stop with their supervisor."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

import pytest

from tests.conftest import StartManage
from tests.perils.pipelines import linger

from .tools import Process, configured, end, eventually, finished, hear, log, outputs


def children(supervisor: Process) -> list[int]:
    """The process ids of the workers that have started, oldest first: they are in their labels."""
    return [int(id) for id in re.findall(r"Worker \S*-(\d+)-[0-9a-f]+:", log(supervisor))]


def gone(pid: int) -> bool:
    """Whether no process has this id (nor waits to be buried)."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture
def supervise(start_worker: StartManage) -> Callable[..., Process]:
    def start(*arguments: str) -> Process:
        supervisor = start_worker("linger", "--processes", "2", *arguments, env=configured(RESERVE=1))
        hear(supervisor, "Worker ", times=2)
        return supervisor

    return start


def test_dead_and_stuck_children_are_replaced_and_sigterm_stops_all(supervise: Callable[..., Process]) -> None:
    supervisor = supervise("--grace", "20")
    killed, stuck = children(supervisor)
    os.kill(killed, signal.SIGKILL)
    os.kill(stuck, signal.SIGSTOP)
    hear(supervisor, "ended with status -9; starting another")
    hear(supervisor, f"Worker process {stuck} has been stuck")
    hear(supervisor, "Worker ", times=4)
    for n in range(4):
        linger.enqueue(1.5, key=str(n))
    hear(supervisor, "<linger 3>")
    # As a terminal's Ctrl-C does: to the whole foreground group. The children must not hear it twice.
    supervisor.send_signal(signal.SIGINT)
    assert end(supervisor) == 0
    assert outputs(linger) == {str(n): 1 for n in range(4)}
    assert "Second signal" not in log(supervisor)
    assert "Traceback" not in log(supervisor)
    assert all(map(gone, children(supervisor)))


def test_a_terminals_ctrl_c_reaches_the_children_once(supervise: Callable[..., Process]) -> None:
    supervisor = supervise()
    assert all(os.getpgid(child) != os.getpgid(supervisor.pid) for child in children(supervisor))
    supervisor.send_signal(signal.SIGTERM)
    assert end(supervisor) == 0


def test_children_do_not_outlive_a_killed_supervisor(supervise: Callable[..., Process]) -> None:
    """They finish what they run, and end by themselves."""
    supervisor = supervise("--grace", "20")
    linger.enqueue(2.0, key="one")
    hear(supervisor, "<linger one>")
    workers = children(supervisor)
    supervisor.kill()
    eventually(lambda: all(map(gone, workers)), "the children end")
    assert outputs(linger) == {"one": 1}
    assert "The supervisor is gone" in log(supervisor)
    assert "Second signal" not in log(supervisor)


def test_drain_with_several_processes(start_worker: StartManage) -> None:
    for n in range(20):
        linger.enqueue(0.0, key=str(n))
    supervisor = start_worker("linger", "--processes", "2", "--drain")
    assert end(supervisor) == 0
    assert finished(linger, 20)()
