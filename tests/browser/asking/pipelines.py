"""What people edit, answer and correct in a browser."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pydantic

import pipeteer_django as pipeteer
from pipeteer_django import InputT, Push, WorkflowContext


class Line(pydantic.BaseModel):
    """Of a parcel."""

    name: str = pydantic.Field(min_length=1)
    pieces: int = pydantic.Field(default=1, ge=1, le=99)


@dataclass
class Parcel:
    """Lists in lists."""

    to: str
    lines: list[Line] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)


@dataclass
class Verdict:
    """What a person decides, and why."""

    decision: Literal["refund", "replace"]
    reasons: list[str] = field(default_factory=list)


@pipeteer.activity()
def pack(parcel: Parcel) -> int:
    """How many pieces."""
    return sum(line.pieces for line in parcel.lines)


@pipeteer.task()
def allow(Input: type[InputT[str]], push: Push[bool]) -> None:
    """Yes or no."""


@pipeteer.task()
def judge(Input: type[InputT[str]], push: Push[Verdict]) -> None:
    """A form."""


@pipeteer.activity()
def times_two(x: int) -> int:
    """A step."""
    return 2 * x


@pipeteer.workflow()
async def ask(x: int, ctx: WorkflowContext) -> str:
    """Some steps, one of which waits for a person."""
    twice = await ctx.call(times_two, x)
    allowed = await ctx.call(allow, f"May it be {twice}?")
    return f"{twice} is {'allowed' if allowed else 'refused'}"
