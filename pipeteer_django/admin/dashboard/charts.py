"""Small pictures of numbers over time: pure functions from moments to the shapes of an SVG.

Colours and sizes on the page are the stylesheet's: nothing here needs a style attribute or a script. What a picture
shows is also said in words, for those who do not see it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from django.utils.translation import gettext as _

from pipeteer_django.admin.words import duration

WIDTH = 120
HEIGHT = 30
_LEAST = 1.5
"""Whatever is more than nothing is at least so high."""

Finished = Sequence[tuple[datetime, timedelta]]
"""When something was finished, and how long that took."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; its foot is the picture's."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Bars:
    """How many were finished in each part of the time."""

    bars: list[Bar]
    said: str
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time without a gap: the area between two percentiles, and the line of the lower one. Points of an SVG."""

    area: str
    line: str


@dataclass(frozen=True, slots=True)
class Band:
    """How long it took, in each part of the time."""

    stretches: list[Stretch]
    said: str
    width: int = WIDTH
    height: int = HEIGHT


def rank(values: Sequence[timedelta], share: float) -> timedelta:
    """The percentile by nearest rank: the least value that is not below this share of all. They must be sorted."""
    return values[max(0, math.ceil(share * len(values)) - 1)]


def parts(finished: Finished, start: datetime, end: datetime, count: int) -> list[list[timedelta]]:
    """What was finished in each of `count` equal parts of the time, each sorted by how long it took."""
    found: list[list[timedelta]] = [[] for _ in range(count)]
    span = max((end - start).total_seconds(), 0.001)
    for moment, took in finished:
        place = int((moment - start).total_seconds() / span * count)
        found[min(max(place, 0), count - 1)].append(took)
    return [sorted(part) for part in found]


def bars(found: Sequence[Sequence[timedelta]], length: timedelta) -> Bars:
    """A bar for each part, as high as there are things in it; `length` is a part's."""
    most = max(map(len, found), default=0)
    step = WIDTH / max(len(found), 1)
    drawn = [
        _bar(number * step, step, max(HEIGHT * len(part) / most, _LEAST)) for number, part in enumerate(found) if part
    ]
    said = _("Finished in each %(length)s: %(last)s in the last one, %(most)s at most.") % {
        "length": duration(length),
        "last": len(found[-1]) if found else 0,
        "most": most,
    }
    return Bars(drawn, said)


def _bar(x: float, step: float, height: float) -> Bar:
    return Bar(round(x + step * 0.1, 2), round(HEIGHT - height, 2), round(step * 0.8, 2), round(height, 2))


def band(found: Sequence[Sequence[timedelta]]) -> Band:
    """From the median to the 95th percentile of each part; a part without anything is a gap."""
    ranks = [(rank(part, 0.5), rank(part, 0.95)) if part else None for part in found]
    longest = max((high for low, high in filter(None, ranks)), default=timedelta(0))
    scale = max(longest.total_seconds(), 0.000_001)
    stretches = [_stretch(stretch, WIDTH / len(found), scale) for stretch in _without_gaps(ranks)]
    said = _("From the median to the 95th percentile; the longest of these was %s.") % duration(longest)
    return Band(stretches, said)


Ranks = tuple[timedelta, timedelta]


def _without_gaps(ranks: Sequence[Ranks | None]) -> Iterator[list[tuple[int, Ranks]]]:
    for there, group in groupby(enumerate(ranks), key=lambda item: item[1] is not None):
        if there:
            yield [(number, pair) for number, pair in group if pair is not None]


def _stretch(found: Sequence[tuple[int, Ranks]], step: float, scale: float) -> Stretch:
    """Each part is as wide as it lasted, so that one by itself is seen, too."""
    low = [point for number, (median, _high) in found for point in _across(number, step, median, scale)]
    high = [point for number, (_median, most) in found for point in _across(number, step, most, scale)]
    return Stretch(area=" ".join([*high, *reversed(low)]), line=" ".join(low))


def _across(number: int, step: float, value: timedelta, scale: float) -> list[str]:
    y = HEIGHT - 1 - (HEIGHT - 2) * value.total_seconds() / scale
    return [f"{number * step:.2f},{y:.2f}", f"{(number + 1) * step:.2f},{y:.2f}"]
