"""What needs attention, the first thing first: one sentence each, which names the thing, the cause and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.utils import timezone
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from pipeteer_django.admin.dashboard.standing import Queue, Standing
from pipeteer_django.admin.links import page_of
from pipeteer_django.admin.words import duration
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.figures import Count

PATIENCE = timedelta(minutes=5)
"""For so long an entry may be ready before somebody should ask why nobody takes it."""
MOST = 5
"""Things of one kind that are told one by one."""
WORKER = "python manage.py pipeteer_worker"
_ERROR = 160


@dataclass(frozen=True, slots=True)
class Item:
    """One thing. `level` says how it looks: error, warning or info."""

    level: str
    said: str
    action: str = ""
    url: str | None = None
    command: str = ""


def attention(standing: Standing, site: Any, *, sees_workers: bool) -> list[Item]:
    """All of it, in the order in which to look; of one kind no more than MOST."""
    kinds: list[Callable[[], Iterator[Item]]] = [
        lambda: _without_tables(standing),
        lambda: _each(standing, site, _failed),
        lambda: _each(standing, site, _crashed),
        lambda: _without_worker(standing, site),
        lambda: _each(standing, site, _slow),
        lambda: _each(standing, site, _held),
        lambda: _silent(standing) if sees_workers else iter(()),
        lambda: _each(standing, site, _for_people),
    ]
    return [item for kind in kinds for item in _some(list(kind()))]


def amount(count: Count) -> str:
    """A number, with a + where there are more."""
    return f"{count.number:,}{'+' if count.more else ''}"


def list_of(site: Any, pipeline: Pipeline[Any, Any], state: str = "") -> str | None:
    """The list of a queue's entries in one state."""
    found = page_of(site, pipeline.Input, "changelist")
    return f"{found}?state={state}" if found and state else found


def _some(items: list[Item]) -> list[Item]:
    if len(items) <= MOST:
        return items
    rest = len(items) - MOST + 1
    said = ngettext("And %(count)s more like this.", "And %(count)s more like these.", rest) % {"count": rest}
    return [*items[: MOST - 1], Item(items[0].level, said)]


def _each(standing: Standing, site: Any, kind: Callable[[Any, Queue], Item | None]) -> Iterator[Item]:
    for queue in standing.queues:
        item = kind(site, queue)
        if item is not None:
            yield item


# The kinds


def _without_tables(standing: Standing) -> Iterator[Item]:
    if standing.missing:
        labels = sorted({pipeline.Input._meta.app_label for pipeline in standing.missing})
        said = _("These pipelines have no tables yet, so nothing can be enqueued: %(ids)s. Make and run migrations.")
        ids = ", ".join(sorted(pipeline.id for pipeline in standing.missing))
        command = f"python manage.py makemigrations {' '.join(labels)} && python manage.py migrate"
        yield Item("error", said % {"ids": ids}, command=command)


def _failed(site: Any, queue: Queue) -> Item | None:
    failed, crashed = queue.depth.failed, queue.depth.crashed
    others = Count(failed.number - crashed.number, failed.more)
    if not others:
        return None
    said = ngettext(
        "%(count)s entry of %(id)s has failed and waits for a person.",
        "%(count)s entries of %(id)s have failed and wait for a person.",
        others.number,
    ) % {"count": amount(others), "id": queue.pipeline.id}
    lines = queue.error.strip().splitlines()
    if lines and not crashed:
        said += " " + _("The newest: %(error)s") % {"error": Truncator(lines[-1]).chars(_ERROR)}
    return Item("error", said, _("See why, then retry"), list_of(site, queue.pipeline, "failed"))


def _crashed(site: Any, queue: Queue) -> Item | None:
    crashed = queue.depth.crashed
    if not crashed:
        return None
    said = ngettext(
        "%(count)s entry of %(id)s is parked, because its workers died while they ran it (killed, out of memory, "
        "stuck): read their logs.",
        "%(count)s entries of %(id)s are parked, because their workers died while they ran them (killed, out of "
        "memory, stuck): read their logs.",
        crashed.number,
    ) % {"count": amount(crashed), "id": queue.pipeline.id}
    return Item("error", said, _("See them, then retry"), list_of(site, queue.pipeline, "failed"))


def _lacks_worker(queue: Queue) -> bool:
    return bool(queue.depth.ready) and queue.pipeline.runs_here and not queue.held and not queue.served


def _without_worker(standing: Standing, site: Any) -> Iterator[Item]:
    lacking = [queue for queue in standing.queues if _lacks_worker(queue)]
    if lacking and not standing.is_served:
        said = ngettext(
            "Work waits in %(count)s queue, and no worker is running: start one.",
            "Work waits in %(count)s queues, and no worker is running: start one.",
            len(lacking),
        ) % {"count": len(lacking)}
        yield Item("error", said, command=WORKER)
        return
    for queue in lacking:
        said = ngettext(
            "%(count)s entry of %(id)s is ready, and no live worker serves this queue: start one.",
            "%(count)s entries of %(id)s are ready, and no live worker serves this queue: start one.",
            queue.depth.ready.number,
        ) % {"count": amount(queue.depth.ready), "id": queue.pipeline.id}
        yield Item("error", said, command=f"{WORKER} {queue.pipeline.id}")


def _slow(site: Any, queue: Queue) -> Item | None:
    oldest, age = queue.depth.oldest, queue.age
    is_served = queue.served and queue.pipeline.runs_here and not queue.held
    if oldest is None or age is None or age < PATIENCE or not is_served:
        return None
    said = _("An entry of %(id)s has been ready for %(age)s: its workers are busy, stuck or too few.") % {
        "id": queue.pipeline.id,
        "age": duration(age),
    }
    return Item("warning", said, _("See the oldest"), page_of(site, queue.pipeline.Input, "change", oldest.id))


def _held(site: Any, queue: Queue) -> Item | None:
    if not queue.held or not queue.depth.ready:
        return None
    said = ngettext(
        "%(id)s is held, and %(count)s entry waits in it until somebody lets the queue go on.",
        "%(id)s is held, and %(count)s entries wait in it until somebody lets the queue go on.",
        queue.depth.ready.number,
    ) % {"count": amount(queue.depth.ready), "id": queue.pipeline.id}
    return Item("warning", said, _("Go to the queue"), list_of(site, queue.pipeline))


def _silent(standing: Standing) -> Iterator[Item]:
    for worker, alive in standing.workers:
        if not alive:
            said = _(
                "Worker %(label)s was last heard of %(age)s ago: it was killed, or cannot reach the database. Others "
                "take over what it ran; look at its log."
            ) % {"label": worker.label, "age": duration(timezone.now() - worker.heartbeat_at)}
            yield Item("warning", said)


def _for_people(site: Any, queue: Queue) -> Item | None:
    if queue.pipeline.runs_here or not queue.depth.ready or queue.age is None:
        return None
    said = ngettext(
        "%(count)s entry of %(id)s waits for a person's answer, for %(age)s.",
        "%(count)s entries of %(id)s wait for a person's answer, the oldest for %(age)s.",
        queue.depth.ready.number,
    ) % {"count": amount(queue.depth.ready), "id": queue.pipeline.id, "age": duration(queue.age)}
    inbox = page_of(site, queue.pipeline.Input, "inbox") or list_of(site, queue.pipeline, "ready")
    return Item("info", said, _("Answer them"), inbox)
