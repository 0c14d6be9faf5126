"""The picture of a run: its steps as bars over time. Pure functions from steps to the numbers of an SVG.

All sizes are user units of a picture that is WIDTH wide; at its natural size one is a pixel. Colours and fonts are the
stylesheet's: nothing here needs a style attribute or a script.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from typing import Any

from django.utils.formats import date_format
from django.utils.translation import gettext as _

from pipeteer_django.admin.run.state import State, label
from pipeteer_django.admin.words import duration

WIDTH = 1000
GUTTER = 220
RIGHT = 16
TOP = 44
LANE = 24
"""Height of the messages' lane."""
ROW = 24
BAR = 12
INDENT = 16
SMALLEST = 4
"""A bar is at least so wide."""
LETTER = 6.5
"""About the width of a letter."""
TICK = 88
"""The least distance between two ticks."""

_PLOT = WIDTH - GUTTER - RIGHT


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on the time axis."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A message."""

    x: float
    y: float
    title: str
    taken: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One step: its name in the gutter, its shape, and a few words beside that."""

    name: str
    number: str
    label: str
    indent: float
    top: float
    middle: float
    state: str
    shape: str
    """bar, group, timer, diamond or dot."""
    x: float
    width: float
    open: bool
    """It has not ended: the shape goes on to the present."""
    text: str
    text_x: float
    anchor: str
    title: str


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that the template draws."""

    height: int
    rows: list[Row]
    ticks: list[Tick]
    marks: list[Mark]
    begins: str
    now: float | None
    states: list[State]
    width: int = WIDTH
    top: int = TOP
    row_height: int = ROW
    bar_height: int = BAR


@dataclass(frozen=True, slots=True)
class Scale:
    """From moments to places."""

    start: datetime
    end: datetime

    @property
    def span(self) -> float:
        """Seconds; at least a millisecond, so that everything is somewhere."""
        return max((self.end - self.start).total_seconds(), 0.001)

    def x(self, moment: datetime) -> float:
        """The place of a moment, kept inside the picture."""
        part = (moment - self.start).total_seconds() / self.span
        return round(GUTTER + _PLOT * min(max(part, 0.0), 1.0), 1)


def draw(steps: Sequence[Any], messages: Sequence[Any], now: datetime, zone: tzinfo, *, live: bool) -> Picture | None:
    """The picture of these steps (parts.Step, parents before children); None where there is nothing to draw.

    `live`: the run goes on, so that its open steps reach to the present, and the present is marked.
    """
    if not steps:
        return None
    scale = scale_of(steps, now, live=live)
    inside = [message for message in messages if scale.start <= message.sent_at <= scale.end]
    top = TOP + (LANE if inside else 0)
    rows = [_row(step, scale, top + number * ROW, now) for number, step in enumerate(steps)]
    return Picture(
        height=top + len(rows) * ROW + 8,
        rows=rows,
        ticks=list(ticks(scale, zone)),
        marks=[_mark(message, scale) for message in inside],
        begins=date_format(scale.start.astimezone(zone), "DATETIME_FORMAT"),
        now=scale.x(now) if live and scale.start <= now <= scale.end else None,
        states=[state for state in State if any(step.state == state for step in steps)],
    )


def scale_of(steps: Sequence[Any], now: datetime, *, live: bool) -> Scale:
    """From the first step to the last end; of a live run to the present and what is due soon after."""
    start = min(step.created_at for step in steps)
    ends = [step.ended or step.created_at for step in steps]
    if live and any(step.ended is None for step in steps):
        ends.append(now)
    end = max([start, *ends])
    soon = end + max((end - start) / 2, timedelta(seconds=1))
    pending = [step.due for step in steps if live and step.ended is None and step.due and end < step.due <= soon]
    return Scale(start, max([end, *pending]))


# Rows


def _row(step: Any, scale: Scale, top: float, now: datetime) -> Row:
    end = step.ended or (step.due if step.kind == "timer" and step.due else max(now, step.created_at))
    x, right = scale.x(step.created_at), scale.x(end)
    width = max(right - x, SMALLEST)
    x = round(min(x, WIDTH - RIGHT - width), 1)
    text = _words(step, now)
    shape = _shape(step)
    text_x, anchor = _beside(x, width, text)
    indent = 34 + step.depth * INDENT
    room = int((GUTTER - indent - 12) / LETTER)
    name = label(step)
    return Row(
        name=step.name,
        number=str(step.index),
        label=shorten(name, room),
        indent=indent,
        top=top,
        middle=top + ROW / 2,
        state=str(step.state.value),
        shape=shape,
        x=x,
        width=round(width, 1),
        open=step.ended is None,
        text=text,
        text_x=text_x,
        anchor=anchor,
        title=f"{step.name} {name}: {text}",
    )


def _shape(step: Any) -> str:
    if step.children:
        return "group"
    return {"timer": "timer", "send": "diamond", "random": "dot", "patch": "dot"}.get(step.kind, "bar")


