"""The states of an entry as people see them: the QuerySet's predicates, said of a row that is loaded."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.utils import timezone
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from pipeteer_django.queues import results

STATES: dict[str, str | Promise] = {
    "ready": _("ready"),
    "running": _("running"),
    "waiting": _("waiting"),
    "scheduled": _("scheduled"),
    "failed": _("failed"),
}
"""Each is a method of an Input's QuerySet, too."""


def now_of(entry: Any) -> datetime:
    """The database's time when the entry was read by an InputAdmin, else this host's."""
    now: datetime = getattr(entry, "database_now", None) or timezone.now()
    return now


def state_of(entry: Any) -> str:
    """The one of STATES in which the entry was when it was read."""
    return results.state_of(entry, now_of(entry))


def badge(state: str) -> SafeString:
    """A state as a coloured label; the colour only repeats what the text says."""
    return format_html('<span class="pipeteer-state pipeteer-{}">{}</span>', state, STATES[state])
