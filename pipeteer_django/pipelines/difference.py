"""Where a workflow's code and its record disagree, in words."""

from __future__ import annotations

import sys
from typing import Any

from pipeteer_django.pipelines.outcome import shorten
from pipeteer_django.pipelines.record import PATCH, RANDOM, SEND, TIMER, RecordedStep
from pipeteer_django.pipelines.values import canonical

OTHER_CODE = (
    "The code was changed while this run was under way, or it depends on something that is not recorded (the time, "
    "chance, the database, the order of a set). Bring the old code back and retry, guard the change with ctx.patched, "
    "or restart the run."
)

_WORDS = {TIMER: "a timer", SEND: "ctx.send", RANDOM: "ctx.random", PATCH: "ctx.patched"}


def difference(step: RecordedStep, name: str, param: Any) -> str | None:
    """What is recorded and what the code does instead; None where they agree.

    A timer's time is no difference: one that has begun keeps it.
    """
    if name == step.pipeline and (name == TIMER or canonical(param) == canonical(step.param)):
        return None
    recorded = shown(step.pipeline, step.param)
    return f"step {step.index} was recorded as {recorded}, and the code now calls {shown(name, param)}"


def shown(pipeline: str, param: Any) -> str:
    """A step as text."""
    return f"{_WORDS.get(pipeline, pipeline)}({shorten(canonical(param), 300)})"


def call_site() -> str:
    """Where the workflow is in its own code."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__package__") in ("pipeteer_django.pipelines", "asyncio"):
        frame = frame.f_back
    return f" at {frame.f_code.co_filename}:{frame.f_lineno}"
