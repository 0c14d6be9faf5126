"""The inbox of a task: what waits for a person, and the page where it is answered.

`urls(model_admin)` belongs into `get_urls` of the admin of a task's Input. A GET changes nothing. An answer completes
the entry with `people.answer`, under the epoch of the page: of two people, or two clicks, one does it, the other is
told.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_safe

from pipeteer_django.admin.inbox import rows as inboxrows
from pipeteer_django.admin.links import page_of
from pipeteer_django.admin.valueform.field import ValueField
from pipeteer_django.admin.words import duration
from pipeteer_django.exceptions import PipeteerError
from pipeteer_django.queues import people
from pipeteer_django.queues.chunks import exactly
from pipeteer_django.queues.database import is_contention

PAGE = 25
"""Entries on one page."""
ANSWERED = '[{"added": {"name": "answer"'
"""How the admin's log stores an answer; Django says "Added answer" in the language of whoever reads it."""


def urls(model_admin: Any) -> list[URLPattern]:
    """The URLs of a task's inbox, named `<app>_<model>_inbox` and `_answer`; none for other pipelines.

    They must come before the admin's own, whose last one takes everything.
    """
    if model_admin.model.pipeline.kind != "task":
        return []
    name = f"{model_admin.opts.app_label}_{model_admin.opts.model_name}"
    wrap = model_admin.admin_site.admin_view
    return [
        path("inbox/", wrap(partial(inbox_view, model_admin=model_admin)), name=f"{name}_inbox"),
        path("<int:entry_id>/answer/", wrap(partial(answer_view, model_admin=model_admin)), name=f"{name}_answer"),
    ]


# Looking


@require_safe
def inbox_view(request: HttpRequest, model_admin: Any) -> HttpResponse:
    """What waits in one inbox, oldest first. `?after=` is the id after which the page begins."""
    if not model_admin.has_view_permission(request):
        raise PermissionDenied
    inbox = inboxrows.Inbox(model_admin, request)
    after = request.GET.get("after", "")
    shown, last = inbox.read(PAGE, after=int(after) if after.isdecimal() and len(after) < 19 else 0)
    context = {"title": inbox.title, "inbox": inbox, "entries": shown, "after": after, "last": last}
    return _render(request, model_admin.admin_site, "inbox", context, model_admin)


@require_safe
def all_view(request: HttpRequest, site: Any) -> HttpResponse:
    """What waits in all inboxes that this user may see: the first of each."""
    busy_first = sorted(inboxrows.inboxes(site, request), key=lambda inbox: not inbox.count)
    found = [(inbox, *inbox.read(inboxrows.FIRST)) for inbox in busy_first]
    return _render(request, site, "inboxes", {"title": _("Inboxes"), "inboxes": found}, None)


@require_http_methods(["GET", "HEAD", "POST"])
def answer_view(request: HttpRequest, model_admin: Any, entry_id: int) -> HttpResponse:
    """One entry, and the form of its answer."""
    entry = inboxrows.rows_of(model_admin, request).filter(pk=entry_id).first() if entry_id < 2**63 else None
    posted = request.method == "POST"
    permitted = model_admin.has_change_permission if posted else model_admin.has_view_permission
    if not permitted(request, entry):
        raise PermissionDenied
    if entry is None:
        return _gone(request, model_admin, entry_id)
    form = answer_form(model_admin, request.POST if posted else None)
    return _answer(request, model_admin, entry, form) if posted else _page(request, model_admin, entry, form)


def _page(request: HttpRequest, model_admin: Any, entry: Any, form: forms.Form) -> HttpResponse:
    inbox = inboxrows.Inbox(model_admin, request)
    context = {
        "title": inbox.title,
        "inbox": inbox,
        "shown": inbox.shown([entry])[0],
        "form": form if model_admin.has_change_permission(request, entry) else None,
        "media": model_admin.media + form.media,
        "entry_url": page_of(model_admin.admin_site, model_admin.model, "change", entry.pk),
        "back": _place(request),
    }
    return _render(request, model_admin.admin_site, "answer", context, model_admin)


def _render(request: HttpRequest, site: Any, template: str, context: dict[str, Any], model_admin: Any) -> HttpResponse:
    request.current_app = site.name
    opts = {"opts": model_admin.opts} if model_admin else {}
    context = {**site.each_context(request), "subtitle": None, **opts, **context}
    return TemplateResponse(request, f"admin/pipeteer_django/{template}.html", context)


# The form


class Decision(forms.TypedChoiceField):
    """A yes or no that nobody gives by leaving something empty. The templates draw it as two buttons."""

    def __init__(self) -> None:
        choices = [("true", gettext_lazy("Approve")), ("false", gettext_lazy("Reject"))]
        super().__init__(choices=choices, coerce=lambda text: text == "true", label=gettext_lazy("Answer"))


