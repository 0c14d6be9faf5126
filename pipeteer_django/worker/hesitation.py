"""Fifty idle workers and one new entry: who found work last looks at once, the others wait whether he has taken it."""

from __future__ import annotations

import random

_FIRST = 0.005
_LONGEST = 0.25
"""Seconds. So much later may an entry begin whose hint was left to a worker that then had no place for it."""

TAKEN = ":taken:"
"""How the topics begin by which a worker says that it followed a hint and left nothing; the pipeline's id follows."""


class Hesitation:
    """How long a worker waits before it follows a hint: not at all, while hints lead it to work; else at random.

    Like the backoff of a network: nobody knows how many others there are, but whoever comes too late each time stands
    back. A hint that somebody else has followed meanwhile need not be followed at all.
    """

    def __init__(self) -> None:
        self._most = 0.0

    @property
    def stands_back(self) -> bool:
        """Whether others come first."""
        return self._most > 0

    def pause(self) -> float:
        """Seconds to wait before the next hint is followed."""
        return random.uniform(0.5, 1.0) * self._most

    def found(self) -> None:
        """It had work."""
        self._most = 0.0

    def in_vain(self) -> None:
        """It followed a hint and found nothing."""
        self._most = min(_LONGEST, max(_FIRST, 2 * self._most))
