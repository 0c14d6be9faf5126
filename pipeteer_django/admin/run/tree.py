"""Reads one run as the page of a run shows it: queries in, plain dataclasses out. Writes nothing.

The number of statements depends on how many pipelines are called, never on how many steps there are; what is long is
cut by the database.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from django.db.models import Count, F, Q, QuerySet, TextField
from django.db.models.functions import Cast, Left
from django.utils.translation import gettext as _

from pipeteer_django.admin.readable import column_text
from pipeteer_django.admin.run.parts import Caller, Message, Run, Step
from pipeteer_django.admin.run.state import State, live_state, step_state
from pipeteer_django.admin.words import Text, json_text
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.record import ENGINES, TIMER
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.children import children
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.database import time_of

PAGE = 500
"""Steps of the run itself on one page."""
NESTED = 200
"""Steps of its child workflows on one page, all together."""
DEPTH = 2
"""How deep child workflows are unfolded."""
MESSAGES = 200
BRANCHES = 20
SHORT = 300
"""Characters of a value in a row of the table."""

MaySee = Callable[[Pipeline[Any, Any]], bool]
Entries = dict[str, dict[int, Any]]
"""Open children in their queues, by pipeline and id."""

_LIVE = ("id", "available_at", "reserved_by", "attempt", "suspended", "error", "failed_at", "branch")


def read(
    workflow: Pipeline[Any, Any],
    using: str,
    run_id: int,
    *,
    branch: int | None = None,
    until: int | None = None,
    caller: tuple[str, int] | None = None,
    may_see: MaySee = lambda pipeline: True,
) -> Run | None:
    """The run, live, finished or gone; None where there is no trace of it.

    `branch`: an older one. `until`: the steps before this number, instead of the newest. `caller`: the workflow and
    the id of the step that is said to have called it, for a child that is over. `may_see` keeps other pipelines'
    entries from who may not see them.
    """
    run = Run(workflow, run_id, time_of(using))
    branches = list(
        _steps(workflow, using).filter(run_id=run_id).values_list("branch").annotate(Count("id")).order_by("-branch")
    )
    there = _read_input(run, using) or _read_output(run, using) or branches
    if not run.live:
        _read_caller(run, using, *(caller or ("", 0)))
    if not (there or run.caller):
        return None
    if run.row is None and branches:
        run.branch = branches[0][0]
    counts: dict[int, int] = dict(branches)
    run.shown_branch = branch if branch in counts else run.branch
    run.total = counts.get(run.shown_branch, 0)
    others = [(number, count) for number, count in branches if number != run.shown_branch]
    run.branches, run.more_branches = others[:BRANCHES], len(others) > BRANCHES
    _read_steps(run, using, until, may_see)
    _read_messages(run, using)
    return run


def exists(workflow: Pipeline[Any, Any], using: str, run_id: int) -> bool:
    """Whether there is a row of it."""
    return (
        plain(workflow.Input, using).filter(pk=run_id).exists()
        or plain(workflow.Output, using).filter(run_id=run_id).exists()
        or _steps(workflow, using).filter(run_id=run_id).exists()
    )


# The run itself


def _read_input(run: Run, using: str) -> bool:
    entry = plain(run.workflow.Input, using).filter(pk=run.id).first()
    if entry is None:
        return False
    run.row, run.live, run.key, run.branch, run.error = entry, True, entry.key, entry.branch, entry.error
    run.created_at, run.started_at = entry.created_at, entry.started_at
    run.value = column_text(run.workflow.input, entry)
    columns = {name: getattr(entry, name) for name in _LIVE}
    run.state, run.note = live_state(columns, run.now, runs_here=True)
    if entry.caller and entry.step_id is not None:
        _read_caller(run, using, entry.caller, entry.step_id)
    return True


def _read_output(run: Run, using: str) -> bool:
    output = plain(run.workflow.Output, using).filter(run_id=run.id).first()
    if output is None:
        return False
    run.row, run.key, run.branch, run.state = output, output.key, output.branch, State.DONE
    run.created_at, run.started_at, run.finished_at = output.created_at, output.started_at, output.finished_at
    run.value = json_text(output.param)
    run.result = column_text(run.workflow.output, output)
    return True


def _read_caller(run: Run, using: str, workflow: str, step_id: int) -> None:
    """Who called it; of a child that is over the caller's step also says what it came to."""
    pipeline = registry.get(workflow)
    if pipeline is None or pipeline.kind != "workflow":
        return
    step = _steps(pipeline, using).filter(pk=step_id, pipeline=run.workflow.id).first()
    if step is None or (not run.live and step.child_id != run.id):
        return
    run.caller = Caller(workflow, step.run_id, step.index)
    if run.row is not None:
        return
    run.key = f"{workflow}:{step.run_id}:{step.branch}:{step.index}"
    run.value, run.created_at, run.finished_at = json_text(step.param), step.created_at, step.done_at
    if step.cancelled_at is not None:
        run.state, run.finished_at = State.CANCELLED, step.cancelled_at
    elif step.done_at is not None and step.error:
        run.state, run.error = State.FAILED, str(step.error.get("traceback") or step.error.get("message", ""))
    elif step.done_at is not None:
        run.state, run.result = State.DONE, json_text(step.result)


