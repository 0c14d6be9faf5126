"""Work under way while the database's primary is killed, cut off and brought back; and what is left of it in the end.

`tests.prove.availability` sets Django up on the host web-1 of a sandbox, and runs this there.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.db import DatabaseError, IntegrityError, InterfaceError, connection, transaction
from django.db.models import Count

from pipeteer_django.auditing.audit import Audit
from pipeteer_django.conf import settings
from tests.perils.pipelines import errand, linger_atomic
from tests.prove.availability_cluster import SERVERS, Cluster
from tests.prove.availability_hosts import ADDRESSES, Network
from tests.prove.availability_services import ROOT, Service
from tests.testapp.models import Ledger

FAULTS = {
    "power": "kill -9 of everything on the primary's host, and its cable pulled",
    "cable": "the primary's cable pulled: it lives on, and is told nothing",
    "parted": "the primary cut off from its standby and from the votes, but not from its clients",
    "lagging": "the primary cut off from its standby alone, then killed as by `power`",
    "postmaster": "kill -9 of the server process alone",
    "switchover": "an operator's planned change",
}
PATIENCE = 180.0
"""Seconds for work to go on, and for the other server to come back."""
_OPEN = 100
"""Entries that are open at most."""
_PAUSE = 0.05
_BEFORE = 30
"""Acknowledged entries between two faults."""
_ALONE = 3.0
"""Seconds that a lagging primary lives on."""
_TOLD = 15


@dataclass(slots=True)
class Strike:
    """One fault, and how it went on; seconds since the fault."""

    fault: str
    old: str
    new: str = ""
    promoted: float = 0.0
    acknowledged: float = 0.0
    """Until an enqueue that began after the fault was acknowledged."""
    worked: float = 0.0
    """Until an activity's commit after the fault was seen."""
    safe: float = 0.0
    """From the repair until the other server had everything again."""

    def __str__(self) -> str:
        there = f"{self.old} -> {self.new}" if self.new != self.old else f"{self.old} again"
        return (
            f"{self.fault:<10} {there:<13} new primary after {self.promoted:5.1f} s, enqueue {self.acknowledged:5.1f} "
            f"s, work {self.worked:5.1f} s; safe {self.safe:4.1f} s after the repair"
        )


@dataclass(slots=True)
class Report:
    """What was done, and what came of it."""

    strikes: list[Strike] = field(default_factory=list)
    entries: int = 0
    acknowledged: int = 0
    doubtful: int = 0
    """Enqueues whose answer was lost, and that were there when asked again."""
    lost: int = 0
    outputs: int = 0
    ledger: int = 0
    distinct: int = 0
    probes: Counter[str] = field(default_factory=Counter)
    turns: int = 0
    """How often acknowledgements went over from one server to the other."""
    looked: dict[str, int] = field(default_factory=dict)
    services: dict[str, str] = field(default_factory=dict)
    """What they said at their end, by host."""
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        looked = ", ".join(f"{count} {name}" for name, count in self.looked.items())
        probes = ", ".join(f"{count} by {host}" for host, count in sorted(self.probes.items()))
        lines = [f"{len(self.strikes)} faults in {self.seconds:.0f} s", *(f"  {strike}" for strike in self.strikes)]
        lines += [
            f"  enqueued {self.entries}: {self.acknowledged} acknowledged, {self.doubtful} found when asked again",
            f"  acknowledged and lost: {self.lost}",
            f"  outputs {self.outputs}, ledger {self.ledger} rows, {self.distinct} distinct, wanted {2 * self.entries}",
            f"  commits written past all guards and acknowledged: {probes}; {self.turns} changes of server",
            *(f"  {host}: {said}" for host, said in self.services.items()),
            f"  the audit looked at {looked}",
        ]
        lines += [f"  WRONG: {line}" for line in self.wrong[:_TOLD]]
        lines += [f"  ... and {len(self.wrong) - _TOLD} more"] if self.wrong[_TOLD:] else []
        return "\n".join([*lines, *([] if self.wrong else ["  all is well"])])


