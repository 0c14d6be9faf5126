"""For asgi.py: the sockets, behind the checks that they need."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.urls import URLPattern, path

from pipeteer_django.conf import settings
from pipeteer_django.live.consumers import QueuesConsumer

websocket_urlpatterns = [path(settings().LIVE_PATH, QueuesConsumer.as_asgi())]


def application(http: Any, sockets: Iterable[URLPattern] = ()) -> Any:
    """`http` as before, and sockets: the admin's and your own. Only pages of ALLOWED_HOSTS may open them."""
    routes = URLRouter([*sockets, *websocket_urlpatterns])
    checked = AllowedHostsOriginValidator(AuthMiddlewareStack(routes))
    return ProtocolTypeRouter({"http": http, "websocket": checked})
