"""The filters at the side of a list. None of them counts, or looks through the table for its choices."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from pipeteer_django.admin.states import STATES

_NEWEST = 1000


class StateFilter(admin.SimpleListFilter):
    """By state, with the predicates of the QuerySet."""

    title = _("state")
    parameter_name = "state"

    def lookups(self, request: Any, model_admin: Any) -> Any:
        """All states."""
        return list(STATES.items())

    def queryset(self, request: Any, queryset: Any) -> Any:
        """The entries in that state."""
        state = self.value()
        return getattr(queryset, state)() if state in STATES else queryset


class OutputFilter(admin.SimpleListFilter):
    """By the output's name. Offered are those of the newest rows; any other can be typed into the address."""

    title = _("output")
    parameter_name = "output"
    template = "admin/filter.html"

    def lookups(self, request: Any, model_admin: Any) -> Any:
        """The names that the newest rows have, and the one that is chosen."""
        newest = model_admin.model._default_manager.order_by("-pk").values_list("output", flat=True)[:_NEWEST]
        chosen = {request.GET[self.parameter_name]} if request.GET.get(self.parameter_name) else set()
        return [(name, name) for name in sorted({*newest, *chosen})]

    def has_output(self) -> bool:
        """Also where there is but one name: it could be chosen already."""
        return bool(self.lookup_choices)

    def queryset(self, request: Any, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The rows with that output."""
        return queryset.filter(output=self.value()) if self.value() else queryset


class TimeFilter(admin.SimpleListFilter):
    """By time, which is a range of ids, because these are given in the order of time."""

    title = _("time")
    parameter_name = "since"

    def lookups(self, request: Any, model_admin: Any) -> Any:
        """Some periods; `-` means what is older."""
        return [
            ("1", _("Past hour")),
            ("24", _("Past 24 hours")),
            ("168", _("Past 7 days")),
            ("-24", _("Older than 24 hours")),
            ("-168", _("Older than 7 days")),
        ]

    def __init__(self, request: Any, params: Any, model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        self._column = model_admin.time_column
        self._rows = model._default_manager.all()

    def queryset(self, request: Any, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The rows of that period."""
        chosen = self.value()
        if chosen not in dict(self.lookup_choices):
            return queryset
        first = first_since(self._rows, self._column, timezone.now() - timedelta(hours=abs(int(str(chosen)))))
        if first is None:
            return queryset
        return queryset.filter(pk__lt=first) if str(chosen).startswith("-") else queryset.filter(pk__gte=first)


def first_since(rows: QuerySet[Any], column: str, moment: datetime) -> int | None:
    """The id from which on rows are from `moment` or later, found by halving; None where there are no rows."""
    ends = rows.order_by("pk").values_list("pk", flat=True)
    low, high = ends.first(), ends.last()
    while low is not None and high is not None and low <= high:
        middle = (low + high) // 2
        there = rows.filter(pk__gte=middle).order_by("pk").values_list("pk", column).first()
        if there is None or there[1] >= moment:
            high = middle - 1
        else:
            low = there[0] + 1
    found: int | None = low
    return found
