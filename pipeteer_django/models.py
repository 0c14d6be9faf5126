"""The two tables of pipeteer_django itself; a pipeline's tables are generated into its own app."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from pipeteer_django.queues.fields import KeyField


class Worker(models.Model):
    """A worker process that was alive at `heartbeat_at`."""

    label = KeyField(_("label"), max_length=100, unique=True)
    pipelines = models.TextField(_("pipelines"), blank=True)
    doing = models.TextField(_("doing"), blank=True)
    started_at = models.DateTimeField(_("started at"))
    heartbeat_at = models.DateTimeField(_("heartbeat at"))

    class Meta:
        verbose_name = _("worker")
        verbose_name_plural = _("workers")

    def __str__(self) -> str:
        return str(self.label)


class Queue(models.Model):
    """What can be changed about a pipeline's queue while workers run."""

    pipeline = models.CharField(_("pipeline"), max_length=63, unique=True)
    held = models.BooleanField(_("held"), default=False, help_text=_("Workers claim nothing while this is set."))

    class Meta:
        verbose_name = _("queue")
        verbose_name_plural = _("queues")

    def __str__(self) -> str:
        return self.pipeline
