"""pipeteer_django itself: `manage.py pipeteer_worker`, every setting at its default."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.peers import Peer

MANAGE = str(Path(__file__).parents[1] / "site" / "manage.py")


class Pipeteer(Peer):
    """W1 enqueues with one call each, bulk is `enqueue_many`, and `wait` is `run.result()`."""

    tasks = 20_000
    quads = 3_000

    def prepare(self) -> None:
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", run_syncdb=True, verbosity=0)

    def connect(self) -> None:
        from benchmarks.site.load import pipelines

        self.all = pipelines

    def worker_command(self) -> list[str]:
        before, after = (os.environ.get(f"BENCH_WORKER_{name}", "").split() for name in ("PREFIX", "OPTIONS"))
        return [*before, sys.executable, MANAGE, "pipeteer_worker", *after]

    def enqueue(self, number: int) -> Any:
        return self.all.mark.enqueue(number)

    def bulk(self, numbers: list[int]) -> None:
        self.all.mark.enqueue_many(numbers)

    def pending(self) -> int:
        return int(self.all.mark.Input.objects.count() + self.all.quad.Input.objects.count())

    def finished(self, handle: Any) -> bool:
        return handle.look() is not None

    def wait(self, handle: Any, timeout: float = 10.0) -> bool:
        try:
            handle.result(timeout=timeout)
        except TimeoutError:
            return False
        return True

    def start_quads(self, count: int) -> None:
        for start in range(0, count, 1000):
            self.all.quad.enqueue_many(range(start, min(start + 1000, count)))

    def start_holds(self, count: int) -> None:
        for start in range(0, count, 1000):
            self.all.hold.enqueue_many(range(start, min(start + 1000, count)))

    def asleep(self) -> int:
        return int(self.all.hold.Input.objects.waiting().count())

    def start_chain(self, steps: int) -> Any:
        return self.all.chain.enqueue(steps)

    def start_fan(self, width: int) -> Any:
        return self.all.fan.enqueue(width)


def make(name: str, url: str, folder: Path) -> Peer:
    """Ours, or ours with fifty pipelines more; wake-ups on ports of this measurement's own."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.site.settings"
    if name == "pipeteer_50":
        os.environ["BENCH_MORE_PIPELINES"] = "50"
    if "PIPETEER_PUB_URL" not in os.environ:
        for variable in ("PIPETEER_PUB_URL", "PIPETEER_SUB_URL"):
            os.environ[variable] = f"tcp://127.0.0.1:{processes.free_port()}"
    return Pipeteer(name, url, folder)
