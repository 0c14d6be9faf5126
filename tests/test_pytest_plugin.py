"""The pytest plugin, in projects of its own, found as pytest finds it: by the entry point in pyproject.toml."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytest_plugins = "pytester"
pytestmark = pytest.mark.once

SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "pipeteer_django", "shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3",
                         "OPTIONS": {"transaction_mode": "IMMEDIATE"}}}
USE_TZ = True
PIPETEER = {"PUB_URL": "tcp://127.0.0.1:1", "SUB_URL": "tcp://127.0.0.1:2", "CONCURRENCY": 7}
MIGRATION_MODULES = {"shop": None}
"""
PIPELINES = """
import pipeteer_django as pipeteer

@pipeteer.activity()
def double(x: int) -> int:
    return 2 * x

@pipeteer.workflow()
async def later(x: int, ctx: pipeteer.WorkflowContext) -> int:
    await ctx.sleep(3600)
    return await ctx.call(double, x)
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project where the package is installed, as far as entry points go."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    installed = pytester.mkdir("installed") / "declared_here-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: declared-here\nVersion: 1\n")
    lines = "\n".join(f"{name} = {module}" for name, module in declared.items())
    (installed / "entry_points.txt").write_text(f"[pytest11]\n{lines}\n")
    monkeypatch.setenv("PYTHONPATH", f"{installed.parent}:{ROOT}:{pytester.path}")
    for name in [name for name in os.environ if name.startswith(("DJANGO_", "PIPETEER_", "TEST_", "PYTEST_"))]:
        monkeypatch.delenv(name)
    return pytester


@pytest.fixture
def shop(project: pytest.Pytester) -> pytest.Pytester:
    """The same with Django and a shop."""
    project.makeini("[pytest]\nDJANGO_SETTINGS_MODULE = config\nfilterwarnings = error\naddopts = -p no:asyncio\n")
    project.makepyfile(config=SETTINGS)
    (project.mkpydir("shop") / "pipelines.py").write_text(PIPELINES)
    return project


def run(project: pytest.Pytester, *arguments: str, passed: int = 0, failed: int = 0, errors: int = 0) -> str:
    result = project.runpytest_subprocess("-p", "no:cacheprovider", *arguments)
    result.assert_outcomes(passed=passed, failed=failed, errors=errors)
    return str(result.stdout)


def test_the_fixture(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        """
        import threading
        import pytest
        from django.conf import settings as django_settings
        from django.db import connection
        from pipeteer_django.conf import settings as ours
        from shop.pipelines import double, later

        def test_drain(pipeteer):
            run = later.enqueue(1)
            assert pipeteer.drain() == 1
            assert pipeteer.drain(skip_time=True) == 3
            assert run.result(timeout=0) == 2
            assert connection.in_atomic_block

        def test_nothing_is_left(pipeteer):
            assert not later.Output.objects.exists()

        @pytest.mark.django_db(transaction=True)
        def test_a_mark(pipeteer):
            double.enqueue(1)
            assert not connection.in_atomic_block
            assert pipeteer.drain(double, app=1, raise_failures=False) == 1

        def test_transactional_db(pipeteer, transactional_db):
            double.enqueue(1)
            assert not connection.in_atomic_block

        def test_no_socket_is_opened(pipeteer, transactional_db):
            assert (ours().WAKEUPS, ours().CONCURRENCY) == (False, 7)
            double.enqueue(1)
            pipeteer.drain()
            assert not [thread.name for thread in threading.enumerate() if "pipeteer" in thread.name]

        def test_with_the_settings_fixture(pipeteer, settings):
            settings.PIPETEER = {"WAKEUPS": True}
            assert ours().WAKEUPS

        def test_afterwards():
            assert ours().WAKEUPS
            assert django_settings.PIPETEER["CONCURRENCY"] == 7

        @pytest.mark.usefixtures("pipeteer")
        def test_by_name():
            double.enqueue(1)
        """
    )
    run(shop, passed=8)


def test_a_failure_is_shown_where_it_was_raised(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        """
        from shop.pipelines import double

        def test_fails(pipeteer, monkeypatch):
            monkeypatch.setattr(double, "function", lambda x: 1 / 0)
            double.enqueue(1, key="task")
            pipeteer.drain()
        """
    )
    shown = run(shop, failed=1)
    assert "lambda x: 1 / 0" in shown
    assert "ZeroDivisionError" in shown
    assert "pipeteer: double 'task', attempt 1, waits for its next attempt." in shown


def test_a_project_without_django(project: pytest.Pytester) -> None:
    """The plugin is there, Django is not even imported."""
    project.makepyfile(
        """
        import sys

        def test_plain(request):
            assert request.config.pluginmanager.hasplugin("pipeteer_django")
            assert not [name for name in sys.modules if name.split(".")[0] in ("django", "pydantic", "zmq")]
        """
    )
    run(project, "-p", "no:django", passed=1)


def test_without_pytest_django_it_says_so(project: pytest.Pytester) -> None:
    project.makepyfile("def test_needs_it(pipeteer): pass")
    assert "fixture 'db' not found" in run(project, "-p", "no:django", errors=1)


def test_without_settings_other_tests_run(project: pytest.Pytester) -> None:
    """pytest-django is there, but this project has no settings."""
    project.makepyfile("def test_plain(): pass")
    run(project, passed=1)


def test_the_plugin_costs_next_to_nothing() -> None:
    """Beside pytest itself it imports nothing of weight."""
    code = (
        "import sys, pytest; before = set(sys.modules); import pipeteer_django.pytest_plugin; "
        "print(*sorted(name for name in set(sys.modules) - before))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path("/"),
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == ["pipeteer_django", "pipeteer_django.pytest_plugin"]
