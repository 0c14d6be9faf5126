"""A hundred workflows and fifty orders, two workers, one SIGKILL: and then the tables are asked what happened."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.db import transaction
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from example_project import processes
from example_project.arithmetic.pipelines import quad
from example_project.demo import proof
from example_project.demo.proof import ORDERS, PIPELINES, QUADS, STOCK, Check
from example_project.shop import ordering
from example_project.shop.pipelines import acknowledge, approve, fulfil
from pipeteer_django.models import Worker
from pipeteer_django.pipelines.pipeline import Pipeline

DEADLINE = 90.0
WATCHED: dict[str, tuple[Pipeline[Any, Any], int]] = {
    "quad": (quad, QUADS),
    "orders": (fulfil, ORDERS),
    "mails": (acknowledge, ORDERS),
}
TOTAL = sum(count for _, count in WATCHED.values())


class Late(Exception):
    """Something did not happen in time."""


class Demo:
    """The two workers, the clock, and what was seen on the way."""

    def __init__(self, folder: Path, proxy_port: int, console: Console) -> None:
        self.folder, self.proxy_port, self.console = folder, proxy_port, console
        self.started = time.monotonic()
        self.checks: list[Check] = []
        self.workers: list[processes.Process] = []

    def say(self, text: str) -> None:
        self.console.print(f"[dim]{time.monotonic() - self.started:5.1f} s[/]  {text}")

    def wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        """Look until `condition()` holds. Raises Late at the deadline, or at once when a worker died unasked."""
        while not condition():
            dead = [worker for worker in self.workers if worker.poll() not in (None, -signal.SIGKILL)]
            if dead or time.monotonic() - self.started > DEADLINE:
                raise Late(f"{what}: {'a worker stopped by itself' if dead else 'not within the deadline'}")
            time.sleep(0.01)

    def start_worker(self, stack: ExitStack) -> processes.Process:
        """Start one more worker, and wait until it has said that it is there."""
        number = len(self.workers) + 1
        log = stack.enter_context((self.folder / f"worker-{number}.log").open("w"))
        worker = processes.manage("pipeteer_worker", log=log)
        self.workers.append(worker)
        self.wait_for(f"worker {number} to start", lambda: Worker.objects.count() >= number)
        return worker

    def proxy_answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.5)
            return probe.connect_ex(("127.0.0.1", self.proxy_port)) == 0

    def play(self, stack: ExitStack) -> None:
        """The whole story. Raises Late."""
        call_command("migrate", verbosity=0)
        products = ordering.open_shop(STOCK)
        self.say("a new SQLite file is migrated, the shop is open")

        first = self.start_worker(stack)
        self.wait_for("the proxy", self.proxy_answers)
        first_label = Worker.objects.get().label
        second = self.start_worker(stack)
        self.say(f"two workers run: {first.pid}, which hosts the wake-up proxy, and {second.pid}")

        with transaction.atomic():
            for x in range(QUADS):
                quad.enqueue(x, key=f"quad-{x}")
        for n in range(ORDERS):
            quantity = 12 if n % 10 == 0 else 1 + n % 3
            wanted = {products[n % 3]: quantity} | ({products[(n + 1) % 3]: 1} if n % 2 else {})
            ordering.place(f"customer-{n}@example.com", wanted)
        self.say(f"{QUADS} quads and {ORDERS} orders are enqueued")

        with progress(self.console) as bars:
            tasks = {name: bars.add_task(name, total=count) for name, (_, count) in WATCHED.items()}

            def outputs() -> int:
                counts = {name: pipeline.Output.everything.count() for name, (pipeline, _) in WATCHED.items()}
                for name, count in counts.items():
                    bars.update(tasks[name], completed=count)
                return sum(counts.values())

            self.wait_for("half of the outputs", lambda: outputs() >= TOTAL // 2)
            first.kill()
            first.wait()
            there = outputs()
            held = sum(pipeline.Input.objects.filter(reserved_by=first_label).count() for pipeline in PIPELINES)
            self.say(
                f"[bold red]SIGKILL[/] to worker {first.pid}: {there} of {TOTAL} outputs, {held} entries in its hands"
            )
            killed_in_time = there < TOTAL and first.returncode == -signal.SIGKILL
            self.checks.append(
                Check("a worker was killed in the middle of the work", killed_in_time, f"{there}/{TOTAL}")
            )

            def finished() -> bool:
                for key in approve.Input.objects.values_list("key", flat=True):
                    approve.push(key, True)  # somebody approves the big orders
                return outputs() == TOTAL

            self.wait_for("all outputs", finished)
        self.say("everything is there")

        self.wait_for("the other worker to take over the proxy", self.proxy_answers)
        self.checks.append(Check("the other worker took over the proxy", True))
        processes.stop([second])
        status = second.returncode
        self.checks.append(Check("the other worker stopped cleanly", status == 0, f"exit status {status}"))


def progress(console: Console) -> Progress:
    """One bar per kind of output."""
    columns = (TextColumn("         {task.description:<7}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def run(folder: Path, proxy_port: int) -> int:
    """Play the demo and print the proof; the exit status says whether it holds."""
    console = Console(highlight=False)
    demo = Demo(folder, proxy_port, console)
    with ExitStack() as stack:
        try:
            demo.play(stack)
        except Late as late:
            demo.checks.append(Check(str(late), False))
        finally:
            processes.stop(demo.workers)
    demo.checks += proof.checks()
    console.print("\n[bold]What the tables say[/]")
    for check in demo.checks:
        mark = "[green]ok  [/]" if check.holds else "[bold red]BAD [/]"
        console.print(
            f"  {mark} {check.claim}" + (f" [dim]({check.detail})[/]" if check.detail else ""), soft_wrap=True
        )
    bad = [check for check in demo.checks if not check.holds]
    if bad:
        for log in sorted(folder.glob("*.log")):
            console.rule(log.name)
            console.print(log.read_text()[-5000:], markup=False)
    took = time.monotonic() - demo.started
    verdict = f"[bold red]{len(bad)} claims do not hold[/]" if bad else "[bold green]Nothing lost, nothing doubled[/]"
    console.print(f"\n{verdict}, in {took:.0f} seconds.")
    return 1 if bad else 0
