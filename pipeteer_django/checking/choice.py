"""Which pipelines a command was asked to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError

from pipeteer_django.exceptions import PipeteerError
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry

WRONG = 2
"""Exit status where a question could not be answered; 1 means that the answer is no."""


def chosen(ids: Sequence[str]) -> list[Pipeline[Any, Any]]:
    """The pipelines of these ids, or all that have tables; raises CommandError with the nearest names."""
    try:
        named = [registry.find(id) for id in dict.fromkeys(ids)]
    except PipeteerError as error:
        raise CommandError(str(error), returncode=WRONG) from error
    return named or [pipeline for pipeline in registry if pipeline.attached]
