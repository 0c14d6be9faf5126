"""High availability, for real: the primary of a PostgreSQL pair is lost under load, and nothing is lost or doubled.

    python -m tests.prove availability                                          all faults, twice
    python -m tests.prove availability --faults postmaster --quads 200
    python -m tests.prove availability --asynchronous --faults lagging          must lose acknowledged entries

Two servers under Patroni with three votes of etcd, the standby synchronous; workers on two hosts, each with HAProxy and
PgBouncer (in transaction mode) of its own; wake-ups between the hosts with CURVE keys. All of it runs in network
namespaces of its own, from the files in docs/deployment. Needs root, and what `apt-get install etcd-server haproxy
pgbouncer` and `pip install 'patroni[etcd3,psycopg3]'` bring.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.databases import Unavailable
from tests.prove.availability_cluster import Cluster, programs
from tests.prove.availability_hosts import HERE, Network, sandboxed
from tests.prove.availability_services import ROOT, Service

ORDER = ("power", "cable", "parted", "postmaster", "switchover", "lagging")
WORKERS = ("worker-1", "worker-2")
NOT_RUN = 75
"""The exit status where something is not installed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a sandbox and run in it. Returns the exit status: 0 well, 1 wrong, 75 not run."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    if options.folder is None:
        return _outside(given)
    return _inside(options, Path(options.folder))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.prove.availability", description=__doc__.split("\n\n")[0])
    parser.add_argument("--faults", nargs="+", choices=ORDER, default=list(ORDER) * 2, help="In this order.")
    parser.add_argument("--quads", type=int, default=3000, help="Workflows of two atomic activities, at least.")
    parser.add_argument("--asynchronous", action="store_true", help="Acknowledge before the standby has it.")
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # inside the sandbox
    return parser


def _outside(given: Sequence[str]) -> int:
    folder = Path(tempfile.mkdtemp(prefix="pipeteer-availability-"))
    folder.chmod(0o755)  # servers that run as another user pass through
    inner = ["-m", "tests.prove.availability_hosts", "tests.prove.availability", *given, "--folder", str(folder)]
    try:
        programs()
        status = sandboxed([sys.executable, *inner], {**os.environ, "PYTHONPATH": str(ROOT)})
    except Unavailable as error:
        print(f"availability: NOT RUN: {error}", flush=True)
        status = NOT_RUN
    if status in (0, NOT_RUN) and not os.environ.get("KEEP"):
        shutil.rmtree(folder)
    else:
        print(f"Logs are in {folder}", flush=True)
    return status


def _inside(options: argparse.Namespace, folder: Path) -> int:
    network = Network()
    _say("building the hosts")
    cluster = Cluster(network, folder, (*WORKERS, HERE), synchronous=not options.asynchronous)
    keys = _keys(folder)
    os.environ |= cluster.environment | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    os.environ |= _environment(folder, keys, HERE)
    import_module("django").setup()
    cluster.eventually(_answers, "PgBouncer")
    import_module("django.core.management").call_command("migrate", run_syncdb=True, verbosity=0)
    storm = import_module("tests.prove.availability_storm")  # it imports models, so not before Django is set up
    storm.Storm.prepare()
    proxy = Service(network, "pipeteer-proxy.service", "queue-1", _environment(folder, keys, "queue-1"), folder)
    workers = [
        Service(network, "pipeteer-worker@.service", host, _environment(folder, keys, host), folder) for host in WORKERS
    ]
    _say(f"{cluster.primary()} is the primary; {', '.join(WORKERS)} work")
    report = storm.Storm(network, cluster, [proxy, *workers], folder, _say).run(options.faults, options.quads)
    print(f"availability: {report}", flush=True)
    return 1 if report.wrong else 0


def _answers() -> bool:
    connection = import_module("django.db").connection
    try:
        connection.ensure_connection()
    except Exception:
        return False
    return True


def _keys(folder: Path) -> Path:
    """As an operator makes them."""
    subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "pipeteer_keys", str(folder / "keys"), HERE, *WORKERS, "--proxy",
         "queue-1"],
        check=True, stdout=subprocess.DEVNULL, cwd=ROOT,
    )  # fmt: skip
    return folder / "keys" / "hosts"


def _environment(folder: Path, keys: Path, host: str) -> dict[str, str]:
    """What is in the environment files of that host."""
    where = {"PIPETEER_PUB_URL": "tcp://0.0.0.0:5555", "PIPETEER_SUB_URL": "tcp://0.0.0.0:5556"}
    return {
        "DJANGO_SETTINGS_MODULE": "tests.prove.availability_settings",
        "AVAILABILITY_SETTINGS": json.dumps({"AUDIT": str(folder / "trail")}),
        "PIPETEER_KEYS": str(keys / host),
        "PIPELINES": "errand linger_atomic",
        "PROCESSES": "2",
        **(where if host == "queue-1" else {}),
    }


def _say(text: Any) -> None:
    print(f"availability: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
