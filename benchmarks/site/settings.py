"""Settings of the benchmark's project: the smallest that runs pipelines, with every engine setting at its default."""

import os

from example_project.database_url import database

DATABASES = {"default": database(os.environ["DATABASE_URL"]) | {"CONN_MAX_AGE": None}}
PIPETEER = {
    "PUB_URL": os.environ.get("PIPETEER_PUB_URL", "tcp://127.0.0.1:5565"),
    "SUB_URL": os.environ.get("PIPETEER_SUB_URL", "tcp://127.0.0.1:5566"),
}
INSTALLED_APPS = ["pipeteer_django", "benchmarks.site.load"]
MIGRATION_MODULES = {"load": None}  # its tables are made by `migrate --run-syncdb`
DEBUG = False
SECRET_KEY = "benchmark"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
