"""Fixtures for faults between a worker and its database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from .line import Line


@pytest.fixture
def make_line() -> Iterator[Callable[..., Line]]:
    """`make_line(judge)` is a line to this run's database server."""
    with ExitStack() as stack:

        def make(*arguments: Any) -> Line:
            return stack.enter_context(closing(Line(*arguments)))

        yield make
