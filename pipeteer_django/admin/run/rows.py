"""What the template of a run's page shows: rows with their links and forms, facts, and what can be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.http import HttpRequest
from django.utils.translation import gettext as _

from pipeteer_django.admin.links import may_see, page_of
from pipeteer_django.admin.run.parts import Run, Step
from pipeteer_django.admin.run.state import State, label
from pipeteer_django.admin.words import Text, duration
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry

_TAIL = 3_000
"""Characters of a traceback in a row that is not open."""

_CORRECTABLE = ("activity", "workflow", "task", "multitask")


class Links:
    """Where things are, or None where this user may not go there."""

    def __init__(self, site: Any, request: HttpRequest, run: Run) -> None:
        self._site, self._request, self._run = site, request, run
        self._allowed: dict[str, bool] = {}
        self._from: dict[str, Any] = {"from": request.GET["from"]} if "from" in request.GET and not run.live else {}
        self._until: dict[str, Any] = {"until": request.GET["until"]} if "until" in request.GET else {}

    def _page(self, pipeline: Pipeline[Any, Any], what: str, id: int) -> str | None:
        if pipeline.id not in self._allowed:
            self._allowed[pipeline.id] = may_see(self._site, self._request, pipeline)
        return page_of(self._site, pipeline.Input, what, id) if self._allowed[pipeline.id] else None

    def run(self, workflow: str, run_id: int, **query: Any) -> str | None:
        """The page of a run."""
        pipeline = registry.get(workflow)
        found = None if pipeline is None or pipeline.kind != "workflow" else self._page(pipeline, "run", run_id)
        return f"{found}?{urlencode(query)}" if found and query else found

    def child(self, step: Step) -> str | None:
        """The page of a step's child: its run, or as long as that is in its queue its entry, for a task to answer."""
        pipeline = registry.get(step.pipeline)
        if pipeline is None or step.child_id is None:
            return None
        if pipeline.kind == "workflow":
            query: dict[str, Any] = {"from": f"{step.workflow}:{step.id}"}
            return self.run(pipeline.id, step.child_id, **query)
        page = "answer" if pipeline.kind == "task" else "change"
        return self._page(pipeline, page, step.child_id) if step.live else None

    def here(self, **query: Any) -> str:
        """This page, showing something else."""
        run = self._run
        branch: dict[str, Any] = {} if run.is_present else {"branch": run.shown_branch}
        asked = {**self._from, **branch, **self._until, **query}
        wanted = urlencode({name: value for name, value in asked.items() if value is not None})
        return f"{self.base}?{wanted}" if wanted else self.base

    @cached_property
    def caller(self) -> str | None:
        """The run that called this one, at the step that did."""
        caller = self._run.caller
        if caller is None:
            return None
        found = self.run(caller.workflow, caller.run_id, step=caller.index)
        return f"{found}#step-{caller.index}" if found else None

    @cached_property
    def entry(self) -> str | None:
        """The run's own row in its queue."""
        return self._page(self._run.workflow, "change", self._run.id) if self._run.live else None

    @cached_property
    def base(self) -> str:
        """This page's address, whatever it shows."""
        return self._page(self._run.workflow, "run", self._run.id) or ""

    @cached_property
    def present(self) -> str:
        """This run, as it is now."""
        return self.here(branch=None, until=None)

    @property
    def branches(self) -> Sequence[tuple[int, int, str]]:
        """Other branches: number, how many steps, where."""
        return [(n, count, self.here(branch=n, until=None)) for n, count in self._run.branches]

    @property
    def earlier(self) -> str | None:
        """The steps before those on this page."""
        steps = self._run.steps
        return self.here(until=steps[0].index) if steps and len(steps) < self._run.total and steps[0].index else None

    @property
    def newest(self) -> str | None:
        """The last steps, if they are not on this page."""
        return self.here(until=None) if self._until else None


