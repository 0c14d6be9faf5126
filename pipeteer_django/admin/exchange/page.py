"""Entries out of a queue and into one, as a JSON document: an action that downloads it, and the page that takes it.

`urls(model_admin)` belongs into `get_urls` of the admin of an Input. The page has two steps, because nothing is added
before it was said how much that is. No file stays on the server: the second step brings the text along and it is
checked again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.models import ADDITION
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.handlers.asgi import ASGIRequest
from django.db import DatabaseError, IntegrityError, router
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_http_methods

from pipeteer_django.admin.actions import log
from pipeteer_django.admin.exchange.document import SHOWN, Plan, read, written
from pipeteer_django.admin.links import page_of
from pipeteer_django.exceptions import PipeteerError
from pipeteer_django.queues.chunks import add

_BESIDES = 50_000
"""Bytes of the second step's form besides the text."""
_LARGEST = 10_000_000
"""Bytes of a text where the project sets no limit to what is submitted."""


# Export


@admin.action(permissions=["view"], description=gettext_lazy("Export as JSON"))
def export(model_admin: Any, request: Any, queryset: Any) -> HttpResponseBase:
    """Download the chosen entries. Nothing is asked, because nothing changes."""
    using = router.db_for_write(model_admin.model)
    every = model_admin.get_queryset(request).using(using)
    parts: Any = written(queryset.using(using), every, model_admin.most_per_action)
    if isinstance(request, ASGIRequest):
        parts = _later(parts)  # Django would read all of it into memory first
    name = f"{model_admin.model.pipeline.id}-{timezone.now():%Y%m%d-%H%M%S}.json"
    headers = {"Content-Disposition": content_disposition_header(True, name)}
    return StreamingHttpResponse(parts, content_type="application/json", headers=headers)


async def _later(parts: Iterator[str]) -> AsyncIterator[str]:
    while (part := await sync_to_async(partial(next, parts, None))()) is not None:
        yield part


# Import


def urls(model_admin: Any) -> list[URLPattern]:
    """The URL of the page, named `<app>_<model>_import`. It must come before the admin's own."""
    name = f"{model_admin.opts.app_label}_{model_admin.opts.model_name}_import"
    view = partial(import_view, model_admin=model_admin)
    return [path("import/", model_admin.admin_site.admin_view(view), name=name)]


def address(model_admin: Any, request: HttpRequest) -> str:
    """Where the page is, for who may add entries."""
    may = model_admin.has_add_permission(request)
    return (page_of(model_admin.admin_site, model_admin.model, "import") or "") if may else ""


def most_bytes() -> int:
    """The longest text that the second step can bring along."""
    limit: int | None = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    return _LARGEST if limit is None else max(limit - _BESIDES, 0)


class ImportForm(forms.Form):
    """A file, or its text."""

    file = forms.FileField(label=gettext_lazy("File"), required=False, allow_empty_file=True)
    text = forms.CharField(
        label=gettext_lazy("Or its text"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 12, "cols": 80, "class": "vLargeTextField", "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        widget = self.fields["file"].widget
        widget.attrs["accept"] = ".json,application/json"
        limit = filesizeformat(most_bytes())
        self.fields["file"].help_text = _("As “Export as JSON” makes it; no larger than %s.") % limit

    def clean(self) -> dict[str, Any]:
        """With the document's text as `document`."""
        cleaned = super().clean() or {}
        file, text = cleaned.get("file"), cleaned.get("text", "")
        if not self.errors:
            if bool(file) == bool(text.strip()):
                raise ValidationError(_("Choose a file, or paste its text.") if not file else _("Give one of the two."))
            document = (_text_of(file) if file else text).replace("\r\n", "\n")
            _check_size(len(document.encode()) + document.count("\n"))  # browsers submit each as two characters
            cleaned["document"] = document
        return cleaned


def _text_of(file: Any) -> str:
    _check_size(file.size)
    try:
        return str(file.read().decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValidationError(_("This file is no text in UTF-8.")) from None


def _check_size(size: int) -> None:
    if size > most_bytes():
        sizes = {"size": filesizeformat(size), "most": filesizeformat(most_bytes())}
        said = _("This has %(size)s, and an import takes no more than %(most)s. Import it in parts.")
        raise ValidationError(said % sizes)


@require_http_methods(["GET", "HEAD", "POST"])
def import_view(request: HttpRequest, model_admin: Any) -> HttpResponse:
    """The page: asks for a document, says what it would add, and with `post=yes` adds it."""
    if not model_admin.has_add_permission(request):
        raise PermissionDenied
    posted = request.method == "POST"
    form = ImportForm(request.POST, request.FILES) if posted else ImportForm()
    plan = _plan(form, model_admin) if posted else None
    if plan is not None and request.POST.get("post") == "yes" and _added(request, model_admin, plan):
        return _away(request, model_admin)
    return _page(request, model_admin, form, plan)


def _plan(form: ImportForm, model_admin: Any) -> Plan | None:
    """What would be added; None where that cannot be, and the form says why."""
    if form.is_valid():
        using, most = router.db_for_write(model_admin.model), model_admin.most_per_action
        try:
            return read(form.cleaned_data["document"], model_admin.model, using, most)
        except ValidationError as error:
            form.add_error(None, error)
    return None


def _added(request: HttpRequest, model_admin: Any, plan: Plan) -> bool:
    """Add the entries, all or none, and say so. False where it could not be done."""
    using, said = router.db_for_write(model_admin.model), str(_("Imported"))
    skip = request.POST.get("taken") != "refuse"
    try:
        added, left = add(using, plan.entries, skip, lambda some: log(request, list(some), ADDITION, said))
    except IntegrityError:
        said = _("A key was taken, or a row deleted, in this very moment. Look again.")
        messages.error(request, _("Nothing was written: %s") % said)
    except (PipeteerError, DatabaseError) as error:
        messages.error(request, _("Nothing was written: %s") % error)
    else:
        told = [ngettext("%(count)d entry was added.", "%(count)d entries were added.", added) % {"count": added}]
        if left:
            said = ngettext("%(count)d was there already.", "%(count)d were there already.", left)
            told.append(said % {"count": left})
        messages.add_message(request, messages.SUCCESS if added else messages.WARNING, " ".join(told))
        return True
    return False


def _away(request: HttpRequest, model_admin: Any) -> HttpResponseRedirect:
    site = model_admin.admin_site
    may = model_admin.has_view_or_change_permission(request)
    there = page_of(site, model_admin.model, "changelist") if may else None
    return HttpResponseRedirect(there or reverse("admin:index", current_app=site.name))


def _page(request: HttpRequest, model_admin: Any, form: ImportForm, plan: Plan | None) -> TemplateResponse:
    opts = model_admin.opts
    context = {
        **model_admin.admin_site.each_context(request),
        "title": _("Import %s") % opts.verbose_name_plural,
        "subtitle": None,
        "opts": opts,
        "media": model_admin.media,
        "form": form,
        "plan": plan,
        "document": form.cleaned_data["document"] if plan is not None else "",
        "more": max(len(plan.entries) - SHOWN, 0) if plan is not None else 0,
        "most": f"{model_admin.most_per_action:,}",
        "may_list": model_admin.has_view_or_change_permission(request),
    }
    request.current_app = model_admin.admin_site.name
    return TemplateResponse(request, "admin/pipeteer_django/import.html", context)
