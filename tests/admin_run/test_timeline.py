"""The geometry of the picture: pure functions, no database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from pipeteer_django.admin.run import timeline
from pipeteer_django.admin.run.parts import Message, Step
from pipeteer_django.admin.run.state import State, label, live_state
from pipeteer_django.admin.run.timeline import GUTTER, RIGHT, SMALLEST, WIDTH, Scale, draw, ticks
from pipeteer_django.admin.words import Text, duration

pytestmark = pytest.mark.once

START = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
EDGE = WIDTH - RIGHT


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def step(begin: float, end: float | None, **more: Any) -> Step:
    values: dict[str, Any] = {
        "id": 1, "workflow": "w", "run_id": 1, "index": 0, "pipeline": "double", "kind": "activity", "child_id": 1,
        "param": Text("1", plain=1), "result": Text("2"), "error": None, "created_at": at(begin),
        "done_at": None if end is None else at(end), "cancelled_at": None, "order": None, "depth": 0, "name": "0",
        "state": State.RUNNING if end is None else State.DONE,
    }  # fmt: skip
    return Step(**values | more)


def picture(*steps: Step, now: float = 100, live: bool = True, messages: Any = ()) -> timeline.Picture:
    drawn = draw(steps, messages, at(now), UTC, live=live)
    assert drawn is not None
    return drawn


def test_nothing_to_draw() -> None:
    assert draw([], [], START, UTC, live=True) is None


def test_bars_lie_where_their_times_are() -> None:
    first, second = picture(step(0, 50), step(50, 100), live=False).rows
    assert (first.x, first.x + first.width) == (GUTTER, pytest.approx((GUTTER + EDGE) / 2, abs=0.2))
    assert second.x + second.width == pytest.approx(EDGE, abs=0.2)
    assert second.top == first.top + timeline.ROW


def test_an_open_step_reaches_to_the_present_and_the_present_is_marked() -> None:
    drawn = picture(step(0, 10), step(10, None), now=100)
    assert drawn.now == EDGE
    assert drawn.rows[1].open
    assert drawn.rows[1].x + drawn.rows[1].width == pytest.approx(EDGE, abs=0.2)
    assert drawn.rows[1].text == "running, 1 min 30 s"


def test_a_run_that_is_over_has_no_present() -> None:
    assert picture(step(0, 10), now=100, live=False).now is None


@pytest.mark.parametrize(("begin", "end"), [(0, 0), (99.999999, 100), (100, 100), (0, 1e-6)])
def test_what_took_no_time_can_still_be_seen_and_stays_inside(begin: float, end: float) -> None:
    for row in picture(step(0, 100), step(begin, end), live=False).rows:
        assert row.width >= SMALLEST
        assert row.x >= GUTTER
        assert row.x + row.width <= EDGE + 0.1


def test_one_step_that_took_no_time() -> None:
    (row,) = picture(step(0, 0), now=0).rows
    assert GUTTER <= row.x <= EDGE


def test_a_timer_that_is_due_soon_is_shown_whole_and_one_in_months_is_not() -> None:
    soon = step(0, None, kind="timer", pipeline=":timer", due=at(120), state=State.WAITING)
    late = step(0, None, kind="timer", pipeline=":timer", due=at(1e7), state=State.WAITING)
    drawn = picture(soon, late, now=100)
    assert drawn.now is not None
    assert drawn.now < EDGE
    assert [row.x + row.width for row in drawn.rows] == pytest.approx([EDGE, EDGE], abs=0.2)


def test_kinds_have_shapes() -> None:
    kinds = {"timer": "timer", "send": "diamond", "random": "dot", "patch": "dot", "activity": "bar", "task": "bar"}
    drawn = picture(*(step(0, 10, kind=kind) for kind in kinds))
    assert [row.shape for row in drawn.rows] == list(kinds.values())
    parent = step(0, 10, kind="workflow", children=[step(0, 5, depth=1)])
    assert [row.shape for row in picture(parent, *parent.children).rows] == ["group", "bar"]


def test_words_stand_where_there_is_room() -> None:
    left, whole, right = picture(step(0, 10), step(0, 100), step(90, 100), live=False).rows
    assert (left.anchor, left.text_x > left.x + left.width) == ("start", True)
    assert (right.anchor, right.text_x < right.x) == ("end", True)
    assert (whole.anchor, whole.text_x) == ("end", EDGE - 6)


def test_long_names_are_shortened_to_the_gutter() -> None:
    rows = picture(step(0, 1, pipeline="x" * 63), step(0, 1, pipeline="y" * 63, depth=2)).rows
    assert all(len(row.label) * timeline.LETTER + row.indent <= GUTTER and row.label.endswith("…") for row in rows)
    assert "x" * 63 in rows[0].title


def test_messages_are_marked_if_they_are_inside() -> None:
    inbox = [Message(n, name, Text("1"), at(when), order) for n, name, when, order in [
        (1, "early", -5, 1), (2, "word", 50, 2), (3, ":cancel", 60, None),
    ]]  # fmt: skip
    drawn = picture(step(0, 100), messages=inbox)
    assert [(mark.title, mark.taken) for mark in drawn.marks] == [("word", True), ("cancellation", False)]
    assert drawn.rows[0].top == timeline.TOP + timeline.LANE


def test_the_legend_has_the_states_that_are_there() -> None:
    assert picture(step(0, 1), step(0, None)).states == [State.RUNNING, State.DONE]


# The axis


SPANS = [0.001, 0.0123, 0.5, 1, 7, 59, 119.9, 120, 1000, 3599, 7200, 40_000, 86_400, 5 * 86_400, 20 * 86_400, 6e6, 3e7]


@pytest.mark.parametrize("zone", [UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("Pacific/Chatham")])
@pytest.mark.parametrize("span", [*SPANS, 1e8, 1e9, 1e10])
def test_there_are_some_ticks_and_they_do_not_meet(span: float, zone: Any) -> None:
    found = list(ticks(Scale(START, at(span)), zone))
    assert 2 <= len(found) <= 1 + (EDGE - GUTTER) // timeline.TICK + 1
    assert all(GUTTER <= tick.x <= EDGE for tick in found)
    gaps = [after.x - before.x for before, after in pairwise(found)]
    assert min(gaps) > 60


@pytest.mark.parametrize(
    ("span", "texts"),
    [
        (0.004, ["0", "0.5 ms"]),
        (7, ["0", "1 s", "2 s"]),
        (100, ["0", "20 s"]),
        (1200, ["09:30", "09:35"]),
        (10 * 3600, ["10:00", "12:00"]),
        (86_400, ["12:00", "15:00"]),
        (4 * 86_400, ["12:00", "3 Mar", "12:00"]),
        (7 * 86_400, ["3 Mar", "4 Mar"]),
        (20 * 86_400, ["9 Mar", "16 Mar"]),
        (200 * 86_400, ["Apr 2026", "May 2026"]),
        (10 * 365 * 86_400, ["2028", "2030"]),
    ],
)
def test_ticks_are_round(span: float, texts: list[str]) -> None:
    found = [tick.text for tick in ticks(Scale(START, at(span)), UTC)]
    assert found[: len(texts)] == texts or found[1 : len(texts) + 1] == texts


def test_an_hour_that_the_clock_skips_is_no_tick() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    night = datetime(2026, 3, 29, 0, 30, tzinfo=berlin)
    found = [tick.text for tick in ticks(Scale(night, night.astimezone(UTC) + timedelta(hours=5)), berlin)]
    assert "02:00" not in found
    assert found == sorted(found)


def test_the_end_of_the_calendar() -> None:
    last = datetime.max.replace(tzinfo=UTC)
    for days in (1, 40, 4000):
        assert list(ticks(Scale(last - timedelta(days=days), last), ZoneInfo("Asia/Tokyo")))


# Words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 ms"), (0.0004, "0.4 ms"), (0.34, "340 ms"), (0.9996, "1 s"), (1.25, "1.2 s"), (59.97, "1 min"),
        (185, "3 min 5 s"), (3600, "1 h"), (15120, "4 h 12 min"), (100_000, "1 d 3 h"), (70 * 86_400, "70 d"),
        (1e9, "31.7 years"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(timedelta(seconds=seconds)) == text


def test_steps_of_the_engine_have_names() -> None:
    sent = Text("", plain={"name": "word", "workflow": "sell"})
    assert label(step(0, 1, kind="send", pipeline=":send", param=sent)) == "send word to sell"
    assert label(step(0, 1, kind="send", pipeline=":send", param=Text("{", cut=True))) == "send"
    assert label(step(0, 1, kind="patch", pipeline=":patch", param=Text("", plain="new"))) == "patched new"
    assert label(step(0, 1, kind="patch", pipeline=":patch", param=Text("new", cut=True))) == "patched"


@pytest.mark.parametrize(
    ("columns", "state"),
    [
        ({"failed_at": START}, State.FAILED),
        ({"suspended": True, "available_at": None}, State.WAITING),
        ({"suspended": True, "available_at": at(-1)}, State.QUEUED),
        ({"reserved_by": "w", "available_at": at(9)}, State.RUNNING),
        ({"reserved_by": "w", "available_at": at(-9)}, State.QUEUED),
        ({"available_at": at(9), "error": "no"}, State.RETRIED),
        ({"available_at": at(9)}, State.QUEUED),
        ({"available_at": at(-1)}, State.QUEUED),
    ],
)
def test_states_of_an_entry(columns: dict[str, Any], state: State) -> None:
    fresh = {"available_at": START, "reserved_by": "", "attempt": 1, "suspended": False, "error": "", "failed_at": None}
    assert live_state(fresh | columns, START, runs_here=True)[0] == state


def test_what_no_worker_runs_waits_for_a_person() -> None:
    fresh = {"available_at": START, "reserved_by": "", "attempt": 0, "suspended": False, "error": "", "failed_at": None}
    assert live_state(fresh, START, runs_here=False)[0] == State.WAITING


@pytest.mark.parametrize("text", ["[1, 2", "nonsense", "9" * 5000])
def test_a_value_that_is_no_json_is_shown_as_it_is(text: str) -> None:
    assert Text.of_start(text, 300).text == text[:300]
