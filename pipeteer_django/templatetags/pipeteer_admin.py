"""What the admin's templates show of queues: values as people read them, and the panel of the first page."""

from __future__ import annotations

from typing import Any

from django import template
from django.db import DatabaseError
from django.utils.safestring import SafeString

from pipeteer_django.admin.inbox.rows import all_of, inboxes
from pipeteer_django.admin.links import may_see, page_of
from pipeteer_django.admin.readable import of_text
from pipeteer_django.admin.words import Text, json_text
from pipeteer_django.models import Queue
from pipeteer_django.pipelines.registry import registry

register = template.Library()


@register.filter
def readable(text: Text) -> SafeString:
    """A value without brackets and quotes."""
    return of_text(text)


@register.filter
def pretty(text: Text) -> str:
    """A value as JSON on several lines."""
    return json_text(text.plain, indent=2).text


@register.inclusion_tag("admin/pipeteer_django/panel.html", takes_context=True)
def pipeteer_panel(context: Any) -> dict[str, Any]:
    """The inboxes of this user with what waits, and the dashboard; nothing but on the first page of an admin site."""
    request = context.get("request")
    match = getattr(request, "resolver_match", None)
    site = getattr(match.func, "admin_site", None) if match is not None and match.url_name == "index" else None
    if site is None:
        return {}
    found = list(inboxes(site, request))
    try:
        anything = sum(inbox.count for inbox in found) > 0
    except DatabaseError:  # a table that is yet to be migrated: the way to the rest of the admin stays open
        return {}
    return {
        "inboxes": found,
        "anything": anything,
        "all_url": all_of(site),
        "dashboard": page_of(site, Queue, "dashboard") if _may_see_any(site, request) else None,
    }


def _may_see_any(site: Any, request: Any) -> bool:
    return any(may_see(site, request, pipeline) for pipeline in registry if pipeline.attached)
