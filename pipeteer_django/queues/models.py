"""The tables. The abstract ones are what every pipeline's generated models are made of."""

from __future__ import annotations

from typing import Any, ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.available import AvailableAtField
from pipeteer_django.queues.fields import KeyField, PortableJSON
from pipeteer_django.queues.guards import GuardedModel
from pipeteer_django.queues.outputs import AllOutputs, UnconsumedOutputs
from pipeteer_django.queues.querysets import InputManager


class Input(GuardedModel):
    """One entry of a queue. `guards.USER_COLUMNS` are the user's, the rest the engine's."""

    pipeline: ClassVar[Pipeline[Any, Any]]

    id = models.BigAutoField(primary_key=True)
    key = KeyField(_("key"), max_length=200)
    output = KeyField(_("output"), max_length=200, default="output")
    priority = models.SmallIntegerField(
        _("priority"), default=0, validators=[MinValueValidator(-100), MaxValueValidator(100)]
    )
    available_at = AvailableAtField(_("available at"), null=True, blank=True)

    caller = models.CharField(_("caller"), max_length=63, default="", blank=True, editable=False)
    step_id = models.BigIntegerField(_("step"), null=True, editable=False)
    epoch = models.BigIntegerField(default=0, editable=False)
    reserved_by = models.CharField(_("worker"), max_length=100, default="", blank=True, editable=False)
    attempt = models.IntegerField(_("attempt"), default=0, editable=False)
    crashes = models.IntegerField(_("crashes"), default=0, editable=False)
    suspended = models.BooleanField(_("suspended"), default=False, editable=False)
    deliveries = models.BigIntegerField(default=0, editable=False)
    holder = models.CharField(max_length=100, default="", blank=True, editable=False)
    max_attempts = models.IntegerField(null=True, editable=False)
    progress = models.FloatField(_("progress"), null=True, editable=False)
    progress_text = models.CharField(_("progress text"), max_length=200, default="", blank=True, editable=False)
    branch = models.IntegerField(default=0, editable=False)
    started_at = models.DateTimeField(_("started at"), null=True, editable=False)
    error = models.TextField(_("error"), default="", blank=True, editable=False)
    failed_at = models.DateTimeField(_("failed at"), null=True, editable=False)
    created_at = models.DateTimeField(_("created at"), default=timezone.now, editable=False)

    objects: ClassVar[Any] = InputManager()

    class Meta:
        abstract = True
        indexes: ClassVar[list[Any]] = [models.Index(fields=["priority", "available_at", "id"])]

    def __str__(self) -> str:
        return str(self.key)

    @classmethod
    def check(cls, **kwargs: Any) -> list[Any]:
        """Django's, without its note that MariaDB keeps the whole of an index that is a partial one elsewhere."""
        return [message for message in super().check(**kwargs) if message.id != "models.W037"]


class Output(models.Model):
    """One result. `run_id` is the id its Input had; that it is unique is the database's own exactly-once guard."""

    pipeline: ClassVar[Pipeline[Any, Any]]

    id = models.BigAutoField(primary_key=True)
    key = KeyField(_("key"), max_length=200)
    output = KeyField(_("output"), max_length=200, default="output")
    run_id = models.BigIntegerField(_("run"), unique=True)
    attempt = models.IntegerField(_("attempt"), default=1)
    created_at = models.DateTimeField(_("created at"), default=timezone.now)
    finished_at = models.DateTimeField(_("finished at"), default=timezone.now)
    consumed_at = models.DateTimeField(_("consumed at"), null=True, blank=True)

    everything: ClassVar[Any] = AllOutputs()
    objects: ClassVar[Any] = UnconsumedOutputs()

    class Meta:
        abstract = True
        indexes: ClassVar[list[Any]] = [
            models.Index(fields=["output", "consumed_at", "id"]),
            models.Index(fields=["key", "id"]),
        ]

    def __str__(self) -> str:
        return str(self.key)


class WorkflowOutput(Output):
    """A workflow's result keeps what is needed to run it again from one of its steps."""

    param = PortableJSON(_("argument"), null=True)
    branch = models.IntegerField(_("branch"), default=0)
    started_at = models.DateTimeField(_("started at"), null=True)

    class Meta(Output.Meta):
        abstract = True


class Step(models.Model):
    """One recorded step of a workflow: what was asked of which pipeline, and what came back.

    `pipeline` may be one of `record.ENGINES`: timers, messages sent, and what is known at once are steps, too.
    """

    id = models.BigAutoField(primary_key=True)
    run_id = models.BigIntegerField(_("run"))
    branch = models.IntegerField(_("branch"), default=0)
    index = models.IntegerField(_("index"))
    pipeline = models.CharField(_("pipeline"), max_length=63)
    child_id = models.BigIntegerField(_("child"), null=True)
    param = PortableJSON(_("argument"), null=True)
    result = PortableJSON(_("result"), null=True)
    error = PortableJSON(_("error"), null=True)
    created_at = models.DateTimeField(_("created at"), default=timezone.now)
    done_at = models.DateTimeField(_("done at"), null=True)
    cancelled_at = models.DateTimeField(_("cancelled at"), null=True)
    order = models.IntegerField(_("order"), null=True)
    after = models.IntegerField(_("after"), default=0)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.pipeline} ({self.index})"


class Message(models.Model):
    """A message to a running workflow."""

    id = models.BigAutoField(primary_key=True)
    run_id = models.BigIntegerField(_("run"))
    branch = models.IntegerField(_("branch"), null=True)
    name = KeyField(_("name"), max_length=200)
    value = PortableJSON(_("value"), null=True)
    sent_at = models.DateTimeField(_("sent at"), default=timezone.now)
    order = models.IntegerField(_("order"), null=True)

    class Meta:
        abstract = True
        indexes: ClassVar[list[Any]] = [models.Index(fields=["run_id", "order", "id"])]

    def __str__(self) -> str:
        return str(self.name)
