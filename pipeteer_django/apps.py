"""Where Django and the pipelines meet."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.utils.module_loading import autodiscover_modules, import_string
from django.utils.translation import gettext_lazy as _


class PipeteerConfig(AppConfig):
    """Finds `<app>/pipelines.py` of every installed app and generates the tables."""

    name = "pipeteer_django"
    verbose_name = _("Pipelines")
    default_auto_field = "django.db.models.BigAutoField"

    def import_models(self) -> None:
        """Import all pipelines and generate their models, while Django itself is importing models.

        `ready()` would be too late for apps whose own `ready()` runs earlier (the admin's autodiscovery among them).
        This method is not in Django's documentation, and unchanged since Django 1.7.
        """
        super().import_models()
        # Every app's models before its pipelines, whatever the order of INSTALLED_APPS: names that clash are then seen.
        autodiscover_modules("models", "pipelines")
        # By name: the module defines models, and this one is imported before Django is ready for any.
        import_string("pipeteer_django.queues.generate.generate")()
        _lend_models_modules()

    def ready(self) -> None:
        """Register the system checks and the queues' admin, begin the audit trail, tell a channel layer of changes."""
        import_module("pipeteer_django.deploychecks")  # and with them the other checks
        import_string("pipeteer_django.auditing.trail.connect_if_asked")()
        if apps.is_installed("django.contrib.admin"):
            import_module("pipeteer_django.admin.registration").register_after_discovery()
        if getattr(settings, "CHANNEL_LAYERS", None):
            import_module("pipeteer_django.live.relay").connect()


def _lend_models_modules() -> None:
    """An app with pipelines but without models.py would get no permissions: Django skips it when it makes them.

    Its pipelines module is lent as models module. An app that is imported later in the same pass would overwrite
    that with None, so its own `import_models` is told about it, too.
    """
    for config in apps.get_app_configs():
        module: Any = sys.modules.get(f"{config.name}.pipelines")
        if module is not None and not _has_models(config):
            config.import_models = _importing(config, module)  # type: ignore[method-assign]
            config.import_models()


def _has_models(config: AppConfig) -> bool:
    return find_spec(f"{config.name}.models") is not None


def _importing(config: AppConfig, module: Any) -> Any:
    def import_models() -> None:
        config.models = apps.all_models[config.label]
        config.models_module = module

    return import_models
