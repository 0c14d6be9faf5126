"""In which state a run or a step is, in a word and a sentence. Pure functions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import TextChoices
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext_lazy

from pipeteer_django.admin.words import duration
from pipeteer_django.pipelines.record import TIMER

Verdict = tuple["State", str]


class State(TextChoices):
    """Each has a colour of its own, and is always written out, too."""

    QUEUED = "queued", pgettext_lazy("state", "queued")
    RUNNING = "running", pgettext_lazy("state", "running")
    WAITING = "waiting", pgettext_lazy("state", "waiting")
    RETRIED = "retried", pgettext_lazy("state", "to be retried")
    FAILED = "failed", pgettext_lazy("state", "failed")
    CANCELLED = "cancelled", pgettext_lazy("state", "cancelled")
    DONE = "done", pgettext_lazy("state", "done")
    GONE = "gone", gettext_lazy("no longer in its queue")


# States


def live_state(entry: dict[str, Any], now: datetime, *, runs_here: bool) -> Verdict:
    """Of an entry that is in its queue."""
    available_at = entry["available_at"]
    later = available_at is None or available_at > now
    if entry["failed_at"] is not None:
        return State.FAILED, _("given up; waits for a person")
    if entry["suspended"] and later:
        return State.WAITING, _("asleep until something happens")
    if entry["reserved_by"] and later:
        return State.RUNNING, _("attempt %s") % entry["attempt"] if entry["attempt"] > 1 else ""
    if entry["reserved_by"]:
        return State.QUEUED, _("its worker has gone")
    if later and entry["error"]:
        wait = duration(available_at - now) if available_at else ""
        return State.RETRIED, _("attempt %(number)s in %(wait)s") % {"number": entry["attempt"] + 1, "wait": wait}
    if later:
        return State.QUEUED, _("starts in %s") % duration(available_at - now) if available_at else ""
    return (State.QUEUED, "") if runs_here else (State.WAITING, _("for a person"))


def step_state(step: Any, entry: dict[str, Any] | None, now: datetime, *, over: bool, runs_here: bool) -> Verdict:
    """Of a step; `entry` is its child in its queue, `over` says that nobody waits for it any more."""
    if step.cancelled_at is not None:
        return State.CANCELLED, ""
    if step.done_at is not None:
        return (State.FAILED, "") if step.error else (State.DONE, "")
    if entry is not None:
        return live_state(entry, now, runs_here=runs_here)
    if over:
        return State.CANCELLED, _("left open")
    if step.pipeline == TIMER and step.due is not None:
        return (State.WAITING, _("%s left") % duration(step.due - now)) if step.due > now else (State.WAITING, _("due"))
    if step.kind == "unknown":
        return State.QUEUED, _("this code has no pipeline of that name")
    return State.QUEUED, _("its entry is gone; it will be cleared up")


def label(step: Any) -> str:
    """What a step is called."""
    said, name = step.param.plain, str(step.pipeline)
    if step.kind == "send" and isinstance(said, dict):
        return _("send %(name)s to %(workflow)s") % {"name": said.get("name"), "workflow": said.get("workflow")}
    if step.kind == "patch" and not step.param.cut:
        return str(_("patched %s") % said)
    words = {"timer": _("timer"), "send": _("send"), "random": _("seed of random"), "patch": _("patched")}
    return words.get(step.kind, name)