def _words(step: Any, now: datetime) -> str:
    """What is written beside the bar: how long it took, unless there is more to say."""
    if step.kind in ("random", "patch"):
        return ""
    took = duration((step.ended or now) - step.created_at)
    if step.state == State.DONE:
        return took
    if step.state in (State.FAILED, State.RUNNING) and not step.note:
        return f"{step.state.label}, {took}"
    return f"{step.state.label}, {step.note}" if step.note else str(step.state.label)


def _beside(x: float, width: float, text: str) -> tuple[float, str]:
    """Right of the shape if there is room, else left of it, else at the picture's end."""
    needed = len(text) * LETTER + 8
    if x + width + needed <= WIDTH - RIGHT:
        return round(x + width + 6, 1), "start"
    if x - needed >= GUTTER:
        return round(x - 6, 1), "end"
    return WIDTH - RIGHT - 6, "end"


def _mark(message: Any, scale: Scale) -> Mark:
    title = _("cancellation") if message.cancels else message.name
    return Mark(scale.x(message.sent_at), TOP + LANE / 2, title, message.order is not None)


def shorten(text: str, room: int) -> str:
    """Text that fits into so many letters."""
    return text if len(text) <= room else f"{text[: max(room - 1, 1)]}…"


# The axis

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_CLOCK = tuple(s * _MINUTE for s in (0.5, 1, 2, 5, 10, 15, 30)) + tuple(h * _HOUR for h in (1, 2, 3, 6, 12))
_DAYS = (1, 2, 7, 14)
_MONTHS = (1, 3, 6, 12, 24, 60, 120, 240, 600, 1200)
_MOST = _PLOT // TICK


def ticks(scale: Scale, zone: tzinfo) -> Iterator[Tick]:
    """Round places on the axis: seconds from the start where it is short, else the clock, the calendar."""
    span = scale.span
    if span < 2 * _MINUTE:
        yield from _offsets(scale)
        return
    begin = scale.start.astimezone(zone)
    for seconds in _CLOCK:
        if span / seconds <= _MOST:
            yield from _calendar(scale, _floor_clock(begin, seconds), partial(_later, seconds=seconds), _clock_text)
            return
    midnight = begin.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    for days in _DAYS:
        if span / (days * _DAY) <= _MOST:
            first = midnight - timedelta(days=midnight.weekday() if days >= 7 else 0)
            yield from _calendar(scale, first, partial(_add_days, days=days), _day_text)
            return
    months = next((n for n in _MONTHS if span / (n * 30 * _DAY) <= _MOST), _MONTHS[-1])
    january = midnight.replace(day=1, month=1, year=_floor(midnight.year, max(months // 12, 1)))
    text = _month_text if months < 12 else _year_text
    yield from _calendar(scale, january, partial(_add_months, months=months), text)


def _offsets(scale: Scale) -> Iterator[Tick]:
    least = scale.span / _MOST
    size = 1e-9
    while not any(size * factor >= least for factor in (1, 2, 5)):
        size *= 10
    step = next(size * factor for factor in (1, 2, 5) if size * factor >= least)
    for number in range(int(scale.span / step + 1e-9) + 1):
        moment = scale.start + timedelta(seconds=number * step)
        text = duration(timedelta(seconds=number * step)) if number else "0"
        yield Tick(scale.x(moment), text)


def _calendar(
    scale: Scale, first: datetime, following: Callable[[datetime], datetime], text: Callable[[datetime], str]
) -> Iterator[Tick]:
    """Ticks at local times; through UTC, so that hours that a clock skips or repeats are where they belong."""
    last: datetime | None = None
    moment = first
    while True:
        try:
            real = moment.astimezone(UTC)
        except OverflowError:
            return
        if real > scale.end:
            return
        if real >= scale.start and (last is None or real > last):
            yield Tick(scale.x(real), text(real.astimezone(first.tzinfo)))
            last = real
        try:
            moment = following(moment)
        except (OverflowError, ValueError):  # the calendar ends
            return


def _floor_clock(begin: datetime, seconds: float) -> datetime:
    since = begin.hour * _HOUR + begin.minute * _MINUTE + begin.second
    midnight = begin.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    return midnight + timedelta(seconds=since - since % seconds)


def _later(moment: datetime, seconds: float) -> datetime:
    if seconds > _HOUR:  # the clock's hours: 0, 6, 12, 18 on every day
        return moment + timedelta(seconds=seconds)
    return (moment.astimezone(UTC) + timedelta(seconds=seconds)).astimezone(moment.tzinfo)


def _floor(year: int, size: int) -> int:
    return max(year - year % size, 1)


def _add_days(moment: datetime, days: int) -> datetime:
    return moment + timedelta(days=days)


def _add_months(moment: datetime, months: int) -> datetime:
    whole = moment.month - 1 + months
    return moment.replace(year=moment.year + whole // 12, month=whole % 12 + 1)


def _clock_text(moment: datetime) -> str:
    if (moment.hour, moment.minute, moment.second) == (0, 0, 0):
        return _day_text(moment)
    return moment.strftime("%H:%M:%S" if moment.second else "%H:%M")


def _day_text(moment: datetime) -> str:
    return date_format(moment, "j M")


def _month_text(moment: datetime) -> str:
    return date_format(moment, "M Y")


def _year_text(moment: datetime) -> str:
    return str(moment.year)
