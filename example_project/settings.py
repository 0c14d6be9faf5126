"""Settings of the example project. `DATABASE_URL` chooses the database; without it, db.sqlite3 beside manage.py."""

import importlib.util
import os
from datetime import timedelta
from pathlib import Path

import django

from example_project.database_url import database

BASE_DIR = Path(__file__).resolve().parent.parent

DATABASES = {"default": database(os.environ.get("DATABASE_URL") or f"sqlite:///{BASE_DIR / 'db.sqlite3'}")}

# Every key has a default (see pipeteer_django/conf.py); the demo wants ports of its own and short leases.
PIPETEER = {
    "PUB_URL": os.environ.get("PIPETEER_PUB_URL", "tcp://127.0.0.1:5555"),
    "SUB_URL": os.environ.get("PIPETEER_SUB_URL", "tcp://127.0.0.1:5556"),
    "RESERVE": timedelta(seconds=float(os.environ.get("PIPETEER_RESERVE_SECONDS", "30"))),
}

INSTALLED_APPS = [
    # First, so that `runserver` is daphne's and speaks ASGI; without daphne it is Django's own.
    *(["daphne"] if importlib.util.find_spec("daphne") else []),
    "pipeteer_django",  # before the admin, to whose first page it adds what waits for people
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "example_project.arithmetic",
    "example_project.shop",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "example_project" / "templates"],
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
ROOT_URLCONF = "example_project.urls"
ASGI_APPLICATION = "example_project.asgi.application"
WSGI_APPLICATION = "example_project.wsgi.application"
STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "example_project" / "static"]

DEBUG = os.environ.get("DEBUG", "1") == "1"
SECRET_KEY = os.environ.get("SECRET_KEY", "an example, never to be used in production")
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").split(",")
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# Mails are printed: what `acknowledge` sends shows in the worker's log.
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": "django.core.mail.backends.console.EmailBackend"}}
else:
    EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"
