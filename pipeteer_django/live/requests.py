"""A socket's handshake as a request of Django's own kind, so that permissions are asked as everywhere."""

from __future__ import annotations

from importlib import import_module
from io import BytesIO
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user
from django.core.handlers.asgi import ASGIRequest


def request_of(scope: dict[str, Any]) -> ASGIRequest:
    """The request, with user and session read anew: what was true when the socket opened may be over.

    Called on a thread where the ORM may be used. Without a session in the scope (AuthMiddlewareStack puts it there)
    nobody is logged in.
    """
    request = ASGIRequest(scope | {"type": "http", "method": "GET"}, BytesIO())
    key = scope["session"].session_key if "session" in scope else None
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(key)
    request.user = get_user(request)  # an inactive user, or one with a new password, is nobody
    return request
