"""Every queue is in the admin by itself, after the users' own admin modules: what they registered stays theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.contrib.admin.apps import AdminConfig
from django.core.exceptions import ImproperlyConfigured

from pipeteer_django.admin.base import InputAdmin
from pipeteer_django.admin.own import QueueAdmin, WorkerAdmin
from pipeteer_django.admin.records import MessageAdmin, OutputAdmin, StepAdmin
from pipeteer_django.conf import settings
from pipeteer_django.models import Queue, Worker
from pipeteer_django.pipelines.registry import registry

ADMINS: dict[str, type[admin.ModelAdmin[Any]]] = {
    "Input": InputAdmin,
    "Output": OutputAdmin,
    "Step": StepAdmin,
    "Message": MessageAdmin,
}


def register_queues(site: admin.AdminSite | None = None) -> None:
    """Register all tables of all pipelines, and Worker and Queue, that the site (the default one) does not have yet."""
    site = site or admin.site
    for model, model_admin in _all():
        if not site.is_registered(model):
            site.register(model, model_admin)


def _all() -> Iterator[tuple[Any, Any]]:
    yield Worker, WorkerAdmin
    yield Queue, QueueAdmin
    for pipeline in registry:
        if pipeline.attached:
            for role, model in pipeline.models.items():
                yield model, ADMINS[role]


def register_after_discovery() -> None:
    """Called when this app is ready: register once the admin has imported all `admin.py`.

    That is now, or, if the admin stands after this app in INSTALLED_APPS, when it is ready itself. A project that does
    not let the admin discover (SimpleAdminConfig) calls `register_queues` where it registers everything else.
    """
    configs = list(apps.get_app_configs())
    of_admin: Any = next(config for config in configs if config.name == "django.contrib.admin")
    if not isinstance(of_admin, AdminConfig) or not _wanted():
        return
    mine = next(config for config in configs if config.name == "pipeteer_django")
    if configs.index(of_admin) < configs.index(mine):
        register_queues()
    else:
        of_admin.ready = _then_register(of_admin.ready)  # type: ignore[method-assign]


def _then_register(ready: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        ready()
        register_queues()

    return both


def _wanted() -> bool:
    try:
        return settings().ADMIN
    except ImproperlyConfigured:
        return False  # the system check says what is wrong
