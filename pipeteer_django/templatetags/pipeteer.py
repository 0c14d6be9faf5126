"""`{% load pipeteer %}`: parts of a page that keep themselves up to date. See docs/live-pages.md."""

from __future__ import annotations

from django import template
from django.contrib.messages import get_messages
from django.contrib.messages.storage.base import BaseStorage
from django.urls import get_script_prefix
from django.utils.html import format_html
from django.utils.safestring import SafeString

from pipeteer_django.conf import settings

register = template.Library()

FETCHED = "pipeteer"
"""What the script says in X-Requested-With. Messages on such a page are not shown, and must not be used up."""


@register.inclusion_tag("pipeteer_django/live.html", takes_context=True)
def live_status(context: template.Context) -> dict[str, str]:
    """What a page needs once: the script, and a line that says whether the page is live."""
    request = context.get("request")
    if request is not None and request.headers.get("X-Requested-With") == FETCHED:
        shown = get_messages(request)
        if isinstance(shown, BaseStorage):  # else the project has no messages
            shown.used = False
    return {"socket": get_script_prefix() + settings().LIVE_PATH}


@register.simple_block_tag
def live_region(content: str, id: str, *, socket: str = "", url: str = "") -> SafeString:
    """A part of a page that is fetched again when its socket speaks, and every 10 seconds where there is no socket.

    `socket` is the path of the socket, below the site's root; `url` answers the part, or a page with it (the page
    itself, if absent).
    """
    path = get_script_prefix() + socket.removeprefix("/") if socket else ""
    return format_html(
        '<div id="{}" data-pipeteer-live data-pipeteer-socket="{}" data-pipeteer-url="{}">{}</div>',
        id, path, url, content,
    )  # fmt: skip
