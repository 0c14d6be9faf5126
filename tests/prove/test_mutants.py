"""Some of the mutants; `make mutants` kills all of them."""

from __future__ import annotations

import os

import pytest

from tests.prove import mutants
from tests.prove.mutants_table import MUTANTS, Change, Mutant

SEED = os.environ.get("PIPETEER_PROVE_SEED", "11")

pytestmark = [pytest.mark.once, pytest.mark.timeout(600)]

HARMLESS = Change("queues/rows.py", "changed {changed} of", "changed  {changed} of")
KILLER = "tests/pipelines/test_options.py::test_only_a_timeout_may_be_none"


def test_a_sample_is_killed(capsys: pytest.CaptureFixture[str]) -> None:
    assert mutants.main(["--sample", "4", "--seed", SEED, "--database", "sqlite"]) == 0, capsys.readouterr().out
    assert "4 mutants, 4 killed, 0 alive." in capsys.readouterr().out


def test_what_is_no_mutant_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One that does no harm, one whose text has gone, one that is no Python, and one whose tests there are not."""
    gone = Change("queues/rows.py", "what nobody ever wrote", "")
    broken = Change("queues/rows.py", "@dataclass(slots=True)\nclass Row:", "class Row(:")
    table = [
        Mutant("harmless", "None.", (HARMLESS,), (KILLER,)),
        Mutant("gone", "None.", (gone,), (KILLER,)),
        Mutant("broken", "None.", (broken,), (KILLER,)),
    ]
    monkeypatch.setattr(mutants, "MUTANTS", table)
    assert mutants.main([]) == 1
    told = capsys.readouterr().out
    assert "`harmless` | None. | **nothing: it is alive**" in told
    assert "gone: queues/rows.py has this 0 times, not once" in told
    assert "broken: pytest ended with" in told
    assert "1 mutants, 0 killed, 1 alive." in told


def test_there_are_enough_and_their_names_differ() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 15
    assert all(mutant.killers for mutant in MUTANTS)


def test_every_mutant_still_fits_its_file() -> None:
    for mutant in MUTANTS:
        for change in mutant.changes:
            text = (mutants.ROOT / "pipeteer_django" / change.file).read_text()
            assert mutants.changed(change, text) != text
