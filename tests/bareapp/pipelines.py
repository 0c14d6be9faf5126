"""The only module of an app that has no models.py: its queues need tables and permissions all the same."""

import pipeteer_django as pipeteer


@pipeteer.activity()
def bare(x: int) -> int:
    """Return `x` plus one."""
    return x + 1
