"""Fixtures for tests that start processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection

from example_project import processes

ROOT = Path(__file__).resolve().parent.parent
ABOUT_PAGES = {ROOT / "tests" / folder for folder in ("browser", "live", "unfold")}
"""What is tested there is the same on every database."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by where they stand."""
    for item in items:
        if item.path.parent in ABOUT_PAGES:
            item.add_marker(pytest.mark.once)


@pytest.fixture(scope="session", autouse=True)
def quick_flush() -> None:
    """After a transactional test PostgreSQL would TRUNCATE every table, which takes seconds; a test leaves few rows."""
    if connection.vendor == "postgresql":
        connection.ops.sql_flush = lambda style, tables, **kwargs: [  # type: ignore[method-assign]
            f"DELETE FROM {connection.ops.quote_name(table)};" for table in tables
        ]


@pytest.fixture
def free_ports() -> list[int]:
    """Two ports for a proxy of this test's own."""
    return processes.free_ports(2)


@pytest.fixture
def worker_env(transactional_db: None) -> dict[str, str]:
    """The environment in which `manage.py` works on this run's test database and ports.

    The test is a transactional one: other processes see only what is committed.
    """
    return os.environ | {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "TEST_DATABASE": settings.TEST_DATABASE,
        "PIPETEER_TEST_DATABASE_NAME": str(connection.settings_dict["NAME"]),
        "PIPETEER_TEST_PORTS": ",".join(map(str, settings.PROXY_PORTS)),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }


StartManage = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start_manage(worker_env: dict[str, str]) -> Iterator[StartManage]:
    """`start_manage("pipeteer_worker", "quad", env={...})` starts `manage.py` in the background.

    Its output goes to the file `process.log` (a Path), which is shown when the test fails; whatever still runs at the
    end of the test is killed.
    """
    started: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="pipeteer-log-") as folder:

        def start(*arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
            log = Path(folder) / f"{len(started)}-{arguments[0]}.log"
            with log.open("w") as out:
                process: Any = subprocess.Popen(
                    [sys.executable, str(ROOT / "manage.py"), *arguments],
                    env=worker_env | (env or {}),
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            process.log = log
            started.append(process)
            return process  # type: ignore[no-any-return]

        yield start
        for process in started:
            if process.poll() is None:
                process.kill()
            process.wait()
            # pytest shows what a test printed only where it failed.
            print(f"--- {process.log.name}, exit status {process.returncode}\n{process.log.read_text()}")


@pytest.fixture
def start_worker(start_manage: StartManage) -> StartManage:
    """`start_worker("quad", "--concurrency", "5")` starts one worker process."""

    def start(*arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        return start_manage("pipeteer_worker", *arguments, env=env)

    return start
