"""Telling pages that what they show has changed: hints like wake-ups, for people instead of workers."""

from __future__ import annotations

from collections.abc import Iterable

from pipeteer_django.signals import rows_changed

from .publisher import publish
from .topics import CHANGES


def tell_changed(ids: Iterable[str]) -> None:
    """Hint that rows of these pipelines changed. To be called after the commit; returns at once and never raises.

    While no page is open anywhere it costs next to nothing: the proxy's subscriptions tell that nobody looks.
    """
    told = sorted(ids)
    for id in told:
        publish(CHANGES + id)
    if told and rows_changed.receivers:
        rows_changed.send_robust(sender=None, pipelines=told)
