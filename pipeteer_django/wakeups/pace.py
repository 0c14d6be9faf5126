"""How often hints are heeded: a flood of them, forged or not, costs a bounded amount, and the first one no time."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """`burst` times at once, and in the long run once every `every` seconds."""

    def __init__(self, every: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._slack, self._clock = every, every * (burst - 1), clock
        self._paid_until = 0.0

    def pause(self) -> float:
        """Seconds until the next time may be."""
        return max(0.0, self._paid_until - self._slack - self._clock())

    def step(self) -> None:
        """It was done once."""
        self._paid_until = max(self._paid_until, self._clock()) + self._every


class Allowance:
    """`amount` in each stretch of `seconds`; the first use after a stretch begins the next one."""

    def __init__(self, amount: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._amount, self._seconds, self._clock = amount, seconds, clock
        self._spent, self._ends = 0, 0.0

    @property
    def left(self) -> int:
        """How much may be had now."""
        now = self._clock()
        if now >= self._ends:
            self._spent, self._ends = 0, now + self._seconds
        return self._amount - self._spent

    @property
    def pause(self) -> float:
        """Seconds until the whole amount may be had again."""
        return max(0.0, self._ends - self._clock())

    def spend(self, amount: int) -> None:
        """So much was had."""
        self._spent += amount