# Steps


def _read_steps(run: Run, using: str, until: int | None, may_see: MaySee) -> None:
    mine = _steps(run.workflow, using).filter(run_id=run.id, branch=run.shown_branch)
    if until is not None:
        mine = mine.filter(index__lt=until)
    run.steps = _fetch(run.workflow.id, mine.order_by("-index")[:PAGE])[::-1]
    over = not run.live or not run.is_present
    level, budget = run.steps, NESTED
    for depth in range(DEPTH + 1):
        live = _judge(level, using, run.now, over, may_see)
        called = [step for step in level if step.kind == "workflow" and step.child_id]
        parents = [step for step in called if may_see(registry.find(step.pipeline))]
        if depth == DEPTH:
            for step in parents:
                step.folded = _("has a run of its own")
            return
        level = _unfold(parents, live, using, depth + 1, budget)
        budget -= len(level)


def _unfold(
    parents: Sequence[Step], live: dict[str, dict[int, Any]], using: str, depth: int, budget: int
) -> list[Step]:
    """Read the steps of these child workflows into them, as far as there is room; returns them all."""
    found: list[Step] = []
    for pipeline, steps in _by_pipeline(parents).items():
        rows = _steps(registry.find(pipeline), using)
        wanted: dict[int, set[int]] = defaultdict(set)
        for step, branch, count in _sized(rows, steps, live.get(pipeline, {})):
            if count <= budget:
                budget -= count
                wanted[branch].add(step.child_id or 0)
            else:
                step.folded = _("%(count)s steps in a run of its own") % {"count": f"{count:,}"}
        if not wanted:
            continue
        which = [Q(branch=branch, run_id__in=sorted(ids)) for branch, ids in wanted.items()]
        by_run: dict[int, list[Step]] = defaultdict(list)
        for child in _fetch(pipeline, rows.filter(_any(which)).order_by("run_id", "index")):
            by_run[child.run_id].append(child)
        for step in steps:
            step.children = by_run.get(step.child_id or 0, [])
            for child in step.children:
                child.depth, child.name = depth, f"{step.name}.{child.index}"
            found += step.children
    return found


def _sized(rows: QuerySet[Any], steps: Sequence[Step], live: dict[int, Any]) -> Iterator[tuple[Step, int, int]]:
    """Each step with the present branch of its run, and how many steps that has."""
    counts: dict[int, dict[int, int]] = defaultdict(dict)
    sizes = rows.filter(run_id__in=[step.child_id for step in steps]).values_list("run_id", "branch")
    for run_id, branch, count in sizes.annotate(Count("id")).order_by():
        counts[run_id][branch] = count
    for step in steps:
        branches = counts.get(step.child_id or 0, {})
        entry = live.get(step.child_id or 0)
        branch = entry["branch"] if entry else max(branches, default=0)
        if count := branches.get(branch, 0):
            yield step, branch, count


def _any(conditions: Sequence[Q]) -> Q:
    found = conditions[0]
    for condition in conditions[1:]:
        found |= condition
    return found