def answer_form(model_admin: Any, data: Any) -> forms.Form:
    """The form of an answer, built from the type of the task's output."""
    output = model_admin.model.pipeline.output
    form = forms.Form(data)
    if inboxrows.is_decision(output):
        form.fields["value"] = Decision()
    else:
        form.fields["value"] = ValueField(output, admin_site=model_admin.admin_site, label=_("Answer"))
    return form


# Answering


def _answer(request: HttpRequest, model_admin: Any, entry: Any, form: forms.Form) -> HttpResponse:
    if not form.is_valid():
        return _page(request, model_admin, entry, form)
    try:
        done, heard = _settle(request, model_admin, entry, form.cleaned_data["value"])
    except PipeteerError as error:
        messages.error(request, _("Nothing was written: %s") % error)
    except OperationalError as error:
        if not is_contention(error):
            raise
        messages.error(request, _("Somebody holds this entry's row; nothing was written. Try again."))
    else:
        if done:
            said = _("“%s” was answered.") if heard else _("“%s” was answered, but nobody waits for it any more.")
            messages.add_message(request, messages.SUCCESS if heard else messages.WARNING, said % entry.key)
            return _back(request, model_admin)
        return _missed(request, model_admin, entry, form)
    return _page(request, model_admin, entry, form)


def _settle(request: HttpRequest, model_admin: Any, entry: Any, value: Any) -> tuple[bool, bool]:
    """Complete the entry and write that down, in one transaction: whether it was done, and whether anybody waited."""
    task, using = model_admin.model.pipeline, inboxrows.alias(model_admin)
    epoch = request.POST.get("epoch", "")
    seen = int(epoch) if epoch.isdecimal() and len(epoch) < 19 else -1
    dropped = 0

    def verb(keys: Any) -> int:
        nonlocal dropped
        settled = people.answer(task, using, entry.pk, seen, value)
        dropped = settled.dropped
        return len(settled.done)

    def record(keys: Any) -> None:
        said = inboxrows.in_short(task.output, value)
        model_admin.log_change(request, entry, [{"added": {"name": "answer", "object": said}}])

    return bool(exactly(using, [entry.pk], verb, record)), not dropped


def _missed(request: HttpRequest, model_admin: Any, entry: Any, form: forms.Form) -> HttpResponse:
    """It had moved: somebody answered it, or changed the question, which is shown again with what was typed."""
    now = inboxrows.rows_of(model_admin, request).filter(pk=entry.pk).first()
    if now is None:
        return _gone(request, model_admin, entry.pk)
    messages.error(request, _("It was changed since you saw it, and your answer was not taken. Look again."))
    return _page(request, model_admin, now, form)


def _gone(request: HttpRequest, model_admin: Any, entry_id: int) -> HttpResponse:
    """Nothing waits under this id."""
    said = _who_answered(model_admin, entry_id)
    if request.method == "POST":
        messages.warning(request, f"{said} {_('Your answer changed nothing.')}")
        return _back(request, model_admin)
    inbox = inboxrows.Inbox(model_admin, request)
    context = {"title": inbox.title, "inbox": inbox, "said": said, "back": _place(request)}
    response = _render(request, model_admin.admin_site, "answer", context, model_admin)
    response.status_code = 404
    return response


def _who_answered(model_admin: Any, entry_id: int) -> str:
    """What became of an entry that is not there, as far as the admin's log tells."""
    about = LogEntry.objects.filter(
        content_type=ContentType.objects.get_for_model(model_admin.model, for_concrete_model=False),
        object_id=str(entry_id),
        action_flag=CHANGE,
        change_message__startswith=ANSWERED,
    )
    answer = about.select_related("user").order_by("-action_time").first()
    if answer is None:
        return _("Nothing waits here any more: it was answered already, or taken out of its queue.")
    return _("It was already answered by %(user)s, %(time)s ago.") % {
        "user": answer.user.get_username(),
        "time": duration(timezone.now() - answer.action_time),
    }


# Where it goes on


def _place(request: HttpRequest) -> str:
    """From where somebody came, so that they get back there: "all" or nothing."""
    asked = request.POST if request.method == "POST" else request.GET
    return "all" if asked.get("from") == "all" else ""


def _back(request: HttpRequest, model_admin: Any) -> HttpResponseRedirect:
    site = model_admin.admin_site
    everything = inboxrows.all_of(site) if _place(request) else None
    return HttpResponseRedirect(everything or page_of(site, model_admin.model, "inbox") or site.name)
