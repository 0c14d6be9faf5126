"""The pytest fixture `pipeteer`, found by pytest through an entry point.

pytest imports this file in every project where the package is installed, before any settings are there: so it imports
nothing of Django's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pipeteer_django.testing import Pipeteer


@pytest.fixture
def pipeteer(db: None) -> Iterator[Pipeteer]:
    """`pipeteer.drain(...)` runs what is in the queues. The test may use the database; wake-ups are off.

    It comes with pytest-django's `db`, so a mark `django_db(transaction=True)` or `transactional_db` holds here, too.
    """
    # `db` is a parameter, not asked for here: pytest-django makes only the databases of fixtures that it sees before.
    # Only now are settings configured and models loaded.
    from django.conf import settings
    from django.test import override_settings

    from pipeteer_django.testing import Pipeteer

    with override_settings(PIPETEER=getattr(settings, "PIPETEER", {}) | {"WAKEUPS": False}):
        yield Pipeteer()
