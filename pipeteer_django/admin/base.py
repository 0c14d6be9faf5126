"""The admin of a queue. Subclass InputAdmin to have your own: `@admin.register(QuadInput)` wins."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE
from django.contrib.admin.widgets import ForeignKeyRawIdWidget
from django.core.exceptions import ImproperlyConfigured, PermissionDenied, ValidationError
from django.db import DatabaseError, OperationalError, router
from django.db.models import ForeignKey, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.text import Truncator
from django.utils.timesince import timesince
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_POST

from pipeteer_django.admin import actions, filters, links
from pipeteer_django.admin.below import open_below, said_of
from pipeteer_django.admin.exchange import page as exchange
from pipeteer_django.admin.forms import CHANGED_MEANWHILE, InputForm
from pipeteer_django.admin.inbox import page as inbox
from pipeteer_django.admin.lists import ListAdmin, ending
from pipeteer_django.admin.readable import of_column
from pipeteer_django.admin.run import page as runpage
from pipeteer_django.admin.states import badge, now_of, state_of
from pipeteer_django.admin.valueform.field import value_field
from pipeteer_django.exceptions import EntryChanged, PipeteerError
from pipeteer_django.models import Queue
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.arrivals import new_key
from pipeteer_django.queues.database import DatabaseNow
from pipeteer_django.queues.guards import USER_COLUMNS

SHOWN = 100
"""Characters of a value or an error in a list."""


_PAGES = {"workflow": ("run", _("Run")), "task": ("answer", _("Answer"))}
"""The pages of entries besides their forms: name and label, by kind of pipeline."""


class Careful(ListAdmin):
    """Mixin: what cannot be written as it was asked for is told, and never half done."""

    most_per_action: int = 10_000
    """One action takes no more entries than this, so that its request ends."""

    def get_search_results(self, request: Any, queryset: QuerySet[Any], search_term: str) -> tuple[Any, bool]:
        """Where the value is a model's row, its id finds the entries about it: that column has an index."""
        if (about := self._about(queryset, search_term)) is not None and about.exists():
            return about, False
        return super().get_search_results(request, queryset, search_term)

    def _about(self, queryset: QuerySet[Any], term: str) -> QuerySet[Any] | None:
        field = self.opts.get_field("value")
        if not term or not isinstance(field, ForeignKey):
            return None
        try:
            return queryset.filter(Q(value=field.target_field.clean(term, None)) | Q(key=term))
        except ValidationError:
            return None

    def changeform_view(
        self, request: Any, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Django's, which rolls back what fails; the failure becomes a message."""
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except (PipeteerError, DatabaseError) as error:
            return self._refused(request, error)

    def delete_view(self, request: Any, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Likewise."""
        try:
            return super().delete_view(request, object_id, extra_context)
        except (EntryChanged, OperationalError) as error:
            return self._refused(request, error)

    def delete_model(self, request: Any, obj: Any) -> None:
        """Raises EntryChanged where it has gone by itself, so that no log says that somebody deleted it."""
        if not obj.delete()[0]:
            raise EntryChanged(f"{obj} had already gone.")

    def _refused(self, request: Any, error: Exception) -> HttpResponse:
        if request.method != "POST":
            raise error
        said = (
            CHANGED_MEANWHILE if isinstance(error, EntryChanged) else _("Nothing was written: %s") % actions.why(error)
        )
        self.message_user(request, said, messages.ERROR)
        return HttpResponseRedirect(request.get_full_path())

    def formfield_for_dbfield(self, db_field: Any, request: Any, **kwargs: Any) -> Any:
        """A value is a form built from its type; that of a model is a foreign key, and Django's."""
        value_type = getattr(db_field, "value_type", None)
        if db_field.name != "value" or value_type is None or value_type.kind == "model":
            return super().formfield_for_dbfield(db_field, request, **kwargs)
        return value_field(db_field, admin_site=self.admin_site)

    @admin.display(description=_("value"))
    def value_shown(self, row: Any) -> str:
        """The value for who may not change it."""
        column: Any = self.opts.get_field("value")
        return of_column(row, "value", column.value_type, self.admin_site)

    def get_fieldsets(self, request: Any, obj: Any = None) -> Any:
        """Django's, with a value that is read easily where it cannot be changed."""
        return self.readable(super().get_fieldsets(request, obj), request, obj)

    def readable(self, fieldsets: Any, request: Any, obj: Any) -> Any:
        """The same fieldsets, for who may not change the row."""
        if obj is None or self.has_change_permission(request, obj):
            return fieldsets
        return [
            (title, {**options, "fields": ["value_shown" if name == "value" else name for name in options["fields"]]})
            for title, options in fieldsets
        ]

    def formfield_for_foreignkey(self, db_field: Any, request: Any, **kwargs: Any) -> Any:
        """A model's row is named by its id: a list of all of them could be long. `autocomplete_fields` are as ever."""
        if db_field.name not in self.get_autocomplete_fields(request):
            using = kwargs.get("using")
            kwargs.setdefault("widget", ForeignKeyRawIdWidget(db_field.remote_field, self.admin_site, using=using))
        return super().formfield_for_foreignkey(db_field, request, **kwargs)


class InputAdmin(Careful):
    """One queue: what is in it, and what people may do with it."""

    form = InputForm
    change_form_template = "admin/pipeteer_django/change_form.html"
    list_display: Any = [
        "key", "state_label", "attempt", "age", "worker", "until", "progress_shown", "error_summary",
    ]  # fmt: skip
    list_display_links: Any = ["key"]
    sortable_by: ClassVar[Any] = ["age"]
    list_filter: ClassVar[Any] = [filters.StateFilter, filters.OutputFilter, filters.TimeFilter]
    list_defer: ClassVar[Any] = ("value", "error")
    search_fields: ClassVar[Any] = ["key"]
    search_ordering: ClassVar[Any] = ["key"]
    search_help_text: ClassVar[Any] = _(
        "A whole key, or how it begins. Capitals matter. Where the value is a row of a model, also that row's id."
    )
    actions: Any = [
        actions.retry, actions.run_now, actions.release, actions.restart, actions.cancel, actions.reroute,
        actions.complete, actions.delete_entries, exchange.export,
    ]  # fmt: skip
    state_fields: ClassVar[Any] = [
        "state_label", "attempt", "crashes", "worker", "until", "progress_shown", "called_by", "created_at",
        "started_at", "failed_at", "epoch",
    ]  # fmt: skip
    """The engine's columns on the form, which nobody can edit."""

    def __init__(self, model: Any, admin_site: Any) -> None:
        super().__init__(model, admin_site)
        if model.pipeline.kind != "workflow":
            self.actions = [action for action in self.actions or () if not getattr(action, "for_workflows", False)]

    # What is read

    def get_queryset(self, request: Any) -> QuerySet[Any]:
        """All entries, each with the database's time, by which its state is judged."""
        rows: Any = super().get_queryset(request)
        annotated: QuerySet[Any] = rows.annotate(database_now=DatabaseNow())
        return annotated

    def listed(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        """The end of an error is enough."""
        annotated: QuerySet[Any] = super().listed(rows).annotate(error_end=ending("error", 5 * SHOWN))
        return annotated

    # Columns

    @admin.display(description=_("state"))
    def state_label(self, entry: Any) -> str:
        """In which state it was when the page was made."""
        return badge(state_of(entry))

    @admin.display(description=_("age"), ordering="-id")
    def age(self, entry: Any) -> str:
        """Since it came."""
        return timesince(entry.created_at, now_of(entry), depth=1)

    @admin.display(description=_("worker"))
    def worker(self, entry: Any) -> str:
        """Who has it, while somebody has."""
        return str(entry.reserved_by) if state_of(entry) == "running" else ""

    @admin.display(description=_("until"))
    def until(self, entry: Any) -> str:
        """How much is left of the lease, or when it is due."""
        if entry.available_at is None or state_of(entry) == "ready":
            return ""
        left = entry.available_at - now_of(entry)
        if left.total_seconds() < 120:
            return gettext("%(count)d s") % {"count": left.total_seconds()}
        return timesince(now_of(entry), entry.available_at, depth=1)

    @admin.display(description=_("progress"))
    def progress_shown(self, entry: Any) -> str:
        """What a workflow said last."""
        share = "" if entry.progress is None else f"{entry.progress:.0%}"
        return " ".join(filter(None, [share, entry.progress_text]))

    @admin.display(description=_("error"))
    def error_summary(self, entry: Any) -> str:
        """The last line of the last failure."""
        lines = getattr(entry, "error_end", entry.error if "error" in entry.__dict__ else "").strip().splitlines()
        return Truncator(lines[-1]).chars(SHOWN) if lines else ""

    @admin.display(description=_("error"))
    def traceback(self, entry: Any) -> str:
        """The whole of it, as text."""
        return format_html('<pre class="pipeteer-traceback">{}</pre>', entry.error)

    @admin.display(description=_("called by"))
    def called_by(self, entry: Any) -> str:
        """The run that waits for it, with a link to the step that asked."""
        return _caller(self.admin_site, entry)

    @admin.display(description="")
    def page(self, entry: Any) -> str:
        """The way to the page of a workflow's run, or to where a task is answered."""
        name, label = _PAGES[self.model.pipeline.kind]
        address = links.page_of(self.admin_site, self.model, name, entry.pk)
        return format_html('<a href="{}">{}</a>', address, label) if address else ""

    def get_list_display(self, request: Any) -> Any:
        """With that way, where there is one."""
        shown = [*super().get_list_display(request)]
        if self.model.pipeline.kind in _PAGES and "key" in shown:
            shown.insert(shown.index("key") + 1, "page")
        return shown

    # The form

    def get_form(self, request: Any, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """The form's class. Whatever else it is, it is an InputForm, because that knows which row was shown."""
        form = super().get_form(request, obj, change=change, **kwargs)
        if not issubclass(form, InputForm):
            raise ImproperlyConfigured(f"{type(self).__name__}.form must be a subclass of InputForm.")
        return form

    def get_fieldsets(self, request: Any, obj: Any = None) -> Any:
        """What is the user's, what is the engine's, and the error if there is one."""
        if self.fieldsets or self.fields:
            return super().get_fieldsets(request, obj)
        mine = [name for name in USER_COLUMNS if self.opts.get_field(name).editable]
        if obj is None:
            return [(None, {"fields": mine})]
        engine = {"fields": list(self.state_fields), "description": _("Written by the engine, and only by it.")}
        error = [(_("Last failure"), {"fields": ["traceback"]})] if obj.error else []
        return self.readable([(None, {"fields": mine}), (_("State"), engine), *error], request, obj)

    def get_readonly_fields(self, request: Any, obj: Any = None) -> Any:
        """The engine's columns; the due time, too, where it is a lease or a wake-up of the engine's."""
        engines = obj is not None and (obj.reserved_by or obj.suspended or obj.failed_at)
        moved = ["available_at"] if engines else []
        return [*super().get_readonly_fields(request, obj), *self.state_fields, "traceback", *moved]

    def get_changeform_initial_data(self, request: Any) -> Any:
        """A new entry gets a key of its own, and may run at once."""
        return {"key": new_key(), "available_at": None} | super().get_changeform_initial_data(request)

    def render_change_form(
        self, request: Any, context: Any, add: bool = False, change: bool = False, form_url: str = "", obj: Any = None
    ) -> Any:
        """With the entry's state, for the note above the form, and the way to its page."""
        way = self.page(obj) if obj is not None and self.model.pipeline.kind in _PAGES else ""
        context |= {"pipeteer_state": state_of(obj) if obj is not None else "", "pipeteer_page": way}
        return super().render_change_form(request, context, add, change, form_url, obj)

    def save_model(self, request: Any, obj: Any, form: Any, change: bool) -> None:
        """Enqueue a new entry; of an old one write what was changed, if it is still as the page showed it."""
        if change:
            obj.save(update_fields=[name for name in USER_COLUMNS if name in form.changed_data])
        else:
            obj.save()

    # Deleting

    def get_deleted_objects(self, objs: Any, request: Any) -> Any:
        """Django's, and the open entries that a workflow takes with it."""
        objects, counts, lacking, protected = super().get_deleted_objects(objs, request)
        using, pipeline = router.db_for_write(self.model), self.model.pipeline
        below = open_below(pipeline, using, [entry.pk for entry in objs], actions.COUNTED)
        for child, count in below.items():
            name = registry.find(child).Input._meta.verbose_name_plural
            counts[name] = counts.get(name, 0) + count
        return [*objects, *said_of(below, actions.COUNTED)], counts, lacking, protected

    # Actions, and the queue as a whole

    def get_urls(self) -> Any:
        """Django's, the switch that holds the queue, the import; a workflow's runs, a task's inbox."""
        name = f"{self.opts.app_label}_{self.opts.model_name}_hold"
        view = self.admin_site.admin_view(require_POST(self.hold_view))
        pages = [*runpage.urls(self), *inbox.urls(self), *exchange.urls(self)]
        return [path("hold/", view, name=name), *pages, *super().get_urls()]

    def hold_view(self, request: HttpRequest) -> HttpResponse:
        """POST `held=1` or `held=0`: workers claim nothing from a held queue."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        pipeline, held = self.model.pipeline, request.POST.get("held") == "1"
        set_held(request, pipeline, held)
        said = _("The queue is held: workers claim nothing from it.") if held else _("The queue goes on.")
        self.message_user(request, said, messages.SUCCESS)
        return HttpResponseRedirect(reverse(self._url("changelist"), current_app=self.admin_site.name))

    def changelist_view(self, request: Any, extra_context: Any = None) -> HttpResponse:
        """With the switch, and the way to the import."""
        using = router.db_for_write(self.model)
        held = Queue.objects.using(using).filter(pipeline=self.model.pipeline.id, held=True).exists()
        hold_url = reverse(self._url("hold"), current_app=self.admin_site.name)
        may = self.has_change_permission(request)
        switch = {
            "pipeteer_held": held,
            "pipeteer_hold_url": hold_url if may else "",
            "pipeteer_import_url": exchange.address(self, request),
            "pipeteer_inbox_url": links.page_of(self.admin_site, self.model, "inbox"),
        }
        return super().changelist_view(request, switch | (extra_context or {}))

    def _url(self, page: str) -> str:
        return f"admin:{self.opts.app_label}_{self.opts.model_name}_{page}"


def set_held(request: Any, pipeline: Any, held: bool) -> None:
    """Hold a queue or let it go on, write that down, and wake its workers."""
    using = router.db_for_write(pipeline.Input)
    queue, _created = Queue.objects.using(using).update_or_create(pipeline=pipeline.id, defaults={"held": held})
    actions.log(request, [queue], CHANGE, str(_("Held") if held else _("Went on")))
    pipeline.Input.objects.notify()


def _caller(site: Any, entry: Any) -> str:
    asker = links.askers([entry], router.db_for_write(type(entry))).get((entry.caller, entry.step_id))
    if asker is None:
        return str(entry.caller)
    said = gettext("%(workflow)s, run %(run)s") % {"workflow": entry.caller, "run": asker[0]}
    address = links.run_of(site, entry.caller, *asker)
    return format_html('<a href="{}">{}</a>', address, said) if address else said
