"""The example project's own tests pass, and its models and migrations agree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    "command", [["test", "example_project"], ["makemigrations", "--check", "--dry-run"]], ids=" ".join
)
def test_example_project(command: list[str], tmp_path: Path) -> None:
    """In a process of its own: its pipelines are others than those of these tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "PIPETEER_"))}
    process = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), *command],
        env=kept | {"DATABASE_URL": f"sqlite:///{tmp_path / 'example.sqlite3'}"},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert process.returncode == 0, process.stdout + process.stderr
