"""The entries of open steps. A child knows its step; the step learns of its child when that has come to its end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db.models import QuerySet

from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.claim import plain


def children(of: Pipeline[Any, Any], using: str, caller: str, step_ids: Iterable[int]) -> QuerySet[Any]:
    """The entries of `of` that these steps of the workflow `caller` wait for."""
    return plain(of.Input, using).filter(step_id__in=list(step_ids), caller=caller)
