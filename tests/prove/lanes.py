"""Crash points, one after the other: each in processes of its own, forked from this one, in which all is loaded."""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.db import connection, connections

from tests.databases import remove
from tests.prove.points import Point, Watch
from tests.prove.scenarios import SCENARIOS
from tests.prove.worlds import Scenario, World, audit, clean, differences, expire, faults, play, state

Answer = dict[str, Any]
Task = tuple[str, Point]
"""A scenario's name, and where to kill."""

_TRIES = 3
"""For a point that was not met: threads overtook one another otherwise this time."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A run that nobody killed."""

    points: list[Point]
    state: Answer


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one crash."""

    scenario: str
    point: str
    met: bool
    wrong: str


# Databases


@contextmanager
def database(lane: int) -> Iterator[str]:
    """A test database of its own for a lane. Yields its name."""
    mine: Any = connection
    settings = mine.settings_dict
    before, name = settings["NAME"], settings["TEST"]["NAME"]
    settings["TEST"]["NAME"] = f"{name}_{lane}"
    mine.creation.create_test_db(verbosity=0, autoclobber=True)
    User.objects.create_superuser("boss")
    connections.close_all()
    made, settings["NAME"], settings["TEST"]["NAME"] = settings["NAME"], before, name
    try:
        yield made
    finally:
        use(made)
        mine.creation.destroy_test_db(before, verbosity=0)
        if mine.vendor == "sqlite":
            remove(Path(made))


def use(name: str) -> None:
    """From now on this process, and its children, work on that database; no connection to it is open."""
    connections.close_all()
    connection.settings_dict["NAME"] = name


@contextmanager
def databases(count: int) -> Iterator[list[str]]:
    """So many."""
    with ExitStack() as stack:
        names = [stack.enter_context(database(number)) for number in range(count)]
        # Or each worker that looks for garbage when it starts would copy all of our memory.
        gc.collect()
        gc.freeze()
        yield names


# Processes


def in_child(work: Callable[[], Answer | None], log: Path) -> tuple[int, Answer | None]:
    """Do it in a fork of this process. Returns the exit status (negative: the signal that ended it) and the answer."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(work, log, writer)
    os.close(writer)
    with os.fdopen(reader) as answers:
        text = answers.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status, json.loads(text) if status == 0 and text else None


def _child(work: Callable[[], Answer | None], log: Path, writer: int) -> None:
    status = 1
    try:
        signal.alarm(round(World.patience) + 10)
        said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        answer = work()
        with os.fdopen(writer, "w") as out:
            json.dump(answer, out)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Lane:
    """Works on one database, with one process at a time."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / f"{os.getpid()}.log"

    def baseline(self, scenario: Scenario) -> Baseline:
        """The points there are, and how it ends. Raises RuntimeError if that is not as it must be."""

        def work() -> Answer:
            clean(scenario)
            watch = Watch()
            watch.install()
            play(scenario, watch)
            points = [[point.thread, point.statement, point.number, point.side] for point in watch.passed]
            with watch.unseen():
                return {"points": points, "state": state(scenario)}

        status, answer = in_child(work, self._log)
        if answer is None:
            raise RuntimeError(f"{scenario.name} fails without any crash ({status}):\n{self._tail()}")
        if wrong := faults(scenario, answer["state"]):
            raise RuntimeError(f"{scenario.name} is wrong without any crash: {'; '.join(wrong)}")
        return Baseline([Point(*point) for point in answer["points"]], answer["state"])

    def crash(self, scenario: Scenario, point: Point, wanted: Answer) -> Verdict:
        """Kill there, recover, compare."""
        for _ in range(_TRIES):
            met, wrong = self._crash(scenario, point.name, wanted)
            if met or wrong:
                break
        return Verdict(scenario.name, point.name, met, f"{point}: {wrong}" if wrong else "")

    def _crash(self, scenario: Scenario, name: str, wanted: Answer) -> tuple[bool, str]:
        def victim() -> None:
            clean(scenario)
            watch = Watch(name)
            watch.install()
            play(scenario, watch)

        def recover() -> Answer:
            found = audit(scenario)
            expire(scenario)
            play(scenario, Watch(), recovers=True)
            after = state(scenario)
            return after | {"audit": found + after["audit"]}

        status, _ = in_child(victim, self._log)
        if status not in (0, -signal.SIGKILL):
            return False, f"the first process ended with {status}: {self._tail()}"
        met = status == -signal.SIGKILL
        status, found = in_child(recover if met else lambda: state(scenario), self._log)
        if found is None:
            return met, f"the process that recovers ended with {status}: {self._tail()}"
        return met, "; ".join(differences(wanted, found))

    def _tail(self) -> str:
        return self._log.read_text()[-2000:]


# Many lanes


def race(names: Sequence[str], tasks: Sequence[Task], states: dict[str, Answer], folder: Path) -> Iterator[Verdict]:
    """Do all tasks, on each of these databases a share of them at the same time; verdicts as they come."""
    children: dict[int, int] = {}
    with selectors.DefaultSelector() as selector:
        for number, name in enumerate(names):
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(reader)
                _lane(name, tasks[number :: len(names)], states, folder, writer)
            os.close(writer)
            stream = os.fdopen(reader)
            children[pid] = selector.register(stream, selectors.EVENT_READ).fd
        while selector.get_map():
            for key, _ in selector.select():
                line = key.fileobj.readline()  # type: ignore[union-attr]
                if line:
                    yield Verdict(**json.loads(line))
                else:
                    selector.unregister(key.fileobj)
    for pid in children:
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError("A process that runs crash points ended before its time; see above.")


def _lane(name: str, tasks: Sequence[Task], states: dict[str, Answer], folder: Path, writer: int) -> None:
    status = 1
    try:
        use(name)
        lane = Lane(folder)
        with os.fdopen(writer, "w", buffering=1) as out:
            for scenario, point in tasks:
                verdict = lane.crash(SCENARIOS[scenario], point, states[scenario])
                said = {slot: getattr(verdict, slot) for slot in Verdict.__slots__}
                out.write(json.dumps(said) + "\n")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
