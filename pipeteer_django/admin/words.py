"""Values and lengths of time as short text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy


@dataclass(frozen=True, slots=True)
class Text:
    """A value as JSON text."""

    text: str
    cut: bool = False
    """It goes on."""
    plain: Any = None
    """The value itself, where all of it is there."""

    @property
    def is_nested(self) -> bool:
        """Whether there is more to it than one line."""
        return isinstance(self.plain, (dict, list)) and bool(self.plain)

    @classmethod
    def of_start(cls, start: str | None, limit: int) -> Text:
        """Of the first `limit` + 1 characters of what a database holds."""
        if start is None:
            return cls("null")
        if len(start) > limit:
            return cls(start[:limit], cut=True)
        try:
            return json_text(json.loads(start))
        except ValueError:
            return cls(start)


def json_text(plain: Any, indent: int | None = None) -> Text:
    """A JSON value as people read it."""
    return Text(json.dumps(plain, ensure_ascii=False, indent=indent), plain=plain)


_UNITS = (
    (_DAY := 86400, gettext_lazy("d")),
    (3600, gettext_lazy("h")),
    (60, gettext_lazy("min")),
    (1, gettext_lazy("s")),
)


def duration(length: timedelta) -> str:
    """Short, and as exact as is of use: 340 ms, 1.2 s, 3 min 5 s, 4 h 12 min, 23 d 4 h, 5.2 years."""
    seconds = max(length.total_seconds(), 0.0)
    if seconds < 0.9995:
        return _("%s ms") % (round(seconds * 1000) if seconds >= 0.01 else f"{seconds * 1000:.2g}")
    if seconds < 59.95:
        return _("%s s") % f"{seconds:.1f}".removesuffix(".0")
    if seconds >= 730 * _DAY:
        return _("%s years") % f"{seconds / (365.25 * _DAY):.1f}"
    whole = round(seconds)
    for (size, unit), (smaller, part) in pairwise(_UNITS):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit} {rest} {part}" if rest and whole < 60 * _DAY else f"{whole // size} {unit}"
    return _("%s s") % whole
