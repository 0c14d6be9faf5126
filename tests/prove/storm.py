"""Many quads under many faults, and what is left of them. `tests.prove.chaos` sets Django up and runs it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from django.db import connection, connections
from django.db.models import Count

from pipeteer_django.auditing.audit import Audit
from pipeteer_django.conf import settings
from tests.failpoints import POINTS, failpoint
from tests.mutants import mutant
from tests.perils.pipelines import errand, linger_atomic
from tests.prove.servers import Server
from tests.testapp.models import Ledger

ROOT = Path(__file__).resolve().parent.parent.parent
LEASE = settings().RESERVE.total_seconds()
"""A zombie sleeps longer."""
COMMAND = ("pipeteer_worker", "errand", "linger_atomic", "--skip-checks", "--concurrency", "20")
PATIENCE = 120.0
"""Seconds without any progress after which a run has failed."""
_LOOK = 0.02
_TOLD = 20
"""Lines about what is wrong."""
_AUDITS = 10
"""How often everything is audited, the last time at rest."""
_OUTSIDE = ("after_claim", "after_commit")
"""Points that no transaction surrounds."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of what. A half of the kills and stops come at random, the others at a failpoint."""

    quads: int
    kills: int
    zombies: int
    crashes: int
    seed: int
    workers: int = 3
    mutant: str = ""


@dataclass(slots=True)
class Report:
    """What was done to the workers, and what came of the work."""

    plan: Plan
    remark: str = ""
    faults: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    """How often which failpoint was met."""
    quads: int = 0
    consumed: int = 0
    outputs: int = 0
    ledger: int = 0
    distinct: int = 0
    audits: int = 0
    balance: str = ""
    acknowledged: dict[str, int] = field(default_factory=dict)
    looked: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    rules: Counter[str] = field(default_factory=Counter)
    """How often which rule was found to be broken."""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        # (`asdict` makes nonsense of a Counter)
        counts = {"faults": dict(self.faults), "points": dict(self.points), "rules": dict(self.rules)}
        return asdict(replace(self, faults=Counter(), points=Counter(), rules=Counter())) | counts

    def __str__(self) -> str:
        faults = ", ".join(f"{self.faults[name]} {name}" for name in ("kill -9", "zombies", "server crashes"))
        points = ", ".join(f"{point} {count}" for point, count in sorted(self.points.items()))
        looked = ", ".join(f"{count} {name}" for name, count in self.looked.items())
        lines = [
            f"{self.quads} quads under {faults}, in {self.seconds:.0f} s (seed {self.plan.seed})",
            f"  at failpoints: {points or 'none'}",
            f"  outputs {self.outputs} (of these {self.consumed} consumed and deleted meanwhile), inputs {self.quads}",
            f"  ledger {self.ledger} rows, {self.distinct} distinct, wanted {2 * self.quads}",
            f"  acknowledged: {', '.join(f'{count} {kind}' for kind, count in sorted(self.acknowledged.items()))}",
            f"  {self.audits} audits, the last of {looked}: {self.balance}",
        ]
        lines += [f"  NOTE: {self.remark}"] if self.remark else []
        lines += [f"  WRONG: {line}" for line in self.wrong[:_TOLD]]
        if self.wrong[_TOLD:]:
            lines.append(f"  ... and {len(self.wrong) - _TOLD} more")
        if self.rules:
            broken = ", ".join(f"{rule} {count} times" for rule, count in sorted(self.rules.items()))
            lines.append(f"  broken: {broken}")
        lines += [] if self.wrong else ["  all is well"]
        return "\n".join(lines)


@dataclass(slots=True, eq=False)
class Worker:
    """A real worker process, perhaps with a failpoint before it."""

    process: subprocess.Popen[bytes]
    log: Path
    armed: tuple[str, str] | None = None
    """What is to be done to it, and where."""
    frozen_until: float | None = None

    @property
    def frozen(self) -> bool:
        """Whether it was stopped by a signal."""
        try:
            return os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # it has ended
            return False