@dataclass(slots=True)
class Row:
    """A step in the table."""

    step: Step
    label: str
    param: Text
    result: Text
    message: str
    traceback: str
    took: str
    link: str | None
    """To its child."""
    whole: str | None
    """To this page with all that is known about the step."""
    correct: str | None
    """To its form, if its result can be corrected."""
    rerun: str | None
    """To the question, if the run can run again from here."""
    open: bool = False
    asks_rerun: bool = False
    form: forms.Form | None = None

    @property
    def padding(self) -> str:
        """How far a child's name stands to the right."""
        return f"depth-{self.step.depth}"


def row(step: Step, run: Run, links: Links, *, may_change: bool) -> Row:
    """One step as the table shows it; `links` are to be of this run."""
    mine = step.depth == 0
    here = mine and may_change and run.is_present
    open_timer = step.kind == "timer" and step.ended is None
    correctable = here and run.live and step.cancelled_at is None and (step.kind in _CORRECTABLE or open_timer)
    again = here and run.row is not None
    error = step.error or {}
    anchor = f"#step-{step.name}"
    said = f"{error.get('type', '')}: {error.get('message', '')}".removeprefix(": ")
    return Row(
        step=step,
        label=label(step),
        param=step.param,
        result=step.result,
        message=said[:500],
        traceback=str(error.get("traceback", ""))[-_TAIL:],
        took=duration((step.ended or run.now) - step.created_at) if step.ended or run.live else "",
        link=links.child(step),
        whole=links.here(step=step.index) + anchor if mine else None,
        correct=links.here(step=step.index, do="correct") + anchor if correctable else None,
        rerun=links.here(step=step.index, do="rerun") + anchor if again else None,
    )


# The run itself


@dataclass(frozen=True, slots=True)
class Fact:
    """A line of the head."""

    name: str
    text: str = ""
    moment: datetime | None = None


def facts(run: Run) -> list[Fact]:
    """What is known about the run besides its state, value and outcome."""
    found = [
        Fact(_("Created"), moment=run.created_at),
        Fact(_("Started"), moment=run.started_at),
        Fact(_("Finished"), moment=run.finished_at),
    ]
    if run.created_at is not None and (run.live or run.finished_at is not None):
        found.append(Fact(_("Took so far") if run.live else _("Took"), duration(_end(run) - run.created_at)))
    if run.row is not None:
        found += [
            Fact(_("Attempt"), str(run.row.attempt or "")),
            Fact(_("Output"), "" if run.row.output == "output" else run.row.output),
        ]
    if run.live:
        found += [
            Fact(_("Given up"), moment=run.row.failed_at),
            Fact(_("Claimed by"), run.row.reserved_by),
            Fact(_("Kept in memory by"), run.row.holder),
            Fact(_("Priority"), str(run.row.priority or "")),
        ]
    found.append(Fact(_("Steps"), f"{run.total:,}"))
    return [fact for fact in found if fact.text or fact.moment]


def _end(run: Run) -> datetime:
    return run.finished_at or run.now


@dataclass(frozen=True, slots=True)
class Verb:
    """Something that can be done to the run as a whole."""

    name: str
    label: str
    explained: str
    harms: bool = False


def verbs(run: Run) -> list[Verb]:
    """What makes sense in its state."""
    if not run.live:
        return []
    retry = Verb(
        "retry",
        _("Retry"),
        _("The run goes on where it was: it is replayed over its record, of which nothing is lost."),
    )
    restart = Verb(
        "restart",
        _("Restart"),
        _("The run begins again with an empty record. What it had outstanding is deleted; its steps stay as history."),
        harms=True,
    )
    begun = run.row.started_at is not None and run.state != State.FAILED
    cancel = Verb(
        "cancel",
        _("Cancel"),
        _("The run is asked to end. It cleans up and compensates, then leaves its queue without a result.")
        if begun
        else _("The run is deleted from its queue with all that it has outstanding; it cannot clean up."),
        harms=True,
    )
    asked = [] if run.cancelling else [cancel]
    return [*([retry] if run.state == State.FAILED else []), restart, *asked]
