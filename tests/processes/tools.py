"""What the tests of real processes share: waiting for what happens, and looking at who is how."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.db import OperationalError, connection, transaction
from django.db.models import Model

from tests.testapp.models import Ledger

Process = subprocess.Popen[str]

PATIENCE = 90.0
"""Seconds after which a test gives up on what should take one or two."""
RESERVE = 2.0
"""The lease in tests.settings."""
ON_SQLITE = connection.vendor == "sqlite"


def eventually(condition: Callable[[], Any], what: str, within: float = PATIENCE) -> Any:
    """Look until `condition()` is true and return what it was; fail, naming `what`, when the time is over."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within:.0f} s: {what}"
        time.sleep(0.02)
    return found


def log(process: Process) -> str:
    """All that the process has said."""
    return str(process.log.read_text())  # type: ignore[attr-defined]


def hear(process: Process, text: str, times: int = 1, within: float = PATIENCE) -> None:
    """Wait until the process has said this. Fails at once if it ends without."""

    def said() -> bool:
        over = process.poll() is not None
        heard = log(process).count(text) >= times
        assert heard or not over, f"it ended with {process.returncode} and never said {text!r}"
        return heard

    eventually(said, f"the process says {text!r}", within)


def ready(*workers: Process) -> None:
    """Wait until these workers are up."""
    for worker in workers:
        hear(worker, "Worker ")


def end(process: Process, within: float = PATIENCE) -> int:
    """Its exit status, once it is over."""
    return process.wait(within)


def stop(process: Process, within: float = PATIENCE) -> None:
    """Ask a worker to stop; it must do so cleanly."""
    process.send_signal(signal.SIGTERM)
    assert end(process, within) == 0


def frozen(process: Process) -> bool:
    """Whether it was stopped by SIGSTOP."""
    return os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None


def configured(**settings: Any) -> dict[str, str]:
    """The environment in which a process has other PIPETEER settings (RESERVE in seconds)."""
    return {"PIPETEER_TEST_SETTINGS": json.dumps(settings)}


def outputs(pipeline: Any) -> dict[str, Any]:
    """Values by key; fails if a run has two."""
    rows = list(pipeline.Output.everything.values_list("key", "value"))
    assert len(rows) == len(dict(rows))
    return dict(rows)


def times_run(name: str | None = None) -> Counter[int]:
    """Ledger rows by run."""
    rows = Ledger.objects.all() if name is None else Ledger.objects.filter(name=name)
    return Counter(rows.values_list("run_id", flat=True))


def finished(pipeline: Any, count: int) -> Callable[[], bool]:
    """Whether it has so many outputs, and nothing left."""
    return lambda: pipeline.Output.everything.count() >= count and not pipeline.Input.objects.exists()


def consume(pipeline: Any, output: str = "output") -> list[Model]:
    """Take all outputs and delete them, as a consumer that keeps nothing: the next one cannot hide behind them."""
    taken: list[Model] = []
    while True:
        with pipeline.consume(output) as entry:
            if entry is None:
                break
            taken.append(entry)
    pipeline.Output.everything.filter(pk__in=[entry.pk for entry in taken]).delete()
    return taken


def sessions() -> list[int]:
    """The database sessions of other processes on this test database."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        else:
            cursor.execute(
                "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()"
            )
        return [id for (id,) in cursor.fetchall()]


def kill_sessions(ids: Iterable[int] | None = None) -> None:
    """End sessions, all of the others if none are named."""
    with connection.cursor() as cursor:
        for id in sessions() if ids is None else ids:
            if connection.vendor == "postgresql":
                cursor.execute("SELECT pg_terminate_backend(%s)", [id])
            else:
                with suppress(OperationalError):  # it has ended by itself meanwhile
                    cursor.execute("KILL CONNECTION %s", [id])


@contextmanager
def locked(rows: Any) -> Iterator[None]:
    """Somebody's long transaction: holds these rows (on SQLite everything) until the block ends."""
    with transaction.atomic():
        list(rows.select_for_update())
        yield