def _judge(steps: Sequence[Step], using: str, now: datetime, over: bool, may_see: MaySee) -> Entries:
    """Say in which state each step is; returns the entries of those that are open, by pipeline and id."""
    live: Entries = {}
    for pipeline, waiting in _by_pipeline([step for step in steps if step.ended is None]).items():
        if (child := registry.get(pipeline)) is not None:
            live[pipeline] = _entries(child, using, waiting)
    for step in steps:
        child = registry.get(step.pipeline)
        entry = live.get(step.pipeline, {}).get(step.child_id or 0)
        step.live = entry is not None
        step.due = _due(step)
        step.attempt = entry["attempt"] if entry else None
        runs_here = child is not None and child.runs_here
        step.state, step.note = step_state(step, entry, now, over=over, runs_here=runs_here)
        if entry and entry["error"] and child is not None and may_see(child) and step.error is None:
            step.error = {"type": "", "message": _last_line(entry["error"]), "traceback": entry["error"]}
    return live


def _entries(child: Pipeline[Any, Any], using: str, waiting: Sequence[Step]) -> dict[int, Any]:
    """The entries that these steps wait for, by id; the steps get to know them."""
    found: dict[int, Any] = {}
    by_workflow: dict[str, dict[int, Step]] = defaultdict(dict)
    for step in waiting:
        by_workflow[step.workflow][step.id] = step
    for workflow, steps in by_workflow.items():
        for row in children(child, using, workflow, steps).values("step_id", *_LIVE):
            steps[row["step_id"]].child_id = row["id"]
            found[row["id"]] = row
    return found


def _last_line(error: str) -> str:
    return error.strip().rsplit("\n", 1)[-1]


def _due(step: Step) -> datetime | None:
    if step.pipeline != TIMER:
        return None
    try:
        return datetime.fromisoformat(step.param.plain)
    except (TypeError, ValueError):
        return None


def _by_pipeline(steps: Iterable[Step]) -> dict[str, list[Step]]:
    groups: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        groups[step.pipeline].append(step)
    return groups


def _fetch(workflow: str, rows: QuerySet[Any]) -> list[Step]:
    columns = (
        "id", "run_id", "index", "pipeline", "child_id", "error", "created_at", "done_at", "cancelled_at", "order",
    )  # fmt: skip
    found = rows.annotate(param_text=_start("param"), result_text=_start("result"))
    return [
        Step(
            **row,
            workflow=workflow,
            param=Text.of_start(param, SHORT),
            result=Text.of_start(result, SHORT),
            kind=_kind(row["pipeline"]),
            depth=0,
            name=str(row["index"]),
        )
        for row in found.values(*columns, "param_text", "result_text")
        for param, result in [(row.pop("param_text"), row.pop("result_text"))]
    ]


def _start(column: str) -> Left:
    return Left(Cast(F(column), TextField()), SHORT + 1)


def _kind(pipeline: str) -> str:
    known = registry.get(pipeline)
    return pipeline[1:] if pipeline in ENGINES else known.kind if known else "unknown"


def read_whole(run: Run, using: str, index: int) -> tuple[Text, Text] | None:
    """Argument and result of one of the run's steps, uncut."""
    mine = _steps(run.workflow, using).filter(run_id=run.id, branch=run.shown_branch, index=index)
    found = mine.values_list("param", "result").first()
    return None if found is None else (json_text(found[0]), json_text(found[1]))


# Messages


def _read_messages(run: Run, using: str) -> None:
    inbox = plain(run.workflow.models["Message"], using).filter(run_id=run.id)
    shown = Q(branch=run.shown_branch) | Q(branch=None) if run.is_present else Q(branch=run.shown_branch)
    newest = inbox.filter(shown).annotate(text=_start("value")).order_by("-id")
    found = list(newest.values_list("id", "name", "text", "sent_at", "order")[: MESSAGES + 1])
    run.more_messages = len(found) > MESSAGES
    run.messages = [Message(i, n, Text.of_start(v, SHORT), s, o) for i, n, v, s, o in reversed(found[:MESSAGES])]


def _steps(workflow: Pipeline[Any, Any], using: str) -> QuerySet[Any]:
    return plain(workflow.models["Step"], using)
