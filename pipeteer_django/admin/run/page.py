"""The page of a workflow's run, and what can be done to the run there.

`urls(model_admin)` belongs into `get_urls` of the admin of a workflow's Input. A GET changes nothing; each POST does
one verb of `queues.unchanged`, which sees to it that the run is still what the page showed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db import OperationalError, router
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from pipeteer_django.admin.links import may_see
from pipeteer_django.admin.run import rows as runrows
from pipeteer_django.admin.run import tree as runtree
from pipeteer_django.admin.run.parts import Run
from pipeteer_django.admin.run.timeline import draw
from pipeteer_django.admin.valueform.field import ValueField
from pipeteer_django.exceptions import InvalidValue, PipeteerError
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues import unchanged
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.database import is_contention
from pipeteer_django.queues.unchanged import Seen

_BIGGEST = 2**31 - 1


def urls(model_admin: Any) -> list[URLPattern]:
    """The URLs of a workflow's runs, named `<app>_<model>_run`, `_run_correct` and so on; none for other pipelines.

    They must come before the admin's own, whose last one takes everything.
    """
    if model_admin.model.pipeline.kind != "workflow":
        return []
    name = f"{model_admin.opts.app_label}_{model_admin.opts.model_name}_run"
    wrap = model_admin.admin_site.admin_view
    verbs = {
        "correct": correct_view,
        "rerun": rerun_view,
        "cancel": cancel_view,
        "restart": restart_view,
        "retry": retry_view,
    }
    return [
        path("run/<int:run_id>/", wrap(partial(run_view, model_admin=model_admin)), name=name),
        *(
            path(f"run/<int:run_id>/{verb}/", wrap(partial(view, model_admin=model_admin)), name=f"{name}_{verb}")
            for verb, view in verbs.items()
        ),
    ]


# Looking


@require_safe
def run_view(request: HttpRequest, model_admin: Any, run_id: int) -> HttpResponse:
    """The page. `?branch=`, `?until=` and `?from=` choose what is shown, `?step=` and `?do=` open a step's details."""
    run = _read(request, model_admin, run_id)
    return _page(request, model_admin, run, _number(request, "step"))


def _read(request: HttpRequest, model_admin: Any, run_id: int) -> Run:
    """The run, if this user may see it."""
    workflow, using = model_admin.model.pipeline, _alias(model_admin)
    if not model_admin.has_view_permission(request):
        raise PermissionDenied
    # Before the run is read: who comes to it while it leaves its queue finds it all the same.
    shown = model_admin.get_queryset(request).using(using).filter(pk=run_id).exists()
    caller, _colon, step_id = request.GET.get("from", "").partition(":")
    run = runtree.read(
        workflow,
        using,
        run_id,
        branch=_number(request, "branch"),
        until=_number(request, "until"),
        caller=(caller, min(int(step_id), 2**62)) if _is_number(step_id) else None,
        may_see=partial(may_see, model_admin.admin_site, request),
    )
    if run is None or (run.live and not shown):
        raise Http404(_("There is no trace of run %(run)s of %(id)s.") % {"run": run_id, "id": workflow.id})
    if run.live and not model_admin.has_view_permission(request, run.row):
        raise PermissionDenied
    return run


def _page(
    request: HttpRequest, model_admin: Any, run: Run, chosen: int | None, form: forms.Form | None = None
) -> HttpResponse:
    request.current_app = model_admin.admin_site.name
    may_change = model_admin.has_change_permission(request, run.row if run.live else None)
    links = runrows.Links(model_admin.admin_site, request, run)
    shown = list(run.rows())
    rows = [runrows.row(step, run, links, may_change=may_change) for step in shown]
    open_row = _open(rows, run, chosen, request, form, model_admin) if rows else None
    live = run.live and run.is_present
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.opts,
        "title": f"{run.workflow.id} {run.key}" if run.key else f"{run.workflow.id} {run.id}",
        "subtitle": None,
        "run": run,
        "workflow": run.workflow.id,  # not the pipeline itself: a template calls what it can call
        "facts": runrows.facts(run),
        "picture": draw(shown, run.messages, run.now, timezone.get_current_timezone(), live=live),
        "rows": rows,
        "open_row": open_row,
        "media": model_admin.media + open_row.form.media if open_row and open_row.form else "",
        "links": links,
        "asked": f"?{request.GET.urlencode()}" if request.GET else "",
        "may_change": may_change,
        "verbs": runrows.verbs(run) if may_change and run.is_present else [],
        "limits": {"page": runtree.PAGE, "messages": runtree.MESSAGES},
    }
    return TemplateResponse(request, "admin/pipeteer_django/run.html", context)


def _open(
    rows: list[runrows.Row],
    run: Run,
    chosen: int | None,
    request: HttpRequest,
    form: forms.Form | None,
    model_admin: Any,
) -> runrows.Row | None:
    """Give the chosen step of the run its details, and the form that was asked for."""
    row = next((row for row in rows if row.step.depth == 0 and row.step.index == chosen), None)
    if row is None:
        return None
    row.open = True
    whole = runtree.read_whole(run, _alias(model_admin), row.step.index)
    if whole is not None:
        row.param, row.result = whole
    do = request.GET.get("do", "")
    if row.correct and (do == "correct" or form is not None):
        pipeline, result = registry.get(row.step.pipeline), whole[1].plain if whole else None
        row.form = form or correct_form(pipeline, None, result, model_admin.admin_site)
    row.asks_rerun = bool(row.rerun) and do == "rerun"
    return row


# The form of a correction


