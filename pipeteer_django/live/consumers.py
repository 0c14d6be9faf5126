"""The socket of the admin's pages."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.http import HttpRequest

from pipeteer_django.live.watcher import Watcher
from pipeteer_django.pipelines.registry import registry


class QueuesConsumer(Watcher):
    """`?queues=quad,double` or `?queues=*`: ids of pipelines, or all that this user may view.

    Each needs the view permission of the site's admin for that queue's Input. For another site: a subclass with `site`.
    """

    site: ClassVar[admin.AdminSite] = admin.site

    def permitted(self, request: HttpRequest) -> frozenset[str]:
        """All that was asked for, or nothing."""
        if not self.site.has_permission(request):
            return frozenset()
        asked = request.GET.get("queues", "").split(",")
        if "*" in asked:
            return frozenset(pipeline.id for pipeline in registry if self._may_view(request, pipeline))
        if all((pipeline := registry.get(id)) and self._may_view(request, pipeline) for id in asked):
            return frozenset(asked)
        return frozenset()

    def _may_view(self, request: HttpRequest, pipeline: Any) -> bool:
        if not pipeline.attached or not self.site.is_registered(pipeline.Input):
            return False
        return bool(self.site.get_model_admin(pipeline.Input).has_view_permission(request))
