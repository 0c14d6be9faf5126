"""Every pipeline gets its models here, in one visible pass while Django loads models.

The models carry the function's `__module__`, so they belong to the user's app: `makemigrations shop` writes them into
`shop/migrations`. (django-simple-history generates its models in the same way.)
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from typing import Any, Literal

from django.apps import apps
from django.db import models
from django.db.models.signals import post_save, pre_save

from pipeteer_django.exceptions import DefinitionError
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import place, registry
from pipeteer_django.queues.copies import keep_run_id
from pipeteer_django.queues.fields import field_for
from pipeteer_django.queues.guards import announce, keep_fence
from pipeteer_django.queues.models import Input, Message, Output, Step, WorkflowOutput


def generate() -> None:
    """Make and attach the models of all pipelines that have none, then close the registry."""
    for pipeline in registry:
        if not pipeline.attached:
            made = _models(pipeline)
            pipeline.attach(**made)
            _put_into_module(made.values())
    registry.seal()


def _put_into_module(made: Iterable[type[models.Model]]) -> None:
    """Where a class says it lives, people, pickle and Django's shell look for it."""
    for model in made:
        vars(sys.modules[model.__module__]).setdefault(model.__name__, model)


def _models(pipeline: Pipeline[Any, Any]) -> dict[str, Any]:
    made = {
        "Input": _model(pipeline, Input, unique=("key",), pipeline=pipeline, value=_value(pipeline, "input")),
    }
    output = WorkflowOutput if pipeline.kind == "workflow" else Output
    made["Output"] = _model(pipeline, output, pipeline=pipeline, value=_value(pipeline, "output"))
    if pipeline.kind == "workflow":
        made["Step"] = _model(pipeline, Step, unique=("run_id", "branch", "index"))
        made["Message"] = _model(pipeline, Message)
    pre_save.connect(keep_fence, sender=made["Input"], dispatch_uid=f"pipeteer_django.{pipeline.id}")
    post_save.connect(announce, sender=made["Input"], dispatch_uid=f"pipeteer_django.{pipeline.id}")
    for role in made.keys() - {"Input"}:
        post_save.connect(keep_run_id, sender=made[role], dispatch_uid=f"pipeteer_django.{pipeline.id}")
    return made


def _value(pipeline: Pipeline[Any, Any], role: Literal["input", "output"]) -> models.Field[Any, Any]:
    return field_for(getattr(pipeline, role), pipeline_id=pipeline.id, role=role)


def _model(
    of: Pipeline[Any, Any], base: type[models.Model], unique: tuple[str, ...] = (), **attributes: Any
) -> type[models.Model]:
    name = f"{_camel(of.id)}{_role(base)}"
    label = _app_label(of)
    if name.lower() in apps.all_models[label]:
        raise DefinitionError(
            f"{place(of.function)}: its model would be called {name}, which the app {label!r} already has. "
            f"Give the pipeline another id: @pipeteer.{of.kind}(id=...). (pipeteer.E006)"
        )
    # Not a subclass of base.Meta: Django would write its `abstract` into the migrations.
    meta = type("Meta", (), {"app_label": label} | _names(of, base) | _keys(of, base, name, unique))
    return type(name, (base,), {"__module__": of.function.__module__, "Meta": meta, **attributes})


def _names(pipeline: Pipeline[Any, Any], base: type[models.Model]) -> dict[str, str]:
    readable = pipeline.id.replace("_", " ")
    role = _role(base).lower()
    return {"verbose_name": f"{readable} {role}", "verbose_name_plural": f"{readable} {role}s"}


def _keys(
    pipeline: Pipeline[Any, Any], base: type[models.Model], name: str, unique: tuple[str, ...]
) -> dict[str, list[Any]]:
    """Indexes and constraints, their names short enough for every database and the same for every app label."""
    digest = hashlib.sha256(f"{pipeline.id} {name}".encode()).hexdigest()[:8]
    keys: dict[str, list[Any]] = {"indexes": list(base._meta.indexes)}
    if base is Input:
        called = models.Q(step_id__isnull=False)
        keys["indexes"].append(
            models.Index(fields=["step_id"], condition=called, name=f"{name[:16].lower()}_step_{digest}")
        )
    if unique:
        keys["constraints"] = [models.UniqueConstraint(fields=unique, name=f"{name[:20].lower()}_{digest}")]
    return keys


def _role(base: type[models.Model]) -> str:
    return base.__name__.removeprefix("Workflow")


def _camel(id: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in id.split("_"))


def _app_label(pipeline: Pipeline[Any, Any]) -> str:
    config = apps.get_containing_app_config(pipeline.function.__module__)
    if config is None:
        raise DefinitionError(
            f"{place(pipeline.function)} is in no installed app, so its tables would belong nowhere. "
            "Add the app to INSTALLED_APPS, or move the function into one that is."
        )
    return config.label
