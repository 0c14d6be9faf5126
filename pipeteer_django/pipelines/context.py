"""What an activity may know about the attempt it is."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The optional second parameter of an activity."""

    key: str
    """The entry's key: a child's names its workflow's run and step."""
    run_id: int
    """The entry's id, never reused."""
    attempt: int
    """Counts from 1; starts again after a success of any kind."""
    idempotency_key: str
    """The same for every attempt of this run, different for every other run: hand it to services that deduplicate."""
    log: logging.LoggerAdapter[logging.Logger]
    """Prefixes every line with pipeline and key."""
    app: Any = None
    """Whatever the function named by `PIPETEER["CONTEXT"]` returned, once per worker process."""


class EntryLogger(logging.LoggerAdapter[logging.Logger]):
    """Logs as `pipeteer_django.<pipeline>`, each line beginning with the entry's key."""

    def __init__(self, pipeline_id: str, key: str) -> None:
        super().__init__(logging.getLogger(f"pipeteer_django.{pipeline_id}"), {"key": key})

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Put the key before the message."""
        return f"[{(self.extra or {})['key']}] {msg}", kwargs
