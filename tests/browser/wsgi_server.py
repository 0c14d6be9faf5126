"""`python -m tests.browser.wsgi_server PORT`: the example site without ASGI, as many sites are served."""

import os
import sys

from django.core.servers.basehttp import run
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")
application = get_wsgi_application()

from django.contrib.staticfiles.handlers import StaticFilesHandler  # noqa: E402

run("127.0.0.1", int(sys.argv[1]), StaticFilesHandler(application), threading=True)
