"""Settings in `tests.prove.availability`: the tests' own, and over them docs/deployment/settings.py."""

import json
import os
from runpy import run_path

from tests.prove.availability_cluster import FILES
from tests.settings import *  # noqa: F403

_DEPLOYED = run_path(str(FILES / "settings.py"))
DATABASES = _DEPLOYED["DATABASES"]
PIPETEER = _DEPLOYED["PIPETEER"] | json.loads(os.environ.get("AVAILABILITY_SETTINGS", "{}"))
