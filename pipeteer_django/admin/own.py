"""The admin of the package's own two tables."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.urls import path
from django.utils import timezone
from django.utils.timesince import timesince
from django.utils.translation import gettext_lazy as _

from pipeteer_django.admin.base import set_held
from pipeteer_django.admin.dashboard import page as dashboard
from pipeteer_django.admin.inbox import page as inbox
from pipeteer_django.admin.records import ReadOnlyAdmin
from pipeteer_django.models import Worker
from pipeteer_django.pipelines.registry import registry


class WorkerAdmin(ReadOnlyAdmin):
    """The worker processes that are alive, or were until lately."""

    list_display: Any = ["label", "doing", "heartbeat", "started_at", "pipelines"]
    sortable_by: ClassVar[Any] = []
    search_fields: ClassVar[Any] = ["label"]
    search_help_text: ClassVar[Any] = _("How the label begins.")
    search_column = "label"
    search_ordering: ClassVar[Any] = ["label"]

    @admin.display(description=_("last heartbeat"))
    def heartbeat(self, worker: Worker) -> str:
        """How long ago it was."""
        ago = (timezone.now() - worker.heartbeat_at).total_seconds()
        if ago < 120:
            return str(_("%(count)d s ago") % {"count": max(0, ago)})
        return str(_("%(time)s ago") % {"time": timesince(worker.heartbeat_at, depth=1)})


def _hold(model_admin: Any, request: Any, queryset: Any, held: bool) -> None:
    for queue in queryset:
        if (pipeline := registry.get(queue.pipeline)) is not None:
            set_held(request, pipeline, held)


@admin.action(permissions=["change"], description=_("Hold: workers claim nothing"))
def hold(model_admin: Any, request: Any, queryset: Any) -> None:
    """Hold the queues chosen."""
    _hold(model_admin, request, queryset, True)


@admin.action(permissions=["change"], description=_("Let go on"))
def resume(model_admin: Any, request: Any, queryset: Any) -> None:
    """Let the queues chosen go on."""
    _hold(model_admin, request, queryset, False)


class QueueAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """What can be changed about queues while workers run."""

    change_list_template = "admin/pipeteer_django/queue_list.html"
    list_display: Any = ["pipeline", "held"]
    list_filter: ClassVar[Any] = ["held"]
    search_fields: ClassVar[Any] = ["pipeline"]
    ordering: ClassVar[Any] = ["pipeline"]
    actions: Any = [hold, resume]
    show_facets = admin.ShowFacets.NEVER

    def get_urls(self) -> Any:
        """Django's, the dashboard, and the page of all inboxes; both show each queue to whom may see it."""
        view = self.admin_site.admin_view(partial(inbox.all_view, site=self.admin_site))
        all_inboxes = path("inbox/", view, name="pipeteer_django_queue_inbox")
        return [*dashboard.urls(self), all_inboxes, *super().get_urls()]

    def get_readonly_fields(self, request: Any, obj: Any = None) -> Any:
        """It stays the queue of its pipeline."""
        return ["pipeline"] if obj is not None else []

    def formfield_for_dbfield(self, db_field: Any, request: Any, **kwargs: Any) -> Any:
        """Choose among the pipelines that there are."""
        if db_field.name == "pipeline":
            ids = sorted(pipeline.id for pipeline in registry)
            return forms.ChoiceField(label=_("pipeline"), choices=[(id, id) for id in ids])
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def save_model(self, request: Any, obj: Any, form: Any, change: bool) -> None:
        """Its workers hear of it."""
        super().save_model(request, obj, form, change)
        if (pipeline := registry.get(obj.pipeline)) is not None:
            pipeline.Input.objects.notify()
