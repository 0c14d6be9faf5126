"""One measurement in one process: `python -m benchmarks.measure PEER WORKLOAD [options as JSON]`.

The database at `DATABASE_URL` is fresh. The last line printed is the result as JSON. `PEER worker` is a worker.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import peers, plans, processes, soak
from benchmarks.marks import Marks

now = time.monotonic
Result = dict[str, Any]


class Measurement:
    """The workloads, each a method that returns its numbers."""

    def __init__(self, peer: peers.Peer, marks: Marks, options: dict[str, Any]) -> None:
        self.peer, self.marks, self.options = peer, marks, options
        self.workers: list[Any] = []

    # Helpers

    def start(self, count: int = 1) -> None:
        """Start worker processes."""
        self.workers = [self.peer.start_worker(number) for number in range(count)]

    def stop(self, *, kill: bool = False) -> None:
        """End them; `kill` where they would go on to drain a backlog."""
        for worker in self.workers:
            processes.stop(worker, kill=kill)
        self.workers = []

    def warm(self, count: int = 1) -> None:
        """Workers that have run a task and have gone idle."""
        self.start(count)
        handle = self.peer.enqueue(10**6)
        self.until(lambda: self.marks.count() > 0, 40, poll=0.02)
        self.peer.wait(handle)
        time.sleep(1.0)
        self.marks.reset()

    def until(self, done: Callable[[], bool], timeout: float, *, poll: float = 0.005) -> None:
        """Wait, or fail with the worker's last words."""
        end = now() + timeout
        while not done():
            dead = [worker for worker in self.workers if worker.poll() is not None]
            if dead or now() > end:
                log = self.peer.folder / "worker0.log"
                words = log.read_text()[-1500:] if log.exists() else ""
                what = "the worker died" if dead else f"not done after {timeout} s"
                raise TimeoutError(f"{what}; {self.marks.count()} bodies ran, {self.peer.pending()} wait. {words}")
            time.sleep(poll)

    def drain(self, bodies: int, runs: int) -> Result:
        """Start workers on what waits: from the first body to nothing left."""
        workers = self.options.get("workers", 1)
        self.marks.reset()
        begun = now()
        self.start(workers)
        self.until(lambda: self.marks.count() > 0, 60)
        used, machine, since = self.cpu(), processes.machine_seconds(), now()
        self.until(lambda: self.marks.count() >= bodies, 120)
        self.until(lambda: self.peer.pending() == 0, 30)
        end, first = now(), self.marks.first()
        used = self.cpu() - used
        busy, total = (after - before for after, before in zip(processes.machine_seconds(), machine, strict=True))
        extra = self.marks.count() - bodies
        self.stop()
        return {
            "count": runs, "workers": workers, "per_second": runs / (end - first), "first_s": first - begun,
            "cpu_ms": 1000 * used / runs, "worker_percent": 100 * used / workers / (end - since),
            "busy_percent": 100 * busy / max(total, 0.01), "extra_bodies": extra,
        }  # fmt: skip

    def cpu(self) -> float:
        """Processor time of all workers."""
        return sum(processes.cpu_seconds(worker.pid) for worker in self.workers)

    # Workloads

    def w1(self) -> Result:
        """Enqueue with one call each, then with the peer's own bulk call."""
        count, limit = self.options.get("count", 5000), now() + 10
        start, done = now(), 0
        while done < count and now() < limit:
            self.peer.enqueue(done)
            done += 1
        result = {"count": done, "per_second": done / (now() - start)}
        if self.peer.bulk:
            start = now()
            for chunk in range(0, 10_000, 1000):
                self.peer.bulk(list(range(done + chunk, done + chunk + 1000)))
            result["bulk_per_second"] = 10_000 / (now() - start)
        return result

    def w2(self) -> Result:
        """Drain a queue; more for several workers, because they do not come up at the same moment."""
        count = self.options.get("count", self.peer.tasks) * self.options.get("workers", 1)
        self.peer.preload(count)
        return self.drain(count, count)

    def w3(self) -> Result:
        """One task on an idle worker: until its body starts, until its result is seen."""
        self.warm()
        pause, limit = random.Random(1), now() + 25
        start, committed, result = [], [], []
        for number in range(self.options.get("count", 500)):
            if now() > limit:
                break
            called = now()
            handle = self.peer.enqueue(number)
            returned = now()
            if not self.peer.wait(handle):
                raise TimeoutError(f"task {number} had no result after 10 s")
            seen = now()
            body = dict(self.marks.read())[number]
            start.append(1000 * (body - called))
            committed.append(1000 * (body - returned))
            result.append(1000 * (seen - called))
            time.sleep(0.02 + pause.random() * self.peer.jitter)
        self.stop()
        return {
            "count": len(start), "start_p50_ms": statistics.median(start), "start_p95_ms": percentile(start, 95),
            "start_p99_ms": percentile(start, 99), "start_after_commit_p50_ms": statistics.median(committed),
            "result_p50_ms": statistics.median(result), "result_p95_ms": percentile(result, 95),
            "result_p99_ms": percentile(result, 99),
            "start_ms": [round(each, 3) for each in start], "result_ms": [round(each, 3) for each in result],
        }  # fmt: skip

    def w4(self) -> Result:
        """Workflows of two sequential calls: drain those that wait."""
        count = self.options.get("count", self.peer.quads)
        self.peer.start_quads(count)
        return self.drain(2 * count, count)

    def w4_live(self) -> Result:
        """The same with the worker already up: from the first enqueue to the last result."""
        count = self.options.get("count", self.peer.quads)
        self.warm()
        start = now()
        self.peer.start_quads(count)
        enqueued = now() - start
        self.until(lambda: self.marks.count() >= 2 * count, 120)
        self.until(lambda: self.peer.pending() == 0, 30)
        result = {"count": count, "per_second": count / (now() - start), "enqueue_s": enqueued}
        self.stop()
        return result

    def w5(self) -> Result:
        """One workflow of many sequential calls."""
        return self.one(self.peer.start_chain, self.options["count"])

    def w6(self) -> Result:
        """One workflow of many parallel calls."""
        return self.one(self.peer.start_fan, self.options.get("count", 1000))

    def one(self, begin: Callable[[int], Any], count: int) -> Result:
        self.warm()
        start = now()
        handle = begin(count)
        self.until(lambda: self.peer.finished(handle), 120, poll=0.003)
        seconds = now() - start
        self.stop()
        return {"count": count, "seconds": seconds, "ms_per_step": 1000 * seconds / count}

    def w7(self) -> Result:
        """The rate of the first 3,000 tasks of a backlog."""
        backlog = self.options["backlog"]
        bodies = min(3000, backlog)
        self.peer.preload(backlog)
        self.marks.reset()
        begun = now()
        self.start()
        self.until(lambda: self.marks.count() >= bodies, 60)
        self.stop(kill=True)
        times = sorted(at for _, at in self.marks.read())[:bodies]
        return {
            "backlog": backlog, "per_second": (len(times) - 1) / (times[-1] - times[0]), "first_s": times[0] - begun,
        }  # fmt: skip

    def w8(self) -> Result:
        """An idle worker: processor, memory, and what it asks of the database."""
        seconds = self.options.get("seconds", 20)
        self.warm()
        time.sleep(4)
        pid = self.workers[0].pid
        before, cpu, start = self.peer.counters(), processes.cpu_seconds(pid), now()
        time.sleep(seconds)
        took = now() - start
        result: Result = {
            "cpu_percent": 100 * (processes.cpu_seconds(pid) - cpu) / took, "memory_mb": processes.memory_mb(pid),
        }  # fmt: skip
        for name, value in self.peer.counters().items():
            result[f"{name}_per_second"] = (value - before[name]) / took
        self.stop()
        return result

    def w8_counted(self) -> Result:
        """The same with every statement logged, which costs time: hence a measurement of its own."""
        log = self.peer.folder / "statements.log"
        os.environ["BENCH_STATEMENTS"] = str(log)
        log.touch()
        self.warm()
        time.sleep(4)
        lines, start = lines_of(log), now()
        time.sleep(self.options.get("seconds", 20))
        result = {"statements_per_second": (lines_of(log) - lines) / (now() - start)}
        self.stop()
        return result

    def w9(self) -> Result:
        """Runs that sleep in a worker's memory: what they add to it."""
        count = self.options.get("count", 10_000)
        self.warm()
        pid = self.workers[0].pid
        before = processes.memory_mb(pid)
        start = now()
        self.peer.start_holds(count)
        self.until(lambda: self.peer.asleep() >= count, 120, poll=0.2)
        seconds = now() - start
        time.sleep(1)
        added = processes.memory_mb(pid) - before
        self.stop()
        return {"added_mb": added, "seconds": seconds}

    def w10(self) -> Result:
        """Idle workers and lone entries: what one entry costs the database beyond what they ask of it anyway."""
        seconds, count = self.options.get("seconds", 10), self.options.get("count", 30)
        self.warm(self.options["workers"])
        self.lone(20)  # who is quick and who stands back has settled
        before = self.transactions()
        time.sleep(seconds)
        idle = (self.transactions() - before) / (seconds + 1)
        before, start = self.transactions(), now()
        self.lone(count)
        used = self.transactions() - before - idle * (now() - start)
        self.stop()
        return {"count": count, "transactions_per_entry": max(0.0, used / count)}

    def lone(self, count: int) -> None:
        """Entries one by one, each on idle workers."""
        for number in range(count):
            self.peer.wait(self.peer.enqueue(number))
            time.sleep(0.3)

    def transactions(self) -> float:
        """As the server counts them; sessions report to it once a second."""
        time.sleep(1)
        return self.peer.counters()["transactions"]

    def plans(self) -> Result:
        """Statements timed and explained beside a small queue and a large one."""
        return plans.plans(self.peer.all, self.options)

    def soak(self) -> Result:
        """Steady load for long, watched."""
        self.warm()
        result: Result = soak.soak(self.peer, self.workers[0].pid, self.marks.path, self.options)
        self.stop()
        return result


