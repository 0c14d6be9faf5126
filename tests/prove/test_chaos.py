"""The big run in small, on the database of this leg. `make chaos` is the full size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

ROOT = Path(__file__).resolve().parent.parent.parent
SEED = os.environ.get("PIPETEER_CHAOS_SEED", "11")

pytestmark = pytest.mark.timeout(400)


def chaos(*arguments: str) -> tuple[int, str]:
    """Its exit status, and all that it said."""
    command = [sys.executable, "-m", "tests.prove.chaos", "--database", settings.TEST_DATABASE, "--seed", SEED]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=380)
    print(done.stdout, done.stderr)  # shown where the test fails
    return done.returncode, done.stdout


def test_nothing_is_lost_or_doubled() -> None:
    status, text = chaos("--size", "ci")
    assert status == 0
    assert "all is well" in text


@pytest.mark.parametrize("mutant", ["no_fence", "no_atomic_fence"])
def test_it_bites(mutant: str) -> None:
    """Without the fence a zombie does harm, and the checker says so."""
    faults = ("--quads", "60", "--kills", "0", "--zombies", "4", "--crashes", "0")
    status, text = chaos(*faults, "--mutant", mutant)
    assert status == 1
    broken = text.partition("broken: ")[2]
    assert any(rule in broken for rule in ("H2", "H5", "S11"))
