"""The dashboard: every queue that one may view, the workers, and what needs attention first. It changes nothing.

`urls(model_admin)` belongs into `get_urls` of the admin of Queue.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_safe

from pipeteer_django.admin.dashboard import charts
from pipeteer_django.admin.dashboard.attention import WORKER, amount, attention, list_of
from pipeteer_django.admin.dashboard.standing import Queue, Standing, read
from pipeteer_django.admin.links import admin_of, may_see, page_of
from pipeteer_django.admin.states import STATES
from pipeteer_django.admin.words import duration
from pipeteer_django.models import Worker
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.figures import serves
from pipeteer_django.queues.paces import LATEST


@dataclass(frozen=True, slots=True)
class Window:
    """How far back the charts go, and into how many parts they cut that."""

    name: str
    label: str | Promise
    length: timedelta
    parts: int


WINDOWS = (
    Window("15m", gettext_lazy("Last 15 minutes"), timedelta(minutes=15), 30),
    Window("24h", gettext_lazy("Last 24 hours"), timedelta(hours=24), 24),
)


def urls(model_admin: Any) -> list[URLPattern]:
    """The dashboard's address. It must come before the admin's own, whose last one takes everything."""
    view = model_admin.admin_site.admin_view(partial(dashboard_view, model_admin=model_admin))
    name = f"{model_admin.opts.app_label}_{model_admin.opts.model_name}_dashboard"
    return [path("dashboard/", view, name=name)]


@require_safe
def dashboard_view(request: HttpRequest, model_admin: Any) -> HttpResponse:
    """The page. `?window=` chooses how far back the charts go."""
    site = model_admin.admin_site
    request.current_app = site.name
    here = [pipeline for pipeline in registry if pipeline.attached and site.is_registered(pipeline.Input)]
    pipelines = [pipeline for pipeline in here if may_see(site, request, pipeline)]
    may_view = model_admin.has_view_permission(request)
    if not pipelines and (here or not may_view):
        raise PermissionDenied
    window = next((each for each in WINDOWS if each.name == request.GET.get("window")), WINDOWS[0])
    workers = admin_of(site, Worker)
    sees_workers = workers is not None and bool(workers.has_view_permission(request))
    standing = read(pipelines, window.length)
    context = {
        **site.each_context(request),
        "opts": model_admin.opts,
        "title": _("Dashboard"),
        "subtitle": None,
        "queues_url": page_of(site, model_admin.model, "changelist") if may_view else None,
        "now": timezone.now(),
        "window": window,
        "windows": WINDOWS,
        "items": attention(standing, site, sees_workers=sees_workers),
        "rows": [_row(queue, site, window) for queue in standing.queues if not queue.is_quiet or queue.held],
        "quiet": [
            (queue.pipeline.id, list_of(site, queue.pipeline))
            for queue in standing.queues
            if queue.is_quiet and not queue.held
        ],
        "steps": _first_steps(standing, site, request),
        "sees_workers": sees_workers,
        "workers": [_worker(*each, standing, site) for each in standing.workers] if sees_workers else [],
        "worker_command": WORKER,
    }
    return TemplateResponse(request, "admin/pipeteer_django/dashboard.html", context)


# Queues


@dataclass(frozen=True, slots=True)
class Cell:
    """How many entries are in a state, with the list of them."""

    state: str
    label: str | Promise
    text: str
    url: str | None
    empty: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table of queues."""

    id: str
    kind: str
    held: bool
    url: str | None
    total: str
    cells: list[Cell]
    age: str
    oldest_key: str
    oldest_url: str | None
    rate: str
    bars: charts.Bars | None
    median: str
    most: str
    band: charts.Band | None
    cut: str
    last: datetime | None


def _row(queue: Queue, site: Any, window: Window) -> Row:
    pipeline, depth, pace = queue.pipeline, queue.depth, queue.pace
    found = charts.parts(pace.finished, pace.start, queue.now, window.parts)
    took = sorted(length for _moment, length in pace.finished)
    span = queue.now - pace.start
    is_cut = pace.start > queue.now - window.length
    return Row(
        id=pipeline.id,
        kind=pipeline.kind,
        held=queue.held,
        url=list_of(site, pipeline),
        total=amount(depth.total),
        cells=[_cell(queue, site, state) for state in STATES],
        age=duration(queue.age) if queue.age is not None else "",
        oldest_key=depth.oldest.key if depth.oldest else "",
        oldest_url=page_of(site, pipeline.Input, "change", depth.oldest.id) if depth.oldest else None,
        rate=rate(len(took), span) if took else "",
        bars=charts.bars(found, span / window.parts) if took else None,
        median=duration(charts.rank(took, 0.5)) if took else "",
        most=duration(charts.rank(took, 0.95)) if took else "",
        band=charts.band(found) if took else None,
        cut=_("the last %(count)s only: %(time)s") % {"count": f"{LATEST:,}", "time": duration(span)} if is_cut else "",
        last=depth.last_finished,
    )