def fsync_ms(folder: Path) -> float:
    """How long the disk takes to make one page durable just now: tells a slow round from a slow peer."""
    path, page = folder / "probe", b"x" * 4096
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    times = []
    for number in range(100):
        start = now()
        os.pwrite(file, page, 4096 * number)
        os.fsync(file)
        times.append(1000 * (now() - start))
    os.close(file)
    path.unlink()
    return statistics.mean(times)


def percentile(values: list[float], percent: int) -> float:
    """The value that so many percent do not exceed."""
    return sorted(values)[len(values) * percent // 100]


def lines_of(path: Path) -> int:
    """How many lines a file has so far."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def main(name: str, workload: str, options: str = "{}") -> None:
    """Measure, print; or be a worker."""
    peer = peers.load(name)
    if workload == "worker":
        peer.worker()
    marks = Marks(peer.folder / "marks")
    peer.prepare()
    peer.connect()
    measurement = Measurement(peer, marks, json.loads(options))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("cut short"))
    before = fsync_ms(peer.folder)
    try:
        result: Result = getattr(measurement, workload)()
    except Exception as error:
        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {error}"[-1500:]}
    finally:
        measurement.stop(kill=True)
    result["fsync_ms"] = [round(before, 3), round(fsync_ms(peer.folder), 3)]
    print(json.dumps(result), flush=True)
    os._exit(0)  # whatever threads a peer has left


if __name__ == "__main__":
    main(*sys.argv[1:])