class Caller(threading.Thread):
    """Enqueues, one after the other, and remembers what it was told. Whatever it is told is asked again."""

    def __init__(self) -> None:
        super().__init__(name="caller", daemon=True)
        self.acknowledged: dict[str, tuple[float, float]] = {}
        """Keys, and when the enqueue began and was acknowledged."""
        self.doubtful: set[str] = set()
        self.over = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.over.is_set():
            key = f"errand-{number}"
            if self._enqueue(key):
                number += 1
            while not self.over.wait(_PAUSE) and self._open() > _OPEN:
                pass
        connection.close()

    def _enqueue(self, key: str) -> bool:
        """True when it is known to be there. A row of one's own tells whether a lost answer was a yes."""
        began = time.monotonic()
        try:
            with transaction.atomic():
                with connection.cursor() as cursor:
                    cursor.execute("INSERT INTO orders VALUES (%s)", [key])
                errand.enqueue(0.0, key=key)
        except IntegrityError:
            self.doubtful.add(key)
            return True
        except (DatabaseError, InterfaceError):
            connection.close()
            return False
        self.acknowledged[key] = began, time.monotonic()
        return True

    def _open(self) -> int:
        try:
            return int(errand.Input.objects.count())
        except (DatabaseError, InterfaceError):
            connection.close()
            return 0


