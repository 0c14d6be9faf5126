"""What runs of workflows have open, all the way down: it goes with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from django.utils.translation import gettext

from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.children import children
from pipeteer_django.queues.claim import plain

_TOGETHER = 500


def open_below(pipeline: Pipeline[Any, Any], using: str, runs: Sequence[int], limit: int) -> Counter[str]:
    """How many entries of which pipeline these runs wait for; no further than a little over `limit`."""
    found: Counter[str] = Counter()
    pending = [(pipeline, list(runs))]
    while pending and found.total() <= limit:
        of, ids = pending.pop()
        if of.kind != "workflow":
            continue
        for start in range(0, len(ids), _TOGETHER):
            steps = plain(of.models["Step"], using).filter(run_id__in=ids[start : start + _TOGETHER])
            waiting: dict[str, list[int]] = {}
            for child, id in steps.filter(done_at=None, cancelled_at=None).values_list("pipeline", "id")[: limit + 1]:
                waiting.setdefault(child, []).append(id)
            for child, step_ids in waiting.items():
                if (known := registry.get(child)) is not None:
                    below = list(children(known, using, of.id, step_ids).values_list("id", flat=True))
                    found[child] += len(below)
                    pending.append((known, below))
    return found


def said_of(found: Mapping[str, int], limit: int) -> list[str]:
    """A line for each pipeline."""
    if sum(found.values()) > limit:
        return [gettext("more than %(count)s entries") % {"count": f"{limit:,}"}]
    return [f"{count:,} {_name(pipeline, count)}" for pipeline, count in sorted(found.items())]


def _name(pipeline: str, count: int) -> str:
    opts = registry.find(pipeline).Input._meta
    return str(opts.verbose_name if count == 1 else opts.verbose_name_plural)