def correct_form(pipeline: Pipeline[Any, Any] | None, data: Any, initial: Any, site: Any) -> forms.Form:
    """The form for another result, of which `initial` is plain JSON; of a timer, which has none, an empty one."""
    form = forms.Form(data, auto_id="pipeteer_%s")
    if pipeline is not None:
        form.fields["value"] = ValueField(pipeline.output, admin_site=site, label=_("Result"))
        form.initial["value"] = _typed(pipeline, initial)
    return form


def _typed(pipeline: Pipeline[Any, Any], plain_json: Any) -> Any:
    """A result as its type; what fits no longer is shown as it is."""
    try:
        return None if plain_json is None else pipeline.output.from_json(plain_json)
    except InvalidValue:
        return plain_json


# Doing


@require_POST
def correct_view(request: HttpRequest, model_admin: Any, run_id: int) -> HttpResponse:
    """Give a step another result."""
    run = _to_change(request, model_admin, run_id)
    number = _posted(request, "step")
    step = next(iter(plain(run.workflow.models["Step"], _alias(model_admin)).filter(
        run_id=run_id, branch=_posted(request, "branch"), index=number).only("pipeline")), None)  # fmt: skip
    form = correct_form(registry.get(step.pipeline) if step else None, request.POST, None, model_admin.admin_site)
    if not form.is_valid():
        messages.error(request, " ".join(str(error) for errors in form.errors.values() for error in errors))
        return _page(request, model_admin, run, number, form)
    done_at = _moment(request.POST.get("done_at", ""))
    value = form.cleaned_data.get("value")

    def act(using: str) -> int:
        unchanged.correct(run.workflow, using, _seen(request, run_id), number, done_at, value)
        return run_id

    return _do(request, model_admin, run, act, _("The result of step %s was corrected.") % number)


@require_POST
def rerun_view(request: HttpRequest, model_admin: Any, run_id: int) -> HttpResponse:
    """Run again from a step on."""
    run = _to_change(request, model_admin, run_id)
    number = _posted(request, "step")

    def act(using: str) -> int:
        return unchanged.rerun(run.workflow, using, _seen(request, run_id), number)

    return _do(request, model_admin, run, act, _("It runs again from step %s.") % number)


@require_POST
def cancel_view(request: HttpRequest, model_admin: Any, run_id: int) -> HttpResponse:
    """Let the run clean up and end."""
    return _simple(request, model_admin, run_id, unchanged.cancel, _("The run was cancelled."))


@require_POST
def restart_view(request: HttpRequest, model_admin: Any, run_id: int) -> HttpResponse:
    """Run again from the beginning."""
    return _simple(request, model_admin, run_id, unchanged.restart, _("The run begins again."))


@require_POST
def retry_view(request: HttpRequest, model_admin: Any, run_id: int) -> HttpResponse:
    """Let a failed run go on where it was."""
    return _simple(request, model_admin, run_id, unchanged.retry, _("The run goes on."))


def _simple(
    request: HttpRequest, model_admin: Any, run_id: int, verb: Callable[[Any, str, Seen], None], said: str
) -> HttpResponse:
    run = _to_change(request, model_admin, run_id)

    def act(using: str) -> int:
        verb(run.workflow, using, _seen(request, run_id))
        return run_id

    return _do(request, model_admin, run, act, said)


def _to_change(request: HttpRequest, model_admin: Any, run_id: int) -> Run:
    """The run, if this user may change it."""
    if not model_admin.has_change_permission(request):
        raise PermissionDenied
    run = _read(request, model_admin, run_id)
    if run.live and not model_admin.has_change_permission(request, run.row):
        raise PermissionDenied
    return run


def _do(request: HttpRequest, model_admin: Any, run: Run, act: Callable[[str], int], said: str) -> HttpResponseRedirect:
    """Do it, say what became of it, write it down, and go back to the page of the run that goes on."""
    using, goes_on = _alias(model_admin), run.id
    try:
        goes_on = act(using)
    except PipeteerError as error:
        messages.error(request, str(error))
    except OperationalError as error:
        if not is_contention(error):
            raise
        messages.error(request, _("Somebody holds this run's row; nothing was done. Try again."))
    else:
        messages.success(request, said)
        entry = plain(run.workflow.Input, using).filter(pk=goes_on).first() or run.row
        model_admin.log_change(request, entry, _("%(said)s (run %(run)s)") % {"said": said, "run": run.id})
    return HttpResponseRedirect(_back(model_admin, run.workflow, using, goes_on))


def _back(model_admin: Any, workflow: Pipeline[Any, Any], using: str, run_id: int) -> str:
    """The page of the run, or the list where nothing is left of it."""
    name, site = f"admin:{model_admin.opts.app_label}_{model_admin.opts.model_name}", model_admin.admin_site.name
    if runtree.exists(workflow, using, run_id):
        return reverse(f"{name}_run", args=[run_id], current_app=site)
    return reverse(f"{name}_changelist", current_app=site)


# What the request says


def _alias(model_admin: Any) -> str:
    return router.db_for_write(model_admin.model)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def _number(request: HttpRequest, name: str) -> int | None:
    text = request.GET.get(name, "")
    return min(int(text), _BIGGEST) if _is_number(text) else None


def _posted(request: HttpRequest, name: str) -> int:
    """A number of a form; one that nothing has where it is none."""
    text = request.POST.get(name, "")
    return min(int(text), _BIGGEST) if _is_number(text) else -1


def _seen(request: HttpRequest, run_id: int) -> Seen:
    epoch = request.POST.get("epoch", "")
    return Seen(run_id, _posted(request, "branch"), int(epoch) if _is_number(epoch) else -1)


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
