"""Every pipeline's queue in Django's admin. See docs/admin.md."""

from pipeteer_django.admin.base import InputAdmin
from pipeteer_django.admin.forms import InputForm
from pipeteer_django.admin.own import QueueAdmin, WorkerAdmin
from pipeteer_django.admin.records import MessageAdmin, OutputAdmin, StepAdmin
from pipeteer_django.admin.registration import register_queues

__all__ = [
    "InputAdmin",
    "InputForm",
    "MessageAdmin",
    "OutputAdmin",
    "QueueAdmin",
    "StepAdmin",
    "WorkerAdmin",
    "register_queues",
]
