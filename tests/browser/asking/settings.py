"""The example project with this app, and with a Content-Security-Policy that allows nothing but files of the site."""

from example_project.settings import *  # noqa: F403
from example_project.settings import INSTALLED_APPS, MIDDLEWARE

INSTALLED_APPS = [*INSTALLED_APPS, "tests.browser.asking"]
MIDDLEWARE = ["tests.browser.asking.policy.strict", *MIDDLEWARE]
