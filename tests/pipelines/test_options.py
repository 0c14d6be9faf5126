"""Options of the decorators that cannot work are refused where they are written, not where they would first be used."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import pipeteer_django as pipeteer
from pipeteer_django.exceptions import DefinitionError


def body(x: int) -> int:
    return x


async def course(x: int, ctx: pipeteer.WorkflowContext) -> int:
    return x


NO_DURATIONS = [timedelta(0), timedelta(-1), 30]


@pytest.mark.parametrize("reserve", NO_DURATIONS, ids=str)
def test_what_is_no_lease(reserve: Any) -> None:
    for decorate, function in ((pipeteer.activity, body), (pipeteer.workflow, course)):
        with pytest.raises(DefinitionError, match=r"test_options\.py.*reserve is a timedelta above 0, not"):
            decorate(reserve=reserve)(function)


@pytest.mark.parametrize("name", ["backoff", "max_backoff", "timeout"])
@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), "3", timedelta(seconds=3)], ids=str)
def test_what_is_no_number_of_seconds(name: str, seconds: Any) -> None:
    with pytest.raises(DefinitionError, match=rf"{name} is a number of seconds above 0, not"):
        pipeteer.activity(**{name: seconds})(body)


def test_only_a_timeout_may_be_none() -> None:
    with pytest.raises(DefinitionError, match="backoff is a number of seconds above 0, not None"):
        pipeteer.activity(backoff=None)(body)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["retry_on", "no_retry_on"])
@pytest.mark.parametrize("errors", [[OSError], (OSError, "TimeoutError"), OSError("an instance"), int], ids=str)
def test_what_are_no_exceptions(name: str, errors: Any) -> None:
    """Found out only when a body has failed, it would keep that attempt from ever coming to its end."""
    with pytest.raises(DefinitionError, match=rf"{name} is an exception class or a tuple of such, not"):
        pipeteer.activity(**{name: errors})(body)


def test_what_cannot_be_an_activity() -> None:
    def numbers(x: int) -> Any:
        yield x

    with pytest.raises(DefinitionError, match="is a generator"):
        pipeteer.activity()(numbers)
    with pytest.raises(DefinitionError, match="max_attempts must be at least 1"):
        pipeteer.activity(max_attempts=0)(body)
