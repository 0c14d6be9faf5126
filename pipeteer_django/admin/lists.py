"""Lists of tables that may have a million rows: nothing is counted or sorted, and long columns stay where they are."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ORDER_VAR, PAGE_VAR, ChangeList
from django.core.paginator import Paginator
from django.db import models
from django.db.models import QuerySet
from django.db.models.functions import Cast, Left, Right

from pipeteer_django.pipelines.registry import registry

LAST_PAGE = 10_000
"""Further back nobody leafs, and OFFSET would get slow: that is what filters and the search are for."""


class Pages(ChangeList):
    """Pages with a next and a previous one, of a list whose length nobody asked for."""

    model_admin: Any
    page_num: int
    list_per_page: int

    def get_ordering_field(self, field_name: Any) -> Any:
        """Nothing else is sorted by, whatever an address asks for."""
        offered = self.sortable_by is None or field_name in self.sortable_by
        return super().get_ordering_field(field_name) if offered else None

    def get_ordering(self, request: Any, queryset: QuerySet[Any]) -> list[Any]:
        """As chosen, without the usual order behind it: a unique column's index is then order enough."""
        chosen: list[Any] = super().get_ordering(request, queryset.order_by())
        return chosen

    def get_results(self, request: Any) -> None:
        """Read this page and one row more, which tells whether there is a next page.

        A page of which all rows have gone is empty, and no error: an action that is confirmed on it must arrive.
        """
        if not 1 <= self.page_num <= LAST_PAGE:
            raise IncorrectLookupParameters
        first = (self.page_num - 1) * self.list_per_page
        rows = list(self.model_admin.listed(self.queryset)[first : first + self.list_per_page + 1])
        self.has_next = len(rows) > self.list_per_page and self.page_num < LAST_PAGE
        self.result_list: Any = rows[: self.list_per_page]
        # What the admin's templates and tags ask for. Equal counts: "nothing to say about counts".
        self.result_count = self.full_result_count = first + len(self.result_list)
        self.show_full_result_count = False
        self.show_admin_actions = True
        self.can_show_all = False
        self.multi_page = self.has_next or self.page_num > 1
        self.paginator = Paginator(self.result_list, self.list_per_page)

    @property
    def live_queues(self) -> str:
        """The queue by which the page is kept up to date; all of them for tables that belong to no pipeline."""
        return next((pipeline.id for pipeline in registry if self.model in pipeline.models.values()), "*")

    @property
    def previous_page(self) -> str:
        """The query string of the page before this one, or ""."""
        return self.get_query_string({PAGE_VAR: self.page_num - 1}) if self.page_num > 1 else ""

    @property
    def next_page(self) -> str:
        """The query string of the page after this one, or ""."""
        return self.get_query_string({PAGE_VAR: self.page_num + 1}) if self.has_next else ""


class ListAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """What all lists of this package share. Subclasses must not set `list_editable`: it knows no epochs."""

    change_list_template = "admin/pipeteer_django/change_list.html"
    ordering: ClassVar[Any] = ["-id"]
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 100
    list_defer: ClassVar[Any] = ()
    """Columns that a list does not read unless it shows them: what may be large."""
    search_column = "key"
    search_ordering: ClassVar[Any] = ["key", "id"]
    """The order of the index that the search walks."""
    time_column = "created_at"
    """The column that grows with the id, by which the time filter goes."""

    class Media:
        css: ClassVar[Any] = {"all": ["pipeteer_django/admin.css", "pipeteer_django/readable.css"]}

    def get_changelist(self, request: Any, **kwargs: Any) -> type[ChangeList]:
        """The list that counts nothing."""
        return Pages

    def listed(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        """The rows of a page: without large columns, of which `beginning` and `ending` bring a part."""
        return rows.defer(*[name for name in self.list_defer if name not in self.list_display])

    def get_search_results(self, request: Any, queryset: QuerySet[Any], search_term: str) -> tuple[Any, bool]:
        """Names that are, or begin with, what was asked for: a range of their index, in its order."""
        if not search_term:
            return queryset, False
        found = queryset.filter(**begins_with(self.search_column, search_term))
        if not request.GET.get(ORDER_VAR):
            found = found.order_by(*self.search_ordering)
        return found, False


def begins_with(column: str, prefix: str) -> dict[str, str]:
    """The condition that a name in a KeyField is or begins with `prefix`: a range of its index."""
    return {f"{column}__gte": prefix, f"{column}__lt": f"{prefix}\U0010ffff"}


def beginning(column: str, length: int) -> Left:
    """The first characters of a text or JSON column, cut by the database."""
    return Left(Cast(column, models.TextField()), length)


def ending(column: str, length: int) -> Right:
    """The last characters of a text column, cut by the database."""
    return Right(column, length)
