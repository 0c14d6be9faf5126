"""What the tests' daphne serves."""

from django.core.asgi import get_asgi_application

http = get_asgi_application()

from pipeteer_django.live.routing import application as with_sockets  # noqa: E402

application = with_sockets(http)
