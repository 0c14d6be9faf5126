"""Settings of the tests. `TEST_DATABASE` is sqlite (the default), postgres or mariadb; see databases.py.

Worker processes that a test starts use this module too: the fixture `worker_env` hands them the test database
(PIPETEER_TEST_DATABASE_NAME) and this run's ports (PIPETEER_TEST_PORTS). PIPETEER_TEST_WAKEUPS=0 turns wake-ups off.
PIPETEER_TEST_SETTINGS='{"POLL_INTERVAL": 30}' overrides single settings; a RESERVE is in seconds.
PIPETEER_TEST_HOSTS and PIPETEER_TEST_LAYER: see below.
"""

import json
import os
from datetime import timedelta

from example_project.processes import free_ports
from tests import databases

TEST_DATABASE = os.environ.get("TEST_DATABASE", "sqlite")
DATABASES = {"default": databases.entry(TEST_DATABASE, os.environ.get("PIPETEER_TEST_DATABASE_NAME"))}

_given_ports = os.environ.get("PIPETEER_TEST_PORTS")
PROXY_PORTS = [int(port) for port in _given_ports.split(",")] if _given_ports else free_ports(2)

PIPETEER = {
    "PUB_URL": f"tcp://127.0.0.1:{PROXY_PORTS[0]}",
    "SUB_URL": f"tcp://127.0.0.1:{PROXY_PORTS[1]}",
    "WAKEUPS": os.environ.get("PIPETEER_TEST_WAKEUPS", "1") != "0",
    "THREADS": 5,  # a thread is a connection, and many workers run beside one another
    "RESERVE": 2,
    "POLL_INTERVAL": 0.2,
    "SWEEP_INTERVAL": 1.0,
} | json.loads(os.environ.get("PIPETEER_TEST_SETTINGS", "{}"))
PIPETEER["RESERVE"] = timedelta(seconds=PIPETEER["RESERVE"])

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "pipeteer_django",
    "tests.testapp",
    "tests.bareapp",
    "tests.trouble",
    "tests.perils",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "tests.testapp.urls"
# "redis://127.0.0.1:6379 a-prefix": a channel layer for processes that serve pages or work.
_layer = os.environ.get("PIPETEER_TEST_LAYER", "").split()
if _layer:
    _config = {"hosts": [_layer[0]], "prefix": _layer[1]}
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": _config}}
SECRET_KEY = "only for tests"
ALLOWED_HOSTS = os.environ.get("PIPETEER_TEST_HOSTS", "*").split(",")
STATIC_URL = "static/"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
