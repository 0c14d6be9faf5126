"""The admin of what runs leave: results, which can be corrected, and the record of workflows, which cannot."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.db import models
from django.db.models import QuerySet
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from pipeteer_django.admin import actions, filters
from pipeteer_django.admin.base import SHOWN, Careful, InputAdmin
from pipeteer_django.admin.lists import ListAdmin, beginning


class OutputAdmin(Careful):
    """The results of a pipeline. A value can be corrected; who ran it and who consumed it cannot."""

    list_display: Any = ["key", "value_summary", "output", "attempt", "finished_at", "consumed_at"]
    sortable_by: ClassVar[Any] = []
    list_filter: ClassVar[Any] = [filters.OutputFilter, filters.TimeFilter, ("consumed_at", admin.EmptyFieldListFilter)]
    list_defer: ClassVar[Any] = ("value", "param")
    search_fields: ClassVar[Any] = ["key"]
    search_help_text: ClassVar[Any] = InputAdmin.search_help_text
    time_column = "finished_at"
    actions: Any = [actions.delete_outputs]
    editable: ClassVar[Any] = ("value", "output")

    def listed(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        """The beginning of a value is enough where it may be long; a model's row is read with its output."""
        there = {field.name for field in self.opts.concrete_fields}
        field = self.opts.get_field("value")
        if isinstance(field, models.ForeignKey):
            return rows.defer(*(there & {"param"})).select_related("value")
        shown = [name for name in self.list_defer if name in there and name not in self.list_display]
        if not isinstance(field, models.JSONField | models.TextField):
            return rows.defer(*[name for name in shown if name != "value"])
        annotated: QuerySet[Any] = rows.defer(*shown).annotate(value_start=beginning("value", SHOWN + 1))
        return annotated

    @admin.display(description=_("value"))
    def value_summary(self, output: Any) -> str:
        """The value, or how it begins."""
        value = output.value_start if hasattr(output, "value_start") else output.value
        return Truncator(str(value)).chars(SHOWN)

    def get_readonly_fields(self, request: Any, obj: Any = None) -> Any:
        """All but `editable`."""
        names = [field.name for field in self.opts.concrete_fields if field.name not in self.editable]
        return [*super().get_readonly_fields(request, obj), *names]

    def has_add_permission(self, request: Any) -> bool:
        """Results come from runs."""
        return False

    def save_model(self, request: Any, obj: Any, form: Any, change: bool) -> None:
        """Write what was changed and nothing else: somebody may consume it at the same time."""
        obj.save(update_fields=[name for name in self.editable if name in form.changed_data])


class ReadOnlyAdmin(ListAdmin):
    """What people may look at, and nobody may change by hand."""

    actions = None

    def has_add_permission(self, request: Any) -> bool:
        """No."""
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        """No."""
        return False

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:
        """No."""
        return False


class OfRuns(ReadOnlyAdmin):
    """Mixin for what belongs to runs, found by their ids."""

    search_fields: ClassVar[Any] = ["run_id"]
    search_help_text: ClassVar[Any] = _("The id of a run.")

    def get_search_results(self, request: Any, queryset: QuerySet[Any], search_term: str) -> tuple[Any, bool]:
        """What belongs to that run, in the order of its index."""
        if not search_term:
            return queryset, False
        run = search_term.strip()
        is_id = run.isascii() and run.isdecimal() and len(run) < 19
        return (queryset.filter(run_id=int(run)) if is_id else queryset.none()), False


class StepAdmin(OfRuns):
    """What runs of a workflow have recorded."""

    list_display: Any = [
        "index",
        "pipeline",
        "run_id",
        "branch",
        "created_at",
        "done_at",
        "cancelled_at",
        "order",
    ]
    list_defer: ClassVar[Any] = ("param", "result", "error")
    sortable_by: ClassVar[Any] = []
    list_filter: ClassVar[Any] = [filters.TimeFilter]


class MessageAdmin(OfRuns):
    """What was sent to runs of a workflow."""

    list_display: Any = ["name", "run_id", "sent_at", "branch", "order"]
    list_defer: ClassVar[Any] = ("value",)
    sortable_by: ClassVar[Any] = []
    list_filter: ClassVar[Any] = [filters.TimeFilter]
    time_column = "sent_at"