class Storm:
    """One run."""

    def __init__(
        self, network: Network, cluster: Cluster, services: Sequence[Service], folder: Path, say: Callable[[str], None]
    ) -> None:
        self._network, self._cluster, self._services = network, cluster, services
        self._folder, self._say = folder, say
        self._report = Report()
        self._caller = Caller()

    @staticmethod
    def prepare() -> None:
        """Tables that are none of Django's business."""
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE orders (key text PRIMARY KEY)")
            cursor.execute("CREATE TABLE probes (host text, client int, number int)")

    def run(self, faults: Sequence[str], quads: int) -> Report:
        """All of it; the report says whether it went well."""
        began = time.monotonic()
        for host in SERVERS:
            self._probe(host)
        self._caller.start()
        self._until(lambda: self._progress() > _BEFORE, "work to begin")
        for fault in faults:
            self._until(self._acknowledges_more(_BEFORE), "enqueues")
            self._report.strikes.append(self._strike(fault))
            self._say(str(self._report.strikes[-1]))
        self._until(lambda: len(self._caller.acknowledged) >= quads, "enqueues")
        self._caller.over.set()
        self._caller.join(PATIENCE)
        self._until(lambda: not self._left(), "everything to be done", complain=False)
        self._stop()
        self._look()
        self._report.seconds = time.monotonic() - began
        return self._report

    # Faults

    def _strike(self, fault: str) -> Strike:
        old = self._cluster.primary()
        assert old is not None
        self._cluster.eventually(self._cluster.safe, "a standby that has everything")
        strike, before = Strike(fault, old), self._identity()
        done = Ledger.objects.count()
        repair = self._do(fault, old)
        at = time.monotonic()
        self._until(lambda: self._identity() not in (None, before), "another primary", pause=0.05)
        strike.promoted = time.monotonic() - at
        identity = self._identity()
        strike.new = next((host for host in SERVERS if identity and identity[0] == ADDRESSES[host]), "?")
        self._until(lambda: self._progress() > done, "work to go on", pause=0.05)
        strike.worked = time.monotonic() - at
        self._until(lambda: self._acknowledged_since(at) is not None, "an enqueue", pause=0.02)
        strike.acknowledged = (self._acknowledged_since(at) or 0.0) - at
        repaired = time.monotonic()
        repair()
        self._until(self._cluster.safe, "the other server")
        strike.safe = time.monotonic() - repaired
        return strike

    def _do(self, fault: str, host: str) -> Callable[[], None]:
        """Do it; returns what undoes it."""
        network, others = self._network, [name for name in SERVERS if name != host]
        if fault == "power":
            network.cut(host)
            network.kill(host)
            return lambda: self._revive(host)
        if fault == "cable":
            network.cut(host)
            return lambda: network.plug(host)
        if fault == "parted":
            network.part(host, [*others, "queue-1"])
            return lambda: network.rejoin(host, [*others, "queue-1"])
        if fault == "lagging":
            network.part(host, others)
            self._caller.over.wait(_ALONE)  # for somebody who may acknowledge what he alone has
            network.cut(host)
            network.kill(host)
            network.rejoin(host, others)
            return lambda: self._revive(host)
        if fault == "postmaster":
            network.kill(host, self._cluster.postmaster())
        else:
            self._cluster.switch_over()
        return lambda: None

    def _revive(self, host: str) -> None:
        self._network.plug(host)
        self._cluster.start(host)
        self._probe(host)

    def _probe(self, host: str) -> None:
        command = [sys.executable, "-m", "tests.prove.availability_probe", host, self._cluster.url(host)]
        with (self._folder / f"probe-{host}.log").open("ab") as log:
            self._network.start(host, command, log, cwd=ROOT, environment=os.environ)

    def _identity(self) -> tuple[Any, ...] | None:
        """Which server, and since when it runs, writes what comes through PgBouncer; None where nobody does."""
        asked = "host(inet_server_addr()), pg_postmaster_start_time() WHERE NOT pg_is_in_recovery()"
        return self._asked(f"SELECT {asked}")

    def _progress(self) -> int:
        row = self._asked("SELECT count(*) FROM testapp_ledger")
        return int(row[0]) if row else 0

    def _asked(self, statement: str) -> tuple[Any, ...] | None:
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                row: tuple[Any, ...] | None = cursor.fetchone()
                return row
        except (DatabaseError, InterfaceError):
            connection.close()
            return None

    # Waiting

    def _acknowledges_more(self, count: int) -> Callable[[], bool]:
        goal = len(self._caller.acknowledged) + count
        return lambda: len(self._caller.acknowledged) >= goal

    def _acknowledged_since(self, at: float) -> float | None:
        return min((said for began, said in list(self._caller.acknowledged.values()) if began >= at), default=None)

    def _left(self) -> int:
        row = self._asked(
            f"SELECT (SELECT count(*) FROM {errand.Input._meta.db_table}) + "
            f"(SELECT count(*) FROM {linger_atomic.Input._meta.db_table})"
        )
        return int(row[0]) if row else 1

    def _until(self, condition: Callable[[], bool], what: str, *, pause: float = 0.2, complain: bool = True) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                if not complain:
                    return
                raise TimeoutError(f"waited {PATIENCE:.0f} s in vain for {what}; logs are in {self._folder}")
            for service in self._services:
                service.keep()
            time.sleep(pause)

    # The end

    def _stop(self) -> None:
        for service in self._services:
            if (status := service.stop()) != 0:
                self._report.wrong.append(f"{service.host}: a service that was asked to stop ended with {status}")
            counts = [line.partition("Worker stopped: ")[2] for line in service.said.splitlines()]
            counts = [count for count in counts if count]
            self._report.services[service.host] = f"{service.restarts} restarts; {'; '.join(counts) or 'a proxy'}"
            if counts and all(count.startswith("0 done") for count in counts):
                self._report.wrong.append(f"{service.host}: its workers did nothing")

    def _look(self) -> None:
        report, caller = self._report, self._caller
        keys = [*caller.acknowledged, *caller.doubtful]
        report.entries, report.acknowledged, report.doubtful = len(keys), len(caller.acknowledged), len(caller.doubtful)
        counts = Counter(errand.Output.everything.values_list("key", flat=True))
        report.outputs = counts.total()
        waiting = set(errand.Input.objects.values_list("key", flat=True))
        lost = [key for key in caller.acknowledged if not counts[key] and key not in waiting]
        report.lost = len(lost)
        report.wrong += [f"{key} was acknowledged, and is gone" for key in lost]
        report.wrong += [f"{key} has {counts[key]} outputs" for key in keys if counts[key] != 1 and key not in lost]
        report.wrong += [f"{key}, which nobody enqueued, has an output" for key in counts.keys() - set(keys)]
        ledger = Ledger.objects.aggregate(rows=Count("id"), runs=Count("run_id", distinct=True))
        report.ledger, report.distinct = ledger["rows"], ledger["runs"]
        if not report.ledger == report.distinct == 2 * report.entries:
            report.wrong.append(f"the ledger has {report.ledger} rows of {report.distinct} runs")
        report.wrong += self._of_probes()
        audit = Audit([errand, linger_atomic], connection.alias, Path(settings().AUDIT or ""))
        report.wrong += [str(found) for found in audit.findings() if found.weight in ("wrong", "pending", "unknown")]
        report.looked = dict(audit.looked)

    def _of_probes(self) -> Iterator[str]:
        """Whether all that either server acknowledged is there, and each was the only one at its time."""
        report = self._report
        with connection.cursor() as cursor:
            cursor.execute("SELECT host, client, number FROM probes")
            there = set(cursor.fetchall())
        said = sorted(
            (float(at), host, int(client), int(number))
            for host in SERVERS
            for client, number, at in map(str.split, (self._folder / f"probe-{host}.log").read_text().splitlines())
        )
        report.probes = Counter(host for _, host, _, _ in said)
        gone = [each for each in said if each[1:] not in there]
        for host, count in Counter(host for _, host, _, _ in gone).items():
            yield f"{count} commits that {host} acknowledged are gone"
        report.turns = sum(before[1] != after[1] for before, after in itertools.pairwise(said))
        changes = sum(strike.old != strike.new for strike in report.strikes)
        if report.turns != changes:
            yield f"acknowledgements went {report.turns} times from one server to the other, at {changes} changes"
