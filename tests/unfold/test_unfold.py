"""The admin's pages under django-unfold. INSTALLED_APPS cannot be changed any more here, so another process looks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.once


def test_all_pages_work_untouched() -> None:
    pytest.importorskip("unfold")
    asked = [sys.executable, "-m", "pytest", "tests/unfold/looks.py", "--ds=tests.unfold.settings", "-q", "-p"]
    others = ("DJANGO_", "PYTEST_", "DATABASE_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    found = subprocess.run([*asked, "no:cacheprovider"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=150)
    assert found.returncode == 0, found.stdout + found.stderr
    assert " passed" in found.stdout
