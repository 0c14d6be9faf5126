"""The example project with django-unfold's pages around ours, and nothing else changed for it."""

from example_project.settings import *  # noqa: F403
from example_project.settings import INSTALLED_APPS

_ours = "pipeteer_django"
INSTALLED_APPS = [_ours, "unfold", *(app for app in INSTALLED_APPS if app != _ours)]
