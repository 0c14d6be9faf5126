"""Some of the values and replays; `python -m tests.prove values` tries a hundred thousand, on three databases."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from pipeteer_django.pipelines import ledger
from tests.prove import values_store
from tests.prove.values_replays import Replays
from tests.prove.values_store import Values

SEED = int(os.environ.get("PIPETEER_PROVE_SEED", "11"))

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def values() -> Iterator[Values]:
    with values_store.tables(["default"]) as tables:
        yield Values(tables, ["default"])


def test_what_is_accepted_comes_back(values: Values) -> None:
    values.round(1_000, SEED)
    assert values.done == values.accepted.total() + values.refused.total()
    assert values.accepted.total() > 500
    assert values.refused.total() > 50


def test_what_does_not_come_back_is_found(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the database read no number above 1000. The smallest that is lost is told."""
    real = values_store.select_rows

    def select_rows(using: str, model: Any, *arguments: Any, **options: Any) -> Any:
        rows = real(using, model, *arguments, **options)
        misread = model.__name__ == "Values_integer"
        return [(id, min(value, 1000), result) for id, value, result in rows] if misread else rows

    monkeypatch.setattr(values_store, "select_rows", select_rows)
    with pytest.raises(AssertionError, match="integer: 1001") as caught:
        values.round(1_000, SEED)
    assert "example=('integer', 1001)" in "".join(caught.value.__notes__)


@pytest.mark.once
def test_replays_agree_and_changes_of_code_are_caught() -> None:
    replays = Replays()
    while replays.done < 1_000:
        replays.round(1_000 - replays.done, SEED + replays.done)
    assert replays.caught.total() > 300
    assert min(replays.caught.values()) > 10


@pytest.mark.once
def test_a_change_that_nobody_looks_for_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "difference", lambda *arguments: None)
    with pytest.raises(AssertionError, match="was not noticed"):
        Replays().round(1_000, SEED)