def _cell(queue: Queue, site: Any, state: str) -> Cell:
    count = getattr(queue.depth, state)
    return Cell(state, STATES[state], amount(count), list_of(site, queue.pipeline, state), not count)


_FEW = 10


def rate(count: int, span: timedelta) -> str:
    """So many in that time, per the unit in which the number is easy to read; a few are no rate."""
    if count < _FEW:
        return _("%(count)s in %(time)s") % {"count": count, "time": duration(span)}
    per_second = count / max(span.total_seconds(), 0.001)
    for factor, text in ((1, _("%s/s")), (60, _("%s/min"))):
        if per_second * factor >= 1:
            return text % _short(per_second * factor)
    return _("%s/h") % _short(per_second * 3600)


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}".removesuffix(".0")


# Workers


def _worker(worker: Worker, alive: bool, standing: Standing, site: Any) -> dict[str, Any]:
    running = [
        (queue.pipeline.id, f"{count:,}", list_of(site, queue.pipeline, "running"))
        for queue in standing.queues
        if (count := queue.depth.by_worker.get(worker.label))
    ]
    return {
        "label": worker.label,
        "alive": alive,
        "age": duration(timezone.now() - worker.heartbeat_at),
        "doing": worker.doing,
        "running": running,
        "started_at": worker.started_at,
        "serves": sorted(serves(worker)),
    }


# The first steps


@dataclass(frozen=True, slots=True)
class Step:
    """Something to do before there is anything to see."""

    title: str
    done: bool
    text: str = ""
    code: str = ""
    url: str | None = None


_FIRST_PIPELINE = """\
import pipeteer_django as pipeteer

@pipeteer.activity()
def double(x: int) -> int:
    return 2 * x"""


def _first_steps(standing: Standing, site: Any, request: HttpRequest) -> list[Step]:
    """What to do until something was enqueued; nothing after that."""
    if not standing.is_new:
        return []
    there = [queue.pipeline for queue in standing.queues] + standing.missing
    steps = [_write(there), _migrate(there, standing.missing)]
    if standing.wants_worker or not there:
        text = _("It runs all pipelines, until you press Ctrl-C.")
        steps.append(Step(_("Start a worker"), standing.is_served, text, WORKER))
    return [*steps, _enqueue([queue.pipeline for queue in standing.queues], site, request)]


def _write(there: Sequence[Pipeline[Any, Any]]) -> Step:
    if there:
        ids = sorted(pipeline.id for pipeline in there)
        return Step(_("Write a pipeline"), True, ", ".join([*ids[:5], "…"] if len(ids) > 5 else ids))
    text = _("A typed function with a decorator, in the file pipelines.py of an app that is in INSTALLED_APPS:")
    return Step(_("Write a pipeline"), False, text, _FIRST_PIPELINE)


def _migrate(there: Sequence[Pipeline[Any, Any]], missing: Sequence[Pipeline[Any, Any]]) -> Step:
    text = _("Every pipeline has tables of its own in its app. Then start this server again.")
    labels = " ".join(sorted({pipeline.Input._meta.app_label for pipeline in missing}))
    command = f"python manage.py makemigrations {labels}".strip() + " && python manage.py migrate"
    done = bool(there) and not missing
    return Step(_("Make its tables"), done, "" if done else text, "" if done else command)


_EXAMPLES = ((int, "1"), (str, '"hello"'), (bool, "True"), (float, "1.5"), (None, ""), (type(None), ""))
"""Values that are easy to write, by annotation."""


def _enqueue(pipelines: Sequence[Pipeline[Any, Any]], site: Any, request: HttpRequest) -> Step:
    """With the first pipeline whose value is easy to write."""
    title, text = _("Enqueue something"), _("In your code, or in python manage.py shell:")
    if not pipelines:
        return Step(title, False, text, "from shop.pipelines import double\ndouble.enqueue(1)")
    examples = [
        (pipeline, example)
        for pipeline in pipelines
        for known, example in _EXAMPLES
        if pipeline.input.annotation is known
    ]
    pipeline, example = examples[0] if examples else (pipelines[0], "...")
    name = pipeline.function.__name__
    code = f"from {pipeline.function.__module__} import {name}\n{name}.enqueue({example})"
    if not examples:
        code += f"  # {inspect.formatannotation(pipeline.input.annotation)}"
    may_add = admin_of(site, pipeline.Input).has_add_permission(request)
    return Step(title, False, text, code, page_of(site, pipeline.Input, "add") if may_add else None)
