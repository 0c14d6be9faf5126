"""`python -m benchmarks`: measure in alternating rounds, print a table, write benchmarks/results.json.

Only a whole run (all workloads and peers, both databases, three rounds or more) replaces that file, and the tables and
pictures of docs/performance.md. Any other writes build/results.json, or what `--out` says.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import databases, pictures, report
from benchmarks.machine import machine, versions, versions_there
from benchmarks.plan import ABSENT, JOBS, QUICK, Job
from tests.databases import Unavailable, available

ROOT = Path(__file__).resolve().parent.parent
PEERS_PYTHON = os.environ.get("BENCH_PEERS_PYTHON", "")
"""A Python that has benchmarks/requirements.txt installed."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--databases", default="sqlite,postgres", help="of sqlite, postgres, mariadb")
    parser.add_argument("--workloads", default="", help="such as W2,W4; all by default")
    parser.add_argument("--peers", default="", help="of pipeteer, pipeteer_50, raw, dbos, oban; all by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--big", action="store_true", help="also a backlog of 1,000,000, which takes long to make")
    parser.add_argument("--quick", action="store_true", help="a rehearsal: tiny counts, figures that mean nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "results.json")
    return parser.parse_args()


def whole(options: argparse.Namespace) -> bool:
    """Whether this run is fit to be shown."""
    everywhere = {"sqlite", "postgres"} <= set(options.databases.split(","))
    return everywhere and options.rounds >= 3 and not (options.quick or options.workloads or options.peers)


def chosen(options: argparse.Namespace) -> list[Job]:
    """The jobs that were asked for."""
    wanted = {workload.strip().lower() for workload in options.workloads.split(",") if workload.strip()}
    jobs = [job for job in JOBS if not wanted or job.workload.partition("_")[0] in wanted or job.workload in wanted]
    if options.quick:
        jobs = [replace(job, options=job.options | QUICK.get(job.workload, {})) for job in jobs]
    return [job for job in jobs if options.big or not job.big]


def importable(module: str) -> bool:
    """Whether the peers' Python has a module."""
    return (
        bool(PEERS_PYTHON)
        and not subprocess.run([PEERS_PYTHON, "-c", f"import {module}"], capture_output=True).returncode
    )


def runs(job: Job, vendor: str, peers: set[str]) -> list[str]:
    """The peers that do this job on this database."""
    return [peer for peer in job.peers if peer in peers and vendor in job.vendors and (peer, vendor) not in ABSENT]


def run(command: list[str], environment: dict[str, str], patience: int) -> tuple[str, str]:
    """Output and errors. A measurement cut short, by Ctrl-C or by running late, is let end its own workers."""
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            return process.communicate(timeout=patience)
        finally:
            process.terminate()


def measure(job: Job, peer: str, server: str) -> dict[str, Any]:
    """One measurement in a process and a database of its own. An error is a result too."""
    work = ROOT / "build"  # a real disk: a temporary folder may be memory, where commits cost nothing
    work.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=work))
    python = PEERS_PYTHON if peer in ("dbos", "oban") else sys.executable
    try:
        with databases.fresh(server, folder) as url:
            words = run(
                [python, "-m", "benchmarks.measure", peer, job.workload, json.dumps(job.options)],
                {**os.environ, "DATABASE_URL": url, "BENCH_FOLDER": str(folder)},
                job.patience,
            )
        try:
            return dict(json.loads(words[0].strip().rpartition("\n")[2]))
        except ValueError:
            return {"error": words[1][-1500:] or words[0][-1500:] or "no output"}
    except subprocess.TimeoutExpired:
        return {"error": f"no result after {job.patience} s"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Measure everything that was asked for. Fails if a measurement of ours failed."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("cut short"))  # so that databases are dropped, as for Ctrl-C
    jobs = chosen(options)
    peers = {"pipeteer", "pipeteer_50", "raw"} | {peer for peer in ("dbos", "oban") if importable(peer)}
    if options.peers:
        peers &= set(options.peers.split(","))
    results: list[dict[str, Any]] = []
    named: dict[str, str] = {}
    about = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"), "rounds": options.rounds, "quick": options.quick,
        "machine": machine(), "versions": versions(),
        "peers_versions": versions_there(PEERS_PYTHON) if peers & {"dbos", "oban"} else {}, "databases": named,
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        servers = {}
        for vendor in options.databases.split(","):
            try:
                servers[vendor] = stack.enter_context(available(vendor))
            except Unavailable as reason:
                print(f"NO {vendor.upper()} HERE: {reason}")
            else:
                named[vendor] = databases.version(servers[vendor])
        for round in range(options.rounds):
            for vendor, server in servers.items():
                for job in jobs:
                    turn = runs(job, vendor, peers)
                    for peer in turn[round % max(len(turn), 1) :] + turn[: round % max(len(turn), 1)]:
                        start = time.monotonic()
                        result = measure(job, peer, server)
                        took = time.monotonic() - start
                        where = {"job": job.name, "peer": peer, "database": vendor, "round": round}
                        results.append({**where, "took_s": int(took), **result})
                        options.out.write_text(report.dump(about, results))
                        said = f"{report.short(result[job.metric])} {job.unit}" if job.metric in result else "FAILED"
                        print(
                            f"{round + 1}/{options.rounds} {vendor:9}{job.name:34}{peer:12}{said:>20}{took:6.0f} s",
                            flush=True,
                        )
    for vendor in servers:
        print(f"\n{named[vendor]}\n\n{report.table(vendor, [r for r in results if r['database'] == vendor])}")
    if whole(options) and len(servers) > 1 and {"dbos", "oban"} <= peers:
        shutil.copy(options.out, pictures.RESULTS)
        pictures.main([])
    else:
        print(f"\nwrote {options.out}; docs/performance.md shows whole runs only, with all peers")
    return int(any("error" in result and result["peer"].startswith("pipeteer") for result in results))


if __name__ == "__main__":
    sys.exit(main())
