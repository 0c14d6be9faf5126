"""An admin site of these tests' own: whatever else the package registers, this is what they look at."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.urls import path

from pipeteer_django.admin.run import page as runpage
from pipeteer_django.pipelines.registry import registry
from tests.testapp import pipelines as made


class EntryAdmin(admin.ModelAdmin):
    """The least admin of an Input that has the page of a run."""

    def get_urls(self) -> list[Any]:
        """The runs' pages, then the admin's own."""
        return [*runpage.urls(self), *super().get_urls()]


site = admin.AdminSite()
for _pipeline in registry:
    if _pipeline.__module__ == made.__name__:
        site.register(_pipeline.Input, EntryAdmin)

urlpatterns = [path("admin/", site.urls)]