class Storm:
    """One run on one database."""

    def __init__(self, plan: Plan, server: Server, folder: Path, say: Callable[[str], None]) -> None:
        self._plan, self._server, self._folder, self._say = plan, server, folder, say
        self._random = random.Random(plan.seed)
        self._report = Report(plan, server.remark)
        self._workers: list[Worker] = []
        self._ids: list[int] = []
        self._taken: list[int] = []
        self._armed = self._arms()
        self._faults = self._schedule()
        self._due = len(self._faults)
        self._started = 0
        self._lock = threading.Lock()
        """Of what the keeper changes, too."""
        self._over = threading.Event()
        self._audits = 1

    def run(self) -> Report:
        """All of it; the report says whether it went well."""
        began = time.monotonic()
        self._enqueue(self._plan.quads)
        keeper = threading.Thread(target=self._keep, name="keeper")
        keeper.start()
        try:
            for _ in range(self._plan.workers):
                self._start()
            self._rage()
            self._calm()
        finally:
            self._over.set()
            keeper.join()
            self._kill_all()
        self._look()
        self._report.seconds = time.monotonic() - began
        return self._report

    # The plan

    def _schedule(self) -> list[str]:
        """What comes at random moments, in what order."""
        plan = self._plan
        crashes = plan.crashes if self._server.can_crash else 0
        faults = ["kill"] * (plan.kills - plan.kills // 2) + ["stop"] * (plan.zombies - plan.zombies // 2)
        faults += ["crash"] * crashes
        self._random.shuffle(faults)
        return faults

    def _arms(self) -> list[tuple[str, str, int, str]]:
        """What new processes do to themselves: action, point, at which pass, in which pipeline."""
        arms = ["kill"] * (self._plan.kills // 2) + ["stop"] * (self._plan.zombies // 2)
        self._random.shuffle(arms)
        return [self._arm(action) for action in arms]

    def _arm(self, action: str) -> tuple[str, str, int, str]:
        if self._plan.mutant:  # with what it takes to be sure: work in hand, and somebody who takes it over
            return "stop", "after_claim", self._random.randint(1, 3), self._random.choice(["errand", "linger_atomic"])
        points = list(POINTS)
        if action == "stop" and self._random.random() < 0.7:
            points = list(_OUTSIDE)  # where others can take over; and on SQLite go on at all
        pipeline = self._random.choice(["errand", "linger_atomic", "linger_atomic"])
        return action, self._random.choice(points), self._random.randint(1, 12), pipeline

    # Faults

    def _rage(self) -> None:
        """Faults, spread over the work, until all have come about."""
        last, at = -1, time.monotonic()
        while self._faults or self._armed or any(worker.armed or worker.frozen_until for worker in self._workers):
            self._consume()
            done = Ledger.objects.count() // 2  # not outputs: for long there are only first halves
            passed = (self._due - len(self._faults)) / max(1, self._due)
            if self._faults and done >= 0.85 * passed * len(self._ids):
                self._strike(self._faults.pop())
            elif not self._faults and self._armed and not any(worker.armed for worker in self._workers):
                self._strike("kill")  # nobody is left who would do something to himself
            self._bury_dead()
            if len(self._ids) - done < 50 + len(self._ids) // 50:
                self._enqueue(max(20, self._plan.quads // 50))  # so that there is something to disturb
            if done != last:
                last, at = done, time.monotonic()
                self._tell(done)
            if done >= self._audits / _AUDITS * len(self._ids) and not self._plan.mutant:
                self._audit(("wrong",))
            assert time.monotonic() - at < PATIENCE, f"nothing has come about for {PATIENCE:.0f} s, {done} done"
            time.sleep(_LOOK)

    def _strike(self, fault: str) -> None:
        if fault == "crash":
            self._crash()
        else:
            with self._lock:
                self._strike_one(fault)

    def _strike_one(self, fault: str) -> None:
        awake = [worker for worker in self._workers if worker.frozen_until is None and not worker.frozen]
        if not awake:
            self._faults.append(fault)
            return
        worker = self._random.choice(awake)
        if fault == "stop":
            worker.process.send_signal(signal.SIGSTOP)
            self._note_frozen(worker)
            return
        worker.process.kill()
        worker.process.wait()
        self._report.faults["kill -9"] += 1
        self._replace(worker)

    def _crash(self) -> None:
        if type(self._server) is Server:  # SQLite: all of its processes at once are what a server is elsewhere
            with self._lock:
                for worker in list(self._workers):
                    worker.process.kill()
                    worker.process.wait()
                    self._replace(worker)
        else:
            self._server.crash(hard=self._random.random() < 0.5)
            connections.close_all()
        self._report.faults["server crashes"] += 1

    def _keep(self) -> None:
        """Notes who has stopped himself, and wakes who has slept long enough. On a thread of its own: on SQLite the one
        who sleeps may hold the lock that the main thread waits for."""
        while not self._over.wait(_LOOK):
            now = time.monotonic()
            with self._lock:
                for worker in self._workers:
                    if worker.frozen_until is not None and now >= worker.frozen_until:
                        worker.frozen_until = None
                        worker.process.send_signal(signal.SIGCONT)
                    elif worker.frozen_until is None and worker.armed and worker.frozen:
                        self._report.points[worker.armed[1]] += 1
                        worker.armed = None
                        self._note_frozen(worker)

    def _bury_dead(self) -> None:
        for worker in list(self._workers):
            if worker.process.poll() is not None:
                with self._lock:
                    self._bury(worker)

    def _bury(self, worker: Worker) -> None:
        status, said = worker.process.returncode, worker.log.read_text(errors="replace")
        if worker.armed and status == -signal.SIGKILL:
            self._report.faults["kill -9"] += 1
            self._report.points[worker.armed[1]] += 1
            worker.armed = None
        else:  # who begins while the server is away says so, and leaves it to his supervisor to try again
            assert status == 1, f"a worker ended with {status}: {said[-2000:]}"
            assert "does not answer" in said, f"a worker would not begin: {said[-2000:]}"
        self._replace(worker)

    def _note_frozen(self, worker: Worker) -> None:
        longer = 1.0 if self._plan.mutant else 0.0
        worker.frozen_until = time.monotonic() + LEASE * self._random.uniform(1.3 + longer, 2.2 + longer)
        self._report.faults["zombies"] += 1

    # Processes

    def _replace(self, worker: Worker) -> None:
        self._workers.remove(worker)
        if worker.armed:  # it was killed before it did it itself: somebody else will
            action, point = worker.armed
            self._armed.append((action, point, 1, ""))
        self._start()

    def _start(self) -> None:
        armed = self._armed.pop() if self._armed else None
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment |= failpoint(*armed) if armed else {}
        environment |= mutant(self._plan.mutant) if self._plan.mutant else {}
        self._started += 1
        log = self._folder / f"worker-{self._started:04}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "manage.py"), *COMMAND],
                cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        self._workers.append(Worker(process, log, armed[:2] if armed else None))

    def _kill_all(self) -> None:
        for worker in self._workers:
            worker.process.kill()
            worker.process.wait()

    def _calm(self) -> None:
        """Until everything is done, and the workers have ended as asked."""
        last, at = -1, time.monotonic()
        while left := errand.Input.objects.count() + linger_atomic.Input.objects.count():
            for worker in list(self._workers):
                assert worker.process.poll() is None, f"a worker ended with {worker.process.poll()}: see its log"
            if left != last:
                last, at = left, time.monotonic()
                self._tell(Ledger.objects.count() // 2)
            if time.monotonic() - at > (PATIENCE if not self._plan.mutant else 3 * LEASE + 2):
                break  # the audit says what is left, and why that is wrong
            time.sleep(10 * _LOOK)
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            status = worker.process.wait(30)
            if status not in (0, -signal.SIGTERM):  # it may have been about to begin
                self._report.wrong.append(f"a worker that was asked to stop ended with {status}")

    # Work

    def _enqueue(self, count: int) -> None:
        for start in range(0, count, 500):
            self._ids += [run.id for run in errand.enqueue_many([0.0] * min(500, count - start))]

    def _consume(self) -> None:
        """Take about half of the outputs away, as a consumer that keeps nothing would."""
        if len(self._taken) >= len(self._ids) // 2:
            return
        some = []
        for _ in range(20):
            with errand.consume() as entry:
                if entry is None:
                    break
                some.append(entry)
        errand.Output.everything.filter(pk__in=[entry.pk for entry in some]).delete()
        self._taken += [entry.run_id for entry in some]

    def _tell(self, done: int) -> None:
        faults = ", ".join(f"{count} {name}" for name, count in self._report.faults.items())
        self._say(f"{done} of {len(self._ids)} done, {faults or 'no faults yet'}")

    # The end

    def _look(self) -> None:
        report = self._report
        here = list(errand.Output.everything.values_list("run_id", flat=True))
        report.quads, report.consumed, report.outputs = len(self._ids), len(self._taken), len(here) + len(self._taken)
        report.wrong += self._differences(here)
        ledger = Ledger.objects.aggregate(rows=Count("id"), runs=Count("run_id", distinct=True))
        report.ledger, report.distinct = ledger["rows"], ledger["runs"]
        if not report.ledger == report.distinct == 2 * report.quads:
            wanted = 2 * report.quads
            report.wrong.append(f"the ledger has {report.ledger} rows of {report.distinct} runs instead of {wanted}")
        audit = self._audit(("wrong", "pending", "unknown"))
        report.looked = dict(audit.looked)
        assert audit.comparison is not None
        report.acknowledged = dict(audit.comparison.trails.counts)
        balance = audit.comparison.balances["errand"]
        report.balance = str(balance)
        if not balance.even or balance.inputs != report.quads:
            report.wrong.append(f"the trail has {balance}, and {report.quads} were enqueued")

    def _audit(self, weights: Collection[str]) -> Audit:
        """What `pipeteer_audit` finds: also while all is at work."""
        self._audits += 1
        self._report.audits += 1
        audit = Audit([errand, linger_atomic], connection.alias, Path(settings().AUDIT or ""))
        found = [finding for finding in audit.findings() if finding.weight in weights]
        self._report.wrong += map(str, found)
        self._report.rules.update(finding.rule for finding in found)
        return audit

    def _differences(self, here: list[int]) -> Iterator[str]:
        counts = Counter([*here, *self._taken])
        for run in self._ids:
            if counts[run] != 1:
                yield f"run {run} has {counts[run]} outputs"
        for run in counts.keys() - set(self._ids):
            yield f"run {run}, which nobody enqueued, has an output"
        left = errand.Input.objects.count() + linger_atomic.Input.objects.count()
        if left:
            yield f"{left} entries are still in their queues"
