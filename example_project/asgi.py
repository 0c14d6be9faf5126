import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")

http = get_asgi_application()  # loads Django, and with it the models that the next lines need

from example_project.shop.live import FollowOrder  # noqa: E402
from pipeteer_django.live.routing import application as with_sockets  # noqa: E402

application = with_sockets(http, FollowOrder.sockets)
