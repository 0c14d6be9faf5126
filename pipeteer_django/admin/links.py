"""Where the pages of a pipeline's entries are, for who may go there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.exceptions import NotRegistered
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse

from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.claim import plain


def admin_of(site: Any, model: Any) -> Any:
    """The ModelAdmin that a site has for a model, or None."""
    try:
        return site.get_model_admin(model)
    except NotRegistered:
        return None


def may_see(site: Any, request: HttpRequest, pipeline: Pipeline[Any, Any]) -> bool:
    """Whether this user may look at the entries of a pipeline; nobody may where they are in no admin."""
    model_admin = admin_of(site, pipeline.Input)
    return model_admin is not None and bool(model_admin.has_view_permission(request))


def page_of(site: Any, model: Any, page: str, *args: Any) -> str | None:
    """The address of a model's page in this site, or None where the site has no such page."""
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}"
    try:
        return reverse(name, args=args, current_app=site.name) if site.is_registered(model) else None
    except NoReverseMatch:
        return None


def run_of(site: Any, workflow: str, run_id: int, step: int | None = None) -> str | None:
    """The page of a workflow's run, at one of its steps."""
    pipeline = registry.get(workflow)
    found = page_of(site, pipeline.Input, "run", run_id) if pipeline is not None else None
    if found is None or step is None:
        return found
    return f"{found}?{urlencode({'step': step})}#step-{step}"


def askers(entries: Sequence[Any], using: str) -> dict[tuple[str, int], tuple[int, int]]:
    """Which step of which run waits for an entry: (run, step's number) by (workflow, step's id)."""
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for caller in {entry.caller for entry in entries if entry.caller}:
        workflow: Pipeline[Any, Any] | None = registry.get(caller)
        if workflow is None or workflow.kind != "workflow":
            continue
        ids = [entry.step_id for entry in entries if entry.caller == caller]
        steps: QuerySet[Any] = plain(workflow.models["Step"], using).filter(pk__in=ids)
        found |= {(caller, id): (run_id, index) for id, run_id, index in steps.values_list("id", "run_id", "index")}
    return found
